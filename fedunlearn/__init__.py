"""fedunlearn: federated, on-device unlearning for speech emotion recognition.

Flower's and Ray's usage reports are switched off here, before either is imported.
"""

import os

__version__ = "0.1.0"

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
