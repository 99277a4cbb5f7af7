"""Cells in several processes at a time, none of which trains what another is training.

All cells of a seed share its original, and all cells of a seed and a deletion its retrained models and what
shadow federations learn before they unlearn. So one cell of each begins alone, and the others once it has
left them among the references.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedunlearn.errors import RunFailed
from fedunlearn.experiment.process_pool import make_all
from fedunlearn.study.grid import StudyCell
from fedunlearn.study.runner import StudyRunner, remove_abandoned
from fedunlearn.unlearning import METHODS

_DIED = (
    "a process that ran a cell died (killed, or out of memory); finished cells are kept; fewer at a time: "
    "--workers 1"
)


@dataclass(frozen=True)
class CellOutcome:
    """How a cell ended.

    Attributes:
        failure: why its run failed; None where it is finished.
        warnings: about the corpus, each once a process.
    """

    failure: str | None
    warnings: tuple[str, ...] = ()


class SharedWork:
    """Which cells may begin while others are running.

    Args:
        finished: cells that are finished already.
    """

    def __init__(self, finished: Sequence[StudyCell]) -> None:
        self._trained: set[tuple[int, ...]] = set()
        for cell in finished:
            self.note_end(cell)

    def note_end(self, cell: StudyCell) -> None:
        """Note that a cell has ended: what it shares with others is trained."""
        self._trained |= set(_shared(cell))

    def choose(self, waiting: Sequence[StudyCell], running: Sequence[StudyCell]) -> int | None:
        """Return the first cell that would not train what a running one is training.

        Args:
            waiting: cells that have not begun.
            running: cells that have.

        Returns:
            its place in ``waiting``; None where all must wait.
        """
        busy = {key for cell in running for key in _shared(cell)} - self._trained
        found = (place for place, cell in enumerate(waiting) if not busy & set(_shared(cell)))
        return next(found, None)


def _shared(cell: StudyCell) -> tuple[tuple[int, ...], ...]:
    """The original that a cell trains or finds, its retrained models, and its shadow federations."""
    original = cell.fold, cell.seed
    retrained = *original, cell.size, cell.requesters
    settings = cell.experiment
    if not settings.evaluation.shadows or settings.unlearning.method not in METHODS:
        return original, retrained
    # What the server keeps of learning depends on the aggregation, when a request is served on the window.
    return original, retrained, (*retrained, cell.window, settings.unlearning.reads_last_steps)


def play_cells(
    out: Path,
    cells: Sequence[StudyCell],
    finished: Sequence[StudyCell],
    workers: int,
    begins: Callable[[StudyCell], None],
) -> Iterator[tuple[StudyCell, CellOutcome]]:
    """Run cells in processes of their own; yields each when it has ended.

    Args:
        out: folder of the study.
        cells: to be run, in this order where they may.
        finished: others of the study that are finished.
        workers: processes, >= 2.
        begins: called with a cell when it begins.

    Raises:
        BadInput: a recording cannot be read.
        RunFailed: a process died.
    """
    shared = SharedWork(finished)

    def choose(waiting: Sequence[StudyCell], running: Sequence[StudyCell]) -> int | None:
        place = shared.choose(waiting, running)
        if place is not None:
            begins(waiting[place])
        return place

    try:
        with closing(make_all(_play, out, cells, workers, lambda: None, choose, _DIED)) as ended:
            for cell, outcome in ended:
                shared.note_end(cell)
                yield cell, outcome
    finally:
        remove_abandoned(out)  # a worker keeps its vaults for its next cell


@cache
def _runner_of_process(out: Path) -> tuple[StudyRunner, list[str]]:
    """The one runner of this process, which keeps the decoded corpus; and the warnings about it."""
    warnings: list[str] = []
    return StudyRunner(out, warn=warnings.append), warnings


def _play(out: Path, cell: StudyCell) -> CellOutcome:
    runner, warnings = _runner_of_process(out)
    try:
        runner.play(cell)
    except RunFailed as error:
        return CellOutcome(str(error), tuple(warnings))
    return CellOutcome(None, tuple(warnings))
