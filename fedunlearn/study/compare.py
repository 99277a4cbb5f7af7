"""A comparison of methods: its cells are run one after another, its rows become tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedunlearn.config import Config
from fedunlearn.errors import BadInput, Interrupted, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.report.markup import latex, markdown
from fedunlearn.report.study import figures, tables
from fedunlearn.study.grid import Axes, StudyCell, cells_of, loader_of
from fedunlearn.study.rows import csv_of, frame_of, rows_of
from fedunlearn.study.runner import StudyRunner, count_clients

ProgressCallback = Callable[[str, int, int], None]
"""Called with the name of the cell that is run next, the number of finished cells, and that of all cells."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: where compare.csv, compare.md, compare.tex, the figures and the finished cells are.
        rows: four for each finished cell, one a model; the columns are the fields of ``study.rows.StudyRow``.
        failures: name of a cell -> why its run failed.
        summary: the main tables as Markdown; empty where no cell has finished.
    """

    folder: Path
    rows: pd.DataFrame
    failures: Mapping[str, str]
    summary: str


def compare_methods(
    config: Config,
    axes: Axes,
    out: Path,
    warn: Callable[[str], None] = lambda line: None,
    progress: ProgressCallback = lambda name, done, total: None,
) -> Comparison:
    """Compare unlearning methods, and write the tables and figures.

    Every cell is a whole run; trained originals and retrained references are found again by content. A
    finished cell is kept in ``out``/cells and never computed twice: call again to continue.

    Args:
        config: the experiment to start from; ``comparison_config`` reads a suitable one.
        axes: methods, forget set sizes, numbers of requesters, seeds, and what else is crossed.
        out: folder for cells, tables and figures.
        warn: called with each line that the corpus gives reason for.
        progress: called before each cell, and once at the end.

    Raises:
        BadInput: settings, corpus, partition or output do not allow a cell; nothing was run.
        Interrupted: it was stopped by the user; finished cells are kept.
    """
    cells = check_comparison(config, axes, out)
    failures: dict[str, str] = {}
    with StudyRunner(out, warn=warn) as runner:
        waiting = [cell for cell in cells if not runner.file(cell).exists()]
        for done, cell in enumerate(waiting, len(cells) - len(waiting)):
            progress(cell.name, done, len(cells))
            try:
                runner.play(cell)
            except (KeyboardInterrupt, Interrupted):
                finished = sum(runner.file(cell).exists() for cell in cells)
                raise Interrupted(
                    f"interrupted; {finished} of {len(cells)} cells are in {out / 'cells'}: "
                    "give the same command again to go on from there"
                ) from None
            except RunFailed as error:
                failures[cell.name] = str(error)
        progress("", len(cells), len(cells))
        rows = _rows(runner, cells)
    return Comparison(out, rows, failures, "" if rows.empty else _write(rows, out))


def check_comparison(config: Config, axes: Axes, out: Path) -> list[StudyCell]:
    """Check that a comparison can be made, before anything is decoded or run.

    Args:
        config: the experiment to start from.
        axes: what is crossed.
        out: its folder.

    Returns:
        its cells.

    Raises:
        BadInput: settings, corpus, partition or output do not allow a cell.
    """
    if not axes.variants:
        raise BadInput("--methods, --variant: name at least one method")
    cells = cells_of(loader_of(count_clients(config, next(iter(axes.folds), None))), axes)
    with StudyRunner(out) as runner:
        runner.check(cells)
    return cells


def _rows(runner: StudyRunner, cells: Sequence[StudyCell]) -> pd.DataFrame:
    finished = ((cell, runner.results(cell)) for cell in cells)
    return frame_of(row for cell, found in finished if found is not None for row in rows_of(cell, found))


def _write(rows: pd.DataFrame, out: Path) -> str:
    """Write tables and figures of all rows; the main tables as Markdown."""
    summary, details = [*tables.summaries(rows), *tables.recognition(rows)], tables.details(rows)
    write_atomically(out / "compare.csv", csv_of(rows))
    write_atomically(out / "compare.md", markdown([*summary, *details]))
    write_atomically(out / "compare.tex", latex([*summary, *details]))
    figures.write_figures(rows, out)
    return markdown(summary)
