"""What a person sees while a run goes on: live bars on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fedunlearn.console import plain
from fedunlearn.evaluation.judge import CurvePoint


class RunPhase(StrEnum):
    """The parts of a run, as times in results.json name them."""

    MEET = "meet"
    LEARN = "learn"
    UNLEARN = "unlearn and recover"
    RETRAIN = "retrain"
    SHADOWS = "shadows"
    JUDGE = "judge"
    SEARCH = "search"


_TITLES = {
    RunPhase.MEET: "Meeting the devices",
    RunPhase.LEARN: "Learning",
    RunPhase.UNLEARN: "Unlearning and recovering",
    RunPhase.RETRAIN: "Retraining without the forgotten",
    RunPhase.SHADOWS: "Training shadow federations",
    RunPhase.JUDGE: "Judging",
    RunPhase.SEARCH: "Searching for what was deleted",
}


class Progress:
    """Bars for the phases of one run, on standard error."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._current: TaskID | None = None

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar; gives a function that advances it by one step.

        Args:
            name: shown beside it.
            total: steps.
        """
        bar = self._bars.add_task(name, total=total, note="")
        yield lambda: self._bars.advance(bar)

    @contextmanager
    def phase(self, phase: RunPhase, rounds: int | None) -> Iterator[None]:
        """Show a bar for a phase of the run.

        Args:
            phase: of the run.
            rounds: how many it has; None = unknown.
        """
        bar = self._current = self._bars.add_task(_TITLES[phase], total=rounds, note="")
        yield
        task = self._bars.tasks[self._bars.task_ids.index(bar)]
        self._bars.update(bar, total=task.completed or 1, completed=task.completed or 1)

    def step(self) -> None:
        """Move the bar of the current phase on by one step."""
        if self._current is not None:
            self._bars.update(self._current, advance=1)

    def warn(self, line: str) -> None:
        """Print a warning on standard error.

        Args:
            line: what the user should know.
        """
        self._bars.console.print(Text.assemble(("warning:", "yellow"), " ", plain(line)), soft_wrap=True)

    def advance(self, row: Mapping[str, Any], point: CurvePoint | None) -> None:
        """Move the bar of the current phase on by one round.

        Args:
            row: of the round.
            point: of the learning curve; None where the model was not evaluated.
        """
        if self._current is not None:
            note = f"{row['phase']} {row['round']}"
            if point and point.test_uar is not None:
                note += f" · test UAR {point.test_uar:.3f}"
            self._bars.update(self._current, advance=1, note=note)
