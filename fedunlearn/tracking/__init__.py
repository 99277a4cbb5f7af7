"""Tracking a run in another tool while it is in progress: ``--track NAME``. Off by default.

A tool is one module of this package, named after it, with

- ``LIBRARY``: the module that it needs, imported only when the tool is selected;
- ``INSTALL``: the command that installs it;
- ``tracker(run, config)``: returns a ``Tracker``; ``run`` is the run folder, ``config`` its settings as TOML.

Nothing else has to be changed to add a tool (wandb, mlflow). What it shows comes from metrics.jsonl and
results.json, which remain the record.
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
"""Name of a tool -> its module. Code outside the package may add its own."""


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
