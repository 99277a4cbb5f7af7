"""The federation: one ClientApp, one ServerApp, and the engines that run them.

Flower's and Ray's usage reports are switched off here, before either is imported (DESIGN, promise 6).
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
