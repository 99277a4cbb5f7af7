"""Who made which runs of a study that several people joined."""

from collections.abc import Mapping

import pandas as pd

from fedunlearn.report.study.statistics import select
from fedunlearn.report.tables import Cell, Column, Row, Table


def contributors_table(rows: pd.DataFrame, versions: Mapping[str, str]) -> Table:
    """Tabulate methods and seeds of each contributor, a row for each method of each.

    Args:
        rows: of the study, with the column ``contributor``: those who made the run, by commas.
        versions: contributor -> versions of fedunlearn, by commas.
    """
    judged = select(rows)
    lines = []
    for (who, method), runs in judged.groupby(["contributor", "method"], sort=True):
        made_with = ", ".join(dict.fromkeys(versions.get(name, "") for name in str(who).split(", ")))
        cells = [str(method), _numbers(runs["seed"]), str(len(runs)), made_with]
        lines.append(Row(str(who), cells=tuple(map(Cell, cells))))
    columns = [Column(head, left=True) for head in ("contributor", "method", "seeds")]
    columns += [Column("runs"), Column("fedunlearn")]
    caption = "Several names in one row: they made the same runs with equal results, which count once."
    return Table(tuple(columns), tuple(lines), "Contributors", caption)


def _numbers(values: pd.Series) -> str:
    return ", ".join(map(str, sorted(values.unique().tolist())))
