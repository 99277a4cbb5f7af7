"""Weights & Biases: a run's curves in RUN/wandb, offline unless you say otherwise.

Nothing is sent: ``wandb sync RUN/wandb/offline-run-...`` uploads it when you want. With WANDB_MODE=online
in the environment, wandb sends it while it goes on, to the account that you are logged in to. Names of curves
begin with the model, as in ``global/rounds/test_uar``; each model has its own axis of rounds.

When a run is resumed offline, the files are rewritten from its metrics.jsonl, so that no step appears twice.
"""

import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import Curves, Point, describe_end

LIBRARY = "wandb"
INSTALL = 'pip install -e ".[wandb]"   (or: pip install wandb)'

# Read when wandb is imported, which is after this module: it would report its own errors to its makers.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def tracker(run: RunFolder, config: str) -> "WandbTracker":
    """Return a tracker that writes to RUN/wandb.

    Args:
        run: the run folder.
        config: the settings, as TOML.
    """
    return WandbTracker(run, config)


class WandbTracker:
    """Records a run with wandb; implements ``fedunlearn.tracking.Tracker``.

    Args:
        run: the run folder.
        config: the settings, as TOML.
    """

    def __init__(self, run: RunFolder, config: str) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or "offline"
        folder = run.path / "wandb"
        if mode == "offline" and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        self._curves, self._axes = Curves(), set[str]()
        self._failed = True
        # Its process writes the last lines when it ends.
        self._end_service = wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "fedunlearn",
            name=run.path.resolve().name,
            dir=str(run.path),
            mode=mode,
            config=tomllib.loads(config),
            # No code, no state of a repository, no output and no measurements of this machine.
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )

    def round(self, row: Mapping[str, Any]) -> None:
        """Add one point to each curve of the row's model."""
        self._add(self._curves.of_round(row))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Add measures and gaps at the step of the last round, and how the run ended."""
        self._add(self._curves.of_results(results))
        self._run.summary["status"] = describe_end(results)
        self._failed = results["status"] != "complete"

    def close(self) -> None:
        """Write everything down, or send it where it is online."""
        self._run.finish(exit_code=int(self._failed))
        self._end_service()

    def _add(self, points: Iterable[Point]) -> None:
        for model, of_model in groupby(sorted(points), key=lambda point: point.model):
            if model not in self._axes:
                self._axes.add(model)
                self._run.define_metric(f"{model}/round")
                self._run.define_metric(f"{model}/*", step_metric=f"{model}/round")
            values = list(of_model)
            self._run.log({f"{model}/round": values[0].step} | {f"{model}/{p.name}": p.value for p in values})
