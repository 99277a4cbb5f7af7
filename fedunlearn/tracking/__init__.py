"""Tracking a run in another tool while it is in progress: ``--track NAME``. Off by default.

A tool is one module of this package, named after it, with

- ``LIBRARY``: the module that it needs, imported only when the tool is selected;
- ``INSTALL``: the command that installs it;
- ``tracker(run, config)``: returns a ``Tracker``; ``run`` is the run folder, ``config`` its settings as TOML.

Nothing else has to be changed to add a tool. What it shows comes from metrics.jsonl and results.json, which
remain the record; ``Curves`` makes named points of them.
"""

import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from fedunlearn.errors import BadInput
from fedunlearn.results_schema import CONTROLS
from fedunlearn.run_folder import RunFolder

TRACKERS: dict[str, str] = {
    module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)
}
"""Name of a tool -> its module. Code outside the package may add its own."""


_MODELS = ("original", "unlearned", "recovered", "retrained")
_OF_GAP = {name: control.model for name, control in CONTROLS.items()} | {"noise_floor": "noise-floor"}
"""Key of a gap in results.json -> its model, where the names differ."""


class Tracker(Protocol):
    """Tracks one run. If it fails, the run continues without it."""

    def round(self, row: Mapping[str, Any]) -> None:
        """Record a round that has ended.

        In a resumed run (``--resume``) all earlier rounds are passed again first, in order.

        Args:
            row: the round's row of metrics.jsonl; values may be None.
        """
        ...

    def finished(self, results: Mapping[str, Any]) -> None:
        """Record the end of the run.

        Args:
            results: the content of results.json, most of which is absent after a failure.
        """
        ...

    def close(self) -> None:
        """Finish. Everything recorded has been written when this returns."""
        ...


class Point(NamedTuple):
    """One point of a curve.

    Attributes:
        model: that it is of: global, original, retraining-1, ...
        name: of the curve, such as rounds/test_uar.
        step: the round.
        value: finite.
    """

    model: str
    name: str
    step: int
    value: float


class Curves:
    """Names the points of a run's curves. Rows are passed in order, from the first."""

    def __init__(self) -> None:
        self._trainings = self._last_round = 0

    def of_round(self, row: Mapping[str, Any]) -> list[Point]:
        """Return one point for each number of a round.

        Args:
            row: of metrics.jsonl.
        """
        model, step = self._model(row), int(row["round"])
        values = {k: v for k, v in row.items() if k != "round"} | {"requests": len(row["requests"])}
        return [Point(model, f"rounds/{name}", step, value) for name, value in _numbers(values)]

    def of_results(self, results: Mapping[str, Any]) -> list[Point]:
        """Return the measures and gaps of the final models, at the last round.

        Args:
            results: the content of results.json, most of which is absent after a failure.
        """
        step = max((int(row["round"]) for row in results.get("timeline") or ()), default=0)
        parts = [("models", name, (results.get("models") or {}).get(name) or {}) for name in _MODELS]
        gaps = (results.get("gap") or {}).items()
        parts += [("gap", _OF_GAP.get(name, name), gap) for name, gap in gaps if isinstance(gap, Mapping)]
        return [
            Point(model, f"{group}/{name}", step, value)
            for group, model, values in parts
            for name, value in _numbers(values)
        ]

    def _model(self, row: Mapping[str, Any]) -> str:
        """Name the model of a row. Rows of retraining do not: a new model starts where rounds start again."""
        if row["phase"] == "counterfactual":
            return "original"
        if row["phase"] != "retrain":
            return "global"
        if row["round"] <= self._last_round or not self._trainings:
            self._trainings += 1
        self._last_round = row["round"]
        return f"retraining-{self._trainings}"


def describe_end(results: Mapping[str, Any]) -> str:
    """Say in one line how a run ended.

    Args:
        results: the content of results.json.
    """
    failure = results.get("failure")
    return f"{results['status']}: {failure}" if failure else str(results["status"])


def _numbers(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers in nested mappings, "test_uar" for test.uar, without counts of utterances."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}_")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "n":
            yield f"{before}{key}", float(value)


class Follower:
    """Passes a run on to a tracker until that fails, which gives one warning and does not affect the run.

    Args:
        name: one of ``TRACKERS``; None = no tracking.
        run: the run folder.
        warn: shows one line to the user.
    """

    def __init__(self, name: str | None, run: RunFolder, warn: Callable[[str], None]) -> None:
        self._name, self._warn = name, warn
        self._tracker: Tracker | None = None
        if name is None:
            return

        def begin() -> None:
            module = _module(name)
            self._tracker = module.tracker(run, run.config.read_text(encoding="utf-8"))
            if run.metrics.exists():
                for line in run.metrics.read_text(encoding="utf-8").splitlines():
                    self._tracker.round(json.loads(line))

        self._try(begin)
        run.followers.append(self.round)

    def round(self, row: Mapping[str, Any]) -> None:
        """Record a round, see ``Tracker.round``."""
        if self._tracker is not None:
            tracker = self._tracker
            self._try(lambda: tracker.round(row))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Record the end of the run and close, see ``Tracker.finished`` and ``Tracker.close``."""
        if self._tracker is not None:
            tracker = self._tracker
            self._try(lambda: tracker.finished(results))
            self._try(tracker.close)
            self._tracker = None

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a foreign library may raise
            if self._name is not None:
                self._warn(f"--track {self._name}: failed, the run goes on without it ({_said(error)})")
            self._name = self._tracker = None


def check_tracker(name: str) -> None:
    """Check that a run can be tracked, before any work starts.

    Args:
        name: one of ``TRACKERS``.

    Raises:
        BadInput: there is no such tool, or its library is not installed.
    """
    if name not in TRACKERS:
        raise BadInput(f"--track {name}: unknown; there is {', '.join(sorted(TRACKERS))}")
    module = _module(name)
    try:
        import_module(module.LIBRARY)
    except ImportError as error:
        raise BadInput(f"--track {name}: {_said(error)}; run: {module.INSTALL}") from error


def _module(name: str) -> ModuleType:
    return import_module(TRACKERS[name])


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
