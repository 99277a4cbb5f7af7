"""The tables of a leaderboard: studies of several tasks, each made by one or more people."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up
from fedunlearn.report.statistics import GROUPS, Spread, pool, pool_all
from fedunlearn.report.study import tables
from fedunlearn.report.study.contributors import contributors_table
from fedunlearn.report.study.statistics import methods_of, name_size, references, select
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING
from fedunlearn.results_schema import DOING_NOTHING
from fedunlearn.study.joining import join_rows, merge_studies
from fedunlearn.study.merge import read_checked, versions_of
from fedunlearn.study.study_file import StudyFile

START, END = "<!-- leaderboard -->\n", "<!-- /leaderboard -->\n"
"""marks of the part of a page that is written from the studies"""
MOST = 4
"""methods that see the forget set alone in the short table"""


@dataclass(frozen=True)
class Board:
    """All studies of one task.

    Attributes:
        title: name of the folder.
        study: all of them.
        rows: of its runs, as ``study.joining.JoinedRows``.
        notes: as ``study.joining.JoinedRows``.
    """

    title: str
    study: StudyFile
    rows: pd.DataFrame
    notes: tuple[str, ...]


def read_boards(folder: Path) -> list[Board]:
    """Read the studies of every task, in the order of the folders' names.

    Args:
        folder: with a folder for each task.

    Raises:
        BadInput: a study is damaged, or of another task than the others of its folder.
    """
    found, problems = list[Board](), list[str]()
    for place in sorted(looked_up(folder, lambda: list(folder.iterdir())), key=lambda place: place.name):
        files = sorted(place.glob("*.json")) if place.is_dir() else []
        if not files:
            continue
        try:
            study = merge_studies(read_checked(files))
        except BadInput as error:
            problems += error.problems
            continue
        joined = join_rows(study)
        found.append(Board(place.name, study, joined.rows, joined.notes))
    if problems:
        raise BadInput(problems)
    return found


def best_methods(boards: Sequence[Board]) -> Table:
    """Tabulate the gap by task and size: the methods that are best on average, doing nothing, and the floor.

    Args:
        boards: at least one.
    """
    methods = _best(boards)
    lines = []
    for board in boards:
        sizes = sorted(board.rows["forget_size"].unique().tolist(), key=lambda size: size or math.inf)
        for size in sizes:
            here = select(board.rows, None, forget_size=size)
            gaps = pool(select(here), "gap", "method")
            known = [gaps[method].mean for method in methods if not math.isnan(gaps[method].mean)]
            cells = [_bold(gaps[method], min(known, default=math.nan)) for method in methods]
            nothing = pool_all(select(here, "original"), "gap")
            floor = pool_all(references(here), "gap").mean
            shown = [*cells, _shown(nothing), MISSING if math.isnan(floor) else f"{floor:.3f}"]
            lines.append(Row(f"{board.title}, {name_size(size)}", cells=tuple(map(Cell, shown))))
    heads = [*(f"`{method}`" for method in methods), DOING_NOTHING.words, "noise floor"]
    columns = (Column("corpus, utterances deleted", left=True), *map(Column, heads))
    seeds = {board.title: board.rows["seed"].nunique() for board in boards}
    over = ", ".join(f"{count} of {title}" for title, count in seeds.items())
    caption = (
        f"Mean gap over seeds ± half the 95 % interval. Seeds: {over}. Bold: the lowest of the row, whether "
        "or not the others can be told from it."
    )
    return Table(columns, tuple(lines), caption=caption)


def full_tables(boards: Sequence[Board]) -> list[Table]:
    """Tabulate every task in full: gap, recognition and contributors.

    Args:
        boards: all tasks.
    """
    return [
        tables.with_title(table, board.title)
        for board in boards
        for table in (
            *tables.summaries(board.rows),
            *tables.recognition(board.rows),
            contributors_table(board.rows, versions_of(board.study)),
        )
    ]


def put_between_marks(page: str, text: str, place: Path) -> str:
    """Replace what stands between the marks of a page.

    Args:
        page: its text.
        text: to stand there.
        place: of the page, for the message.

    Raises:
        BadInput: the marks are not there, once each and in order.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in after:
        raise BadInput(f"{place}: needs one line {START.strip()} and below it one line {END.strip()}")
    return f"{before}{START}\n{text}\n{END}{after}"


def _best(boards: Sequence[Board]) -> list[str]:
    """The methods that see the forget set alone, lowest gap over all tasks first; controls are left out."""
    first = next(iter(GROUPS))
    names = dict.fromkeys(name for board in boards for name in methods_of(board.rows).get(first, []))
    everywhere = {
        name: [pool(select(board.rows), "gap", "method")[name].mean for board in boards] for name in names
    }
    # A method that was not run on a task comes after those that were.
    order = sorted(names, key=lambda name: (sum(map(math.isnan, everywhere[name])), _mean(everywhere[name])))
    return order[:MOST]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.inf


def _shown(value: Spread) -> str:
    return MISSING if math.isnan(value.mean) else str(value)


def _bold(value: Spread, best: float) -> str:
    return f"**{value}**" if value.mean == best else _shown(value)
