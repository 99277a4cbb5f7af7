"""What a person sees while a run goes on: live bars on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fedunlearn.console import plain
from fedunlearn.evaluation.judge import CurvePoint

_SAID = {
    "meet": "Meeting the devices",
    "learn": "Learning",
    "unlearn and recover": "Unlearning and recovering",
    "retrain": "Retraining without the forgotten",
    "shadows": "Training shadow federations",
    "judge": "Judging",
    "search": "Searching for what was deleted",
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
        """A bar of ``total`` steps; gives a function that advances it by one."""
        bar = self._bars.add_task(name, total=total, note="")
        yield lambda: self._bars.advance(bar)

    @contextmanager
    def phase(self, name: str, rounds: int | None) -> Iterator[None]:
        """A bar for a phase of the run; ``rounds`` None = nobody knows how many."""
        bar = self._current = self._bars.add_task(_SAID.get(name, name), total=rounds, note="")
        yield
        task = self._bars.tasks[self._bars.task_ids.index(bar)]
        self._bars.update(bar, total=task.completed or 1, completed=task.completed or 1)

    def step(self) -> None:
        """The current phase is one further."""
        if self._current is not None:
            self._bars.update(self._current, advance=1)

    def warn(self, line: str) -> None:
        """Say something that the user should know, on standard error."""
        self._bars.console.print(Text.assemble(("warning:", "yellow"), " ", plain(line)), soft_wrap=True)

    def advance(self, row: Mapping[str, Any], point: CurvePoint | None) -> None:
        """One round of the current phase is over."""
        if self._current is not None:
            note = f"{row['phase']} {row['round']}"
            if point and point.test_uar is not None:
                note += f" · test UAR {point.test_uar:.3f}"
            self._bars.update(self._current, advance=1, note=note)
