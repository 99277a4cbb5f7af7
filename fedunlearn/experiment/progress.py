"""What a person sees while a run goes on: live bars on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fedunlearn.console import plain
from fedunlearn.evaluation.judge import CurvePoint
from fedunlearn.run_folder import RunFolder
from fedunlearn.run_progress import TITLES, RunPhase, RunProgress, write_progress

_BETWEEN = 1.0
"""Seconds from one writing of progress.json to the next within a phase, at least."""


class Progress:
    """Bars for the phases of one run, on standard error, and progress.json in its folder."""

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
        self._run: RunFolder | None = None
        self._standing, self._written = RunProgress(), 0.0

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def record_in(self, run: RunFolder) -> None:
        """From now on, write progress.json.

        Args:
            run: the run folder.
        """
        self._run = run
        self._write()

    def _note(self, *, now: bool = False, **changes: Any) -> None:
        self._standing = self._standing.model_copy(update=changes)
        if now or monotonic() - self._written >= _BETWEEN:
            self._write()

    def _write(self) -> None:
        if self._run is not None:
            write_progress(self._run.progress, self._standing)
            self._written = monotonic()

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
        bar = self._current = self._bars.add_task(TITLES[phase], total=rounds, note="")
        self._note(now=True, phase=str(phase), done=0, total=rounds)
        yield
        task = self._bars.tasks[self._bars.task_ids.index(bar)]
        self._bars.update(bar, total=task.completed or 1, completed=task.completed or 1)

    def step(self) -> None:
        """Move the bar of the current phase on by one step."""
        self._note(done=self._standing.done + 1)
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
        self._note(done=self._standing.done + 1)
        if self._current is not None:
            note = f"{row['phase']} {row['round']}"
            if point and point.test_uar is not None:
                note += f" · test UAR {point.test_uar:.3f}"
            self._bars.update(self._current, advance=1, note=note)
