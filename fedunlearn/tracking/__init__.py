"""Other tools that may follow a run while it plays: ``--track NAME``. Off unless asked for.

A tool is one module of this package, named after it, with

- ``LIBRARY``: the module that it cannot do without, imported when it is asked for and not before;
- ``INSTALL``: the command that brings it;
- ``tracker(run, config)``: a ``Tracker``; ``run`` is its folder, ``config`` its settings as TOML.

Nothing else has to be changed for another one (wandb, mlflow). What it says of the run comes from
metrics.jsonl and results.json, which stay the record.
"""

import json
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from fedunlearn.errors import BadInput
from fedunlearn.run_folder import RunFolder

TRACKERS: dict[str, str] = {
    module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)
}
"""Name -> the module that has it; code outside of the package may add its own."""


class Tracker(Protocol):
    """Follows one run. It may fail: the run goes on without it."""

    def round(self, row: Mapping[str, Any]) -> None:
        """A round is over.

        Of a run that is taken up (``--resume``), all earlier rounds are told again, in order, first.

        Args:
            row: as in metrics.jsonl; values may be None.
        """
        ...

    def finished(self, results: Mapping[str, Any]) -> None:
        """The run has ended: as in results.json, which after a failure lacks most."""
        ...

    def close(self) -> None:
        """Nothing more will come; what was told is kept when this returns."""
        ...


class Follower:
    """Tells a tracker of a run until it fails, which is said once and hurts nobody.

    Args:
        name: one of ``TRACKERS``; None = nobody follows.
        warn: says one line to the user.
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
        run.on_metrics = self.round

    def round(self, row: Mapping[str, Any]) -> None:
        """As ``Tracker.round``."""
        if self._tracker is not None:
            tracker = self._tracker
            self._try(lambda: tracker.round(row))

    def finished(self, results: Mapping[str, Any]) -> None:
        """As ``Tracker.finished``, then ``Tracker.close``."""
        if self._tracker is not None:
            tracker = self._tracker
            self._try(lambda: tracker.finished(results))
            self._try(tracker.close)
            self._tracker = None

    def _try(self, told: Callable[[], None]) -> None:
        try:
            told()
        except Exception as error:  # whatever a foreign library may raise
            if self._name is not None:
                self._warn(f"--track {self._name}: failed, the run goes on without it ({_said(error)})")
            self._name = self._tracker = None


def check_tracker(name: str) -> None:
    """See that a run can be followed, before anything heavy starts.

    Raises:
        BadInput: nobody has that name, or what it needs is not installed.
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
