"""The rows of a study (`fedunlearn.study.rows.StudyRow`) by setting: which there are, and what is compared.

A row is one model of one run: who forgot how much with what, and where that left the model.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from fedunlearn.report.statistics import group_of, order_by_gap, pool

_RUN = ["method", "fold", "seed", "forget_size", "requesters", "aggregation", "recovery", "window"]
_DATA = ["fold", "seed", "forget_size", "requesters"]
_SETTING = ["aggregation", "recovery", "requesters", "forget_size", "window"]


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all methods of one table column or section.

    Attributes:
        aggregation: how the requesters' updates are aggregated.
        recovery: name of the recovery.
        requesters: number of requesting clients.
        forget_size: utterances that each deletes; 0 = all that it holds.
        window: rounds that a request waits for others to be served with it.
    """

    aggregation: str
    recovery: str
    requesters: int
    forget_size: int
    window: int = 0

    @property
    def where(self) -> dict[str, Any]:
        """The columns of its rows, and their values."""
        return asdict(self)

    @property
    def request(self) -> str:
        """How many clients delete how much."""
        size = name_size(self.forget_size)
        if self.requesters > 1:
            return f"{self.requesters} x {size}"
        return f"{size} utterances" if self.forget_size else size


def name_size(forget_size: int) -> str:
    """Name how much each requester deletes: "20", or "whole client" for 0."""
    return str(forget_size) if forget_size else "whole client"


def select(rows: pd.DataFrame, stage: str | None = "recovered", **where: Any) -> pd.DataFrame:
    """Select the rows of one stage.

    Args:
        rows: of a study.
        stage: original, unlearned, recovered or retrained; None for all.
        where: columns, and the values that they must have.
    """
    wanted = where if stage is None else {"stage": stage, **where}
    chosen = pd.Series(True, index=rows.index)
    for column, value in wanted.items():
        chosen &= rows[column] == value
    return rows[chosen]


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """List all settings; aggregations and recoveries in order of appearance, fewest requesters first."""
    found = [Setting(*values) for values in rows[_SETTING].drop_duplicates().itertuples(index=False)]
    pairs = list(dict.fromkeys((s.aggregation, s.recovery) for s in found))
    return sorted(
        found,
        key=lambda s: (
            pairs.index((s.aggregation, s.recovery)),
            s.requesters,
            s.forget_size or math.inf,
            s.window,
        ),
    )


def windows_of(rows: pd.DataFrame) -> list[int]:
    """List all batching windows, in rounds, shortest first."""
    return sorted(rows["window"].unique().tolist())


def units_of(rows: pd.DataFrame) -> str:
    """Say how many runs means are over: "5 seeds", "6 folds" or "6 folds x 2 seeds"; empty for one."""
    return " x ".join(f"{count} {unit}" for unit, count in _units(rows).items())


def unit_names(rows: pd.DataFrame) -> str:
    """Say what intervals are over: "seeds", "folds" or "folds and seeds"."""
    return " and ".join(_units(rows)) or "seeds"


def _units(rows: pd.DataFrame) -> dict[str, int]:
    """What there is more than one of."""
    counts = {f"{column}s": rows[column].nunique() for column in ("fold", "seed")}
    return {unit: count for unit, count in counts.items() if count > 1}


def methods_of(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Sort methods by group and by mean gap after recovery, lowest first; empty groups are left out."""
    judged = select(rows)
    first = judged.drop_duplicates("method")
    groups = {row.method: group_of(row.control, row.sees) for row in first.itertuples()}
    return order_by_gap(groups, pool(judged, "gap", "method"))


def subtract_retrained(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Subtract from a column, after recovery, its value for the retrained model of the same run."""
    retrained = select(rows, "retrained").set_index(_RUN)[column]
    judged = select(rows).set_index(_RUN)
    judged[column] -= retrained[~retrained.index.duplicated(keep="last")].reindex(judged.index)
    return judged.reset_index()


def references(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the retrained models, each once: all methods, aggregations and recoveries share them."""
    return select(rows, "retrained").drop_duplicates(_DATA, keep="last")
