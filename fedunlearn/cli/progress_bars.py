"""The progress bar of commands that run many cells, on a terminal only."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedunlearn.console import errors


def cell_bars() -> Progress:
    """Make the bar: what is run next, finished and all cells, time so far and time left."""
    return Progress(
        TextColumn("{task.description:<48}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        speed_estimate_period=1800.0,  # s; a cell may take minutes
    )
