"""TensorBoard: ``tensorboard --logdir RUN/tensorboard`` shows a run's curves while it is in progress.

Each model is one of TensorBoard's "runs", so that their curves are drawn over each other: ``global`` is
the global model; ``retraining-1``, ... are the models trained from scratch beside it, in that order (a model
found in the cache has no rounds); ``original`` is the model as if no deletion had been requested. Scalars are
those of metrics.jsonl, by round; the measures of the four models and their gaps follow at the end.

When a run is resumed the event files are rewritten from its metrics.jsonl, so that no step appears twice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedunlearn.results_schema import CONTROLS
from fedunlearn.run_folder import RunFolder

LIBRARY = "torch.utils.tensorboard"
INSTALL = 'pip install -e ".[tracking]"   (or: pip install tensorboard)'

_MODELS = ("original", "unlearned", "recovered", "retrained")
_OF_GAP = {name: control.model for name, control in CONTROLS.items()} | {"noise_floor": "noise-floor"}
"""Key of a gap in results.json -> its model, where the names differ."""


def tracker(run: RunFolder, config: str) -> "TensorBoard":
    """Return a tracker that writes to RUN/tensorboard.

    Args:
        run: the run folder.
        config: the settings, as TOML.

    Raises:
        OSError: the folder cannot be written.
    """
    return TensorBoard(run.path / "tensorboard", config)


class TensorBoard:
    """Writes event files; implements ``fedunlearn.tracking.Tracker``.

    Args:
        folder: where the event files go; older ones in it are removed.
        config: the settings, as TOML.
    """

    def __init__(self, folder: Path, config: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("*/events.out.tfevents.*"):
            if not old.parent.is_symlink():
                old.unlink()
        self._folder, self._open = folder, SummaryWriter
        self._writers: dict[str, Any] = {}
        self._trainings = self._last_round = 0
        self._text("settings", config)

    def round(self, row: Mapping[str, Any]) -> None:
        """Add one point to each curve of the row's model."""
        step, model = int(row["round"]), self._model(row)
        values = {k: v for k, v in row.items() if k != "round"} | {"requests": len(row["requests"])}
        self._scalars(model, "rounds", values, step)
        self._writers[model].flush()

    def finished(self, results: Mapping[str, Any]) -> None:
        """Add measures and gaps at the step of the last round, and how the run ended."""
        step = max((int(row["round"]) for row in results.get("timeline") or ()), default=0)
        for name in _MODELS:
            self._scalars(name, "models", (results.get("models") or {}).get(name) or {}, step)
        for name, gap in (results.get("gap") or {}).items():
            if isinstance(gap, Mapping):
                self._scalars(_OF_GAP.get(name, name), "gap", gap, step)
        failure = results.get("failure")
        self._text("status", f"{results['status']}: {failure}" if failure else str(results["status"]))

    def close(self) -> None:
        """Flush and close all files."""
        for writer in self._writers.values():
            writer.close()

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

    def _scalars(self, model: str, group: str, values: Mapping[str, Any], step: int) -> None:
        for name, value in _numbers(values):
            self._writer(model).add_scalar(f"{group}/{name}", value, step)

    def _text(self, title: str, text: str) -> None:
        # Markdown: indented text is shown as it stands.
        self._writer("global").add_text(title, "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def _writer(self, model: str) -> Any:
        if model not in self._writers:
            self._writers[model] = self._open(str(self._folder / model))
        return self._writers[model]


def _numbers(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers in nested mappings, "test_uar" for test.uar, without counts of utterances."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}_")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "n":
            yield f"{before}{key}", float(value)
