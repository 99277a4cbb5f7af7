"""TensorBoard: ``tensorboard --logdir RUN/tensorboard`` shows a run's curves while it is in progress.

Each model is one of TensorBoard's "runs", so that their curves are drawn over each other: ``global`` is
the global model; ``retraining-1``, ... are the models trained from scratch beside it, in that order (a model
found in the cache has no rounds); ``original`` is the model as if no deletion had been requested. Scalars are
those of metrics.jsonl, by round; the measures of the four models and their gaps follow at the end.

When a run is resumed the event files are rewritten from its metrics.jsonl, so that no step appears twice.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import Curves, Point, describe_end

LIBRARY = "torch.utils.tensorboard"
INSTALL = 'pip install -e ".[tracking]"   (or: pip install tensorboard)'


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
        self._curves = Curves()
        self._text("settings", config)

    def round(self, row: Mapping[str, Any]) -> None:
        """Add one point to each curve of the row's model."""
        points = self._curves.of_round(row)
        self._scalars(points)
        for model in {point.model for point in points}:
            self._writers[model].flush()

    def finished(self, results: Mapping[str, Any]) -> None:
        """Add measures and gaps at the step of the last round, and how the run ended."""
        self._scalars(self._curves.of_results(results))
        self._text("status", describe_end(results))

    def close(self) -> None:
        """Flush and close all files."""
        for writer in self._writers.values():
            writer.close()

    def _scalars(self, points: Iterable[Point]) -> None:
        for point in points:
            self._writer(point.model).add_scalar(point.name, point.value, point.step)

    def _text(self, title: str, text: str) -> None:
        # Markdown: indented text is shown as it stands.
        self._writer("global").add_text(title, "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def _writer(self, model: str) -> Any:
        if model not in self._writers:
            self._writers[model] = self._open(str(self._folder / model))
        return self._writers[model]
