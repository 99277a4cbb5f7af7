"""Statistics over several runs, for the page of several runs and for the tables and figures of a study.

A value of a run is one observation of its seed, or of its seed and fold where rows have a ``fold``: both are
called a seed here. Means are over seeds, with 95 % intervals of Student's t; a single seed has none. Data
frames have one row a seed and one column a group (a method, a configuration).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import t as students_t

GROUPS = {
    "forget": "Forget set alone",
    "ticket": "Forget set and its tickets, which devices note in learning",
    "more": "Privileged baselines: see more",
    "control": "Controls",
}
"""group of methods -> title, in the order of the tables"""


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and half the width of its 95 % interval.

    Attributes:
        mean: NaN where no seed has a value.
        half: NaN with fewer than two seeds.
    """

    mean: float = math.nan
    half: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half) else f" ± {self.half:.3f}")


class Spreads(dict[Any, Spread]):
    """Group -> mean and interval; NaN for a group without values."""

    def __missing__(self, group: Any) -> Spread:
        return Spread()


def group_of(control: bool, sees: str) -> str:
    """Return which of ``GROUPS`` a method belongs to.

    Args:
        control: whether it is a control.
        sees: as of ``MethodCard``.
    """
    if control:
        return "control"
    return {"forget": "forget", "forget + ticket": "ticket"}.get(sees, "more")


def seed_means(rows: pd.DataFrame, column: str, *by: str) -> pd.DataFrame:
    """Average a column for each seed and group; several rows of one seed count once, by their mean.

    Args:
        rows: with the columns ``seed``, ``column`` and ``by``; perhaps ``fold``.
        column: of numbers; NaN counts for nothing.
        by: columns that make the groups; at least one.

    Returns:
        index: seeds (and folds) that have a value; columns: groups that have a value, in order of appearance.
    """
    found = rows.groupby([*by, *_unit(rows)], sort=False)[column].mean().dropna()
    return found.unstack(list(by), sort=False).astype(float)


def spread(values: Iterable[float | None]) -> Spread:
    """Compute the mean of the known values, one a seed, and half its 95 % interval."""
    return spreads(pd.DataFrame({"": pd.Series(list(values), dtype=float)}))[""]


def spreads(values: pd.DataFrame) -> Spreads:
    """Compute mean and interval of each column.

    Args:
        values: one row a seed, one column a group.
    """
    halves = students_t.ppf(0.975, values.count() - 1) * values.sem()
    return Spreads(
        {group: Spread(mean, half) for group, mean, half in zip(values, values.mean(), halves, strict=True)}
    )


def pool(rows: pd.DataFrame, column: str, *by: str) -> Spreads:
    """Compute the mean over seeds of a column, and its interval, for each group (see `seed_means`)."""
    return spreads(seed_means(rows, column, *by))


def pool_all(rows: pd.DataFrame, column: str) -> Spread:
    """Compute the mean over seeds of a column, with its interval; several rows of one seed count once."""
    return spread(rows.groupby(_unit(rows), sort=False)[column].mean())


def _unit(rows: pd.DataFrame) -> list[str]:
    """The columns that tell one observation from another."""
    return ["fold", "seed"] if "fold" in rows and rows["fold"].nunique() > 1 else ["seed"]


def order_by_gap(groups: Mapping[str, str], gaps: Spreads) -> dict[str, list[str]]:
    """Sort methods by group, in each by mean gap, lowest first; those without a gap last.

    Args:
        groups: method -> its group.
        gaps: method -> its gap.

    Returns:
        group -> its methods, in the order of ``GROUPS``, without empty groups.
    """
    order = sorted(groups, key=lambda method: (math.isnan(gaps[method].mean), gaps[method].mean))
    return {group: own for group in GROUPS if (own := [m for m in order if groups[m] == group])}


def compared_to_best(gaps: pd.DataFrame) -> dict[str, bool]:
    """Find the methods with the lowest mean gap, and those that cannot be distinguished from the best.

    Only the seeds that all methods have are compared: a run that failed is no advantage.

    Args:
        gaps: one row a seed, one column a method.

    Returns:
        method -> True for the best (those that share the lowest mean); False for a method whose difference
        to the best on the same seeds has a 95 % interval that covers 0, which needs two seeds or more.
        The others are left out. The intervals are not corrected for the number of methods.
    """
    known = gaps.dropna(axis="columns", how="all")
    shared = known.dropna()
    compared = known if shared.empty else shared
    means = compared.mean()
    best = list(means.index[means == means.min()])
    verdicts = dict.fromkeys(best, True)
    for method in means.index.difference(best, sort=False):
        difference = spread(compared[method] - compared[best[0]])
        if abs(difference.mean) <= difference.half:
            verdicts[method] = False
    return verdicts
