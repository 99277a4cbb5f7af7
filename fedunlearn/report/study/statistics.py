"""Methods against each other: what the rows of ``simulations/compare.py`` say over seeds.

A row is one model of one run: who forgot how much with what, and where that left the model. Means are over
seeds, with 95 % intervals of Student's t; a single seed has none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as students_t

Row = Mapping[str, Any]
COLUMNS = (
    "method",
    "sees",
    "model",
    "corpus",
    "forget_size",
    "requesters",
    "aggregation",
    "recovery",
    "seed",
    "stage",
    "forget",
    "retain",
    "test",
    "unseen",
    "membership",
    "gap",
    "client_seconds",
    "algorithm",
    "settings",
    "recovery_rounds",
    "recovery_epochs",
    "recovery_lr",
    "reversion",
    "reversion_membership",
    "gap_forget",
    "gap_retain",
    "gap_test",
    "gap_membership",
    "noise_floor",
    "original",
    "scalars",
    "window",
    "rounds_waited_mean",
)
CONTROLS = frozenset({"none", "destroy"})
GROUPS = {
    "forget": "Forget set alone",
    "more": "Upper references: see more",
    "control": "Controls",
}
"""in the order of the tables"""
_RUN = ("method", "seed", "forget_size", "requesters", "aggregation", "recovery", "window")
_DATA = ("seed", "forget_size", "requesters")
_JUDGED = "recovered"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and half the width of its 95 % interval (NaN with one seed)."""

    mean: float
    half: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half) else f" ± {self.half:.3f}")


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all methods of one table column or section."""

    aggregation: str
    recovery: str
    requesters: int
    forget_size: int
    window: int = 0

    @property
    def where(self) -> dict[str, Any]:
        """As values of columns."""
        return vars(self)

    @property
    def asked(self) -> str:
        """Who takes back how much."""
        one = f"{self.forget_size} utterances"
        return one if self.requesters == 1 else f"{self.requesters} x {self.forget_size}"


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and interval of the known values."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)])
    if len(known) == 0:
        return Spread(math.nan, math.nan)
    if len(known) == 1:
        return Spread(float(known[0]), math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return Spread(float(known.mean()), float(students_t.ppf(0.975, len(known) - 1)) * error)


def settings_of(rows: Iterable[Row]) -> list[Setting]:
    """All settings; aggregations and recoveries in their order of appearance, fewest requesters first."""
    names = ("aggregation", "recovery", "requesters", "forget_size", "window")
    found = {Setting(*(r[name] for name in names)): None for r in rows}
    joined = {(s.aggregation, s.recovery): None for s in found}
    order = {pair: number for number, pair in enumerate(joined)}
    return sorted(
        found, key=lambda s: (order[s.aggregation, s.recovery], s.requesters, s.forget_size, s.window)
    )


def windows_of(rows: Iterable[Row]) -> list[int]:
    """All batching windows, in rounds, shortest first."""
    return sorted({r["window"] for r in rows})


def group_of(row: Row) -> str:
    """Which of ``GROUPS`` a row's method belongs to."""
    if row["algorithm"] in CONTROLS:
        return "control"
    return "forget" if row["sees"] == "forget" else "more"


def groups_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Group -> its methods in order of their mean gap after recovery, best first. None is empty."""
    judged = [r for r in rows if r["stage"] == _JUDGED]
    group = {r["method"]: group_of(r) for r in judged}
    gap = {m: over_seeds(by_seed(judged, "gap", method=m)).mean for m in group}
    ordered = sorted(group, key=lambda m: (math.isnan(gap[m]), gap[m]))
    return {g: own for g in GROUPS if (own := [m for m in ordered if group[m] == g])}


def by_seed(rows: Iterable[Row], column: str, stage: str = _JUDGED, **where: Any) -> dict[int, float]:
    """Seed -> mean of a column over that seed's rows of one stage, those without a value left out.

    Args:
        where: columns and the values that they must have.
    """
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["stage"] == stage and all(row[k] == v for k, v in where.items()) and row[column] is not None:
            found.setdefault(row["seed"], []).append(row[column])
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def over_seeds(values: Mapping[int, float]) -> Spread:
    """Mean and interval of one value a seed."""
    return spread(values.values())


def compared_to_best(gaps: Mapping[str, Mapping[int, float]]) -> dict[str, bool]:
    """Who has the lowest mean gap, and who cannot be told from it.

    Only the seeds that all methods have are looked at: a cell that failed helps nobody.

    Args:
        gaps: method -> seed -> gap.

    Returns:
        method -> True for the best (those that share the lowest mean); False for a method whose difference
        to the best on the same seeds has a 95 % interval that covers 0, which needs two seeds or more.
        The others are left out. The intervals are not corrected for the number of methods.
    """
    known = {m: own for m, own in gaps.items() if own}
    everywhere = set.intersection(*map(set, known.values())) if known else set()
    gaps = {m: {s: own[s] for s in everywhere} for m, own in known.items()} if everywhere else known
    means = {m: over_seeds(own).mean for m, own in gaps.items()}
    if not means:
        return {}
    lowest = min(means.values())
    best = [m for m, mean in means.items() if mean == lowest]
    verdicts = dict.fromkeys(best, True)
    for method in means.keys() - verdicts.keys():
        shared = sorted(gaps[method].keys() & gaps[best[0]].keys())
        difference = spread(gaps[method][s] - gaps[best[0]][s] for s in shared)
        if abs(difference.mean) <= difference.half:
            verdicts[method] = False
    return verdicts


def less_retrained(rows: Iterable[Row], column: str) -> list[dict[str, Any]]:
    """The rows after recovery with a column as its difference to the same run's retrained model."""
    rows = list(rows)
    reference = {tuple(r[k] for k in _RUN): r[column] for r in rows if r["stage"] == "retrained"}
    changed = []
    for row in rows:
        target = reference.get(tuple(row[k] for k in _RUN))
        if row["stage"] == _JUDGED:
            known = row[column] is not None and target is not None
            changed.append({**row, column: row[column] - target if known else None})
    return changed


def references(rows: Iterable[Row]) -> list[Row]:
    """The retrained models, each once: methods, aggregations and recoveries were read against the same."""
    return list({tuple(r[k] for k in _DATA): r for r in rows if r["stage"] == "retrained"}.values())
