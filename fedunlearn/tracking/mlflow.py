"""MLflow: a run's curves in RUN/mlflow, or on the server that MLFLOW_TRACKING_URI names.

``mlflow ui --backend-store-uri sqlite:///RUN/mlflow/mlflow.db`` shows them. Nothing is sent unless you name a
server. Names of metrics begin with the model, as in ``global/rounds/test_uar``; settings are parameters.

When a run is resumed, it is written anew from its metrics.jsonl, and what RUN/mlflow had of it is marked as
deleted; on a server it becomes a new run.
"""

import os
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedunlearn.dotted import dotted_values
from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import Curves, Point, describe_end

LIBRARY = "mlflow"
INSTALL = 'pip install -e ".[mlflow]"   (or: pip install mlflow)'
AT_ONCE = 100
"""Parameters that MLflow takes at a time."""
LONGEST = 500
"""Characters of a parameter's value that every store takes."""

# Read when mlflow is imported, which happens after this module is: it would report its use to its makers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def tracker(run: RunFolder, config: str) -> "MlflowTracker":
    """Return a tracker that writes to RUN/mlflow, or to the server that the environment names.

    Args:
        run: the run folder.
        config: the settings, as TOML.

    Raises:
        OSError: the folder cannot be written.
    """
    return MlflowTracker(run, config)


class MlflowTracker:
    """Records a run with MLflow; implements ``fedunlearn.tracking.Tracker``.

    Args:
        run: the run folder.
        config: the settings, as TOML.
    """

    def __init__(self, run: RunFolder, config: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._curves, self._failed = Metric, Curves(), True
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(given or _own_store(run.path / "mlflow"))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fedunlearn"
        found = self._client.get_experiment_by_name(name)
        artifacts = None if given else (run.path / "mlflow" / "artifacts").resolve().as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        for earlier in () if given else self._client.search_runs([experiment]):
            self._client.delete_run(earlier.info.run_id)
        made = self._client.create_run(experiment, run_name=run.path.resolve().name)
        self._id = made.info.run_id
        settings = [(key, str(value)[:LONGEST]) for key, value in dotted_values(tomllib.loads(config))]
        for start in range(0, len(settings), AT_ONCE):
            batch = [Param(key, value) for key, value in settings[start : start + AT_ONCE]]
            self._client.log_batch(self._id, params=batch)

    def round(self, row: Mapping[str, Any]) -> None:
        """Add one point to each curve of the row's model."""
        self._add(self._curves.of_round(row))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Add measures and gaps at the step of the last round, and how the run ended."""
        self._add(self._curves.of_results(results))
        self._client.set_tag(self._id, "status", describe_end(results))
        self._failed = results["status"] != "complete"

    def close(self) -> None:
        """Close the run in MLflow."""
        self._client.set_terminated(self._id, "FAILED" if self._failed else "FINISHED")

    def _add(self, points: Sequence[Point]) -> None:
        now = int(time.time() * 1000)  # ms
        metrics = [self._metric(f"{p.model}/{p.name}", p.value, now, p.step) for p in points]
        for start in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + AT_ONCE])


def _own_store(folder: Path) -> str:
    """Make the folder; gives the address of the database in it."""
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{(folder / 'mlflow.db').resolve()}"
