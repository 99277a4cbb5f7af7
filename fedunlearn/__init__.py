"""fedunlearn: federated, on-device unlearning for speech emotion recognition.

The names of ``__all__`` are the public interface, ``import fedunlearn as fu``; everything else may move
between versions. They are imported when they are first used, so that ``import fedunlearn`` costs little.

>>> import fedunlearn as fu
>>> results = fu.run(fu.load_config("synthetic", clients=8), out="runs/first")  # doctest: +SKIP
>>> results.to_frame()  # doctest: +SKIP

Flower's and Ray's usage reports are switched off here, before either is imported.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.api import compare, load_config, run
    from fedunlearn.audio import SAMPLE_RATE
    from fedunlearn.config import Config
    from fedunlearn.config.descent import DescentSettings
    from fedunlearn.config.fields import Settings
    from fedunlearn.corpora.plugin import corpus, recording
    from fedunlearn.corpora.utterance import Utterance
    from fedunlearn.errors import BadInput, RunFailed
    from fedunlearn.examples import Examples, ForgetSet
    from fedunlearn.messages.update import Update
    from fedunlearn.models.contract import EmotionModel, MelModel, Standardise
    from fedunlearn.models.plugin import model
    from fedunlearn.report.plots import plot, plot_comparison, plot_names
    from fedunlearn.results_schema import Results, load_results
    from fedunlearn.server.aggregation import AggregationContext
    from fedunlearn.server.plugin import aggregation
    from fedunlearn.study.compare import Comparison
    from fedunlearn.study.grid import Variant
    from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed, UnlearnResult
    from fedunlearn.unlearning.descent import cross_entropy_to, descend
    from fedunlearn.unlearning.plugin import method

__version__ = "0.1.0"

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

__all__ = [
    "SAMPLE_RATE",
    "AggregationContext",
    "BadInput",
    "Comparison",
    "Config",
    "DescentSettings",
    "EmotionModel",
    "Examples",
    "ForgetSet",
    "MelModel",
    "Results",
    "RunFailed",
    "ServerScalars",
    "Settings",
    "Standardise",
    "UnlearnFailed",
    "UnlearnResult",
    "Update",
    "Utterance",
    "Variant",
    "aggregation",
    "compare",
    "corpus",
    "cross_entropy_to",
    "descend",
    "load_config",
    "load_results",
    "method",
    "model",
    "plot",
    "plot_comparison",
    "plot_names",
    "recording",
    "run",
]

_HOMES = {
    "api": ("compare", "load_config", "run"),
    "audio": ("SAMPLE_RATE",),
    "config": ("Config",),
    "config.fields": ("Settings",),
    "config.descent": ("DescentSettings",),
    "corpora.plugin": ("corpus", "recording"),
    "corpora.utterance": ("Utterance",),
    "errors": ("BadInput", "RunFailed"),
    "examples": ("Examples", "ForgetSet"),
    "messages.update": ("Update",),
    "models.contract": ("EmotionModel", "MelModel", "Standardise"),
    "models.plugin": ("model",),
    "report.plots": ("plot", "plot_comparison", "plot_names"),
    "results_schema": ("Results", "load_results"),
    "server.aggregation": ("AggregationContext",),
    "server.plugin": ("aggregation",),
    "study.compare": ("Comparison",),
    "study.grid": ("Variant",),
    "unlearning.contract": ("ServerScalars", "UnlearnFailed", "UnlearnResult"),
    "unlearning.descent": ("cross_entropy_to", "descend"),
    "unlearning.plugin": ("method",),
}
"""Module -> the public names that it defines."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"fedunlearn.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
