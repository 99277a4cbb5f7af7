"""Decides the claims of a study: differences over seeds, their intervals, and the rules of the config."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from fedunlearn.config.study import ClaimPart, StudyClaim
from fedunlearn.report.statistics import spread
from fedunlearn.report.study.claims import ClaimResult, ClaimVerdict, Condition, ConditionResult
from fedunlearn.report.study.statistics import name_size, references, select
from fedunlearn.study.plan import MODELS

_WORDS = {
    "gap": "gap",
    "gap-over-floor": "gap less noise floor",
    "gap-forget": "gap in forget accuracy",
    "gap-retain": "gap in retain accuracy",
    "gap-test": "gap in test accuracy",
    "gap-membership": "gap in membership AUC",
    "forget": "forget accuracy",
    "retain": "retain accuracy",
    "test": "test accuracy",
    "test-uar": "test UAR",
    "unseen": "unseen UAR",
    "membership": "membership AUC",
}


def decide(claims: Iterable[StudyClaim], rows: pd.DataFrame, recovery: str) -> list[ClaimResult]:
    """Decide claims by their rules.

    Args:
        claims: of the config.
        rows: of all finished cells, as ``study.rows.StudyRow``.
        recovery: of the conditions that name none.
    """
    return [_decide(claim, rows, recovery) for claim in claims]


def _decide(claim: StudyClaim, rows: pd.DataFrame, recovery: str) -> ClaimResult:
    found = tuple(_condition(part, rows, part.recovery or recovery) for part in claim.parts)
    premises = [each.outcome for each in found if each.premise]
    if any(outcome != "holds" for outcome in premises):
        why = "its premise fails" if "fails" in premises else "nor is its premise"
        return ClaimResult(claim.text, "not decided", why, found)
    outcomes = [each.outcome for each in found if not each.premise]
    verdict: ClaimVerdict = "not decided"
    if "fails" in outcomes:
        verdict = "refuted"
    elif all(outcome == "holds" for outcome in outcomes):
        verdict = "reproduced"
    return ClaimResult(claim.text, verdict, "", found)


def _condition(part: ClaimPart, rows: pd.DataFrame, recovery: str) -> ConditionResult:
    judged = select(rows, None, recovery=recovery)
    sizes = list(part.sizes) or _sizes(judged, part.of)
    others = list(part.less_sizes) or sizes
    values = _by_seed(judged, part.of, part.measure, sizes)
    if part.less:
        values = values - _by_seed(judged, part.less, part.measure, others)
    values = values.dropna()
    mean = spread(values)
    low, high = mean.mean - mean.half, mean.mean + mean.half
    outcome = _outcome(part, len(values), low, high)
    rule = _rule(part, sizes, others)
    return ConditionResult(rule, part.premise, mean.mean, low, high, len(values), outcome)


def _outcome(part: ClaimPart, seeds: int, low: float, high: float) -> Condition:
    if seeds == 0:
        return "not measured"
    if math.isnan(low):
        return "not decided"
    if part.relation == "below":
        return "holds" if high < part.bound else "fails" if low >= part.bound else "not decided"
    return "holds" if low > part.bound else "fails" if high <= part.bound else "not decided"


def _by_seed(rows: pd.DataFrame, name: str, measure: str, sizes: Sequence[int]) -> pd.Series:
    """Fold and seed -> the mean of a measure over sizes; only those that have all of them."""
    mine = _rows_of(rows, name)
    mine = mine[mine["forget_size"].isin(sizes)]
    values = (
        mine["gap"] - mine["noise_floor"] if measure == "gap-over-floor" else mine[measure.replace("-", "_")]
    )
    found = mine.assign(value=values).groupby(["fold", "seed", "forget_size"])["value"].mean()
    return found.unstack("forget_size").reindex(columns=list(sizes)).dropna().mean(axis=1)


def _rows_of(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """A variant's rows after recovery; or the rows of the original or the retrained models."""
    if name == "retrained":
        return references(rows)
    return select(rows, name) if name in MODELS else select(rows, method=name)


def _sizes(rows: pd.DataFrame, name: str) -> list[int]:
    return sorted(_rows_of(rows, name)["forget_size"].unique().tolist(), key=lambda size: size or math.inf)


def _rule(part: ClaimPart, sizes: Sequence[int], others: Sequence[int]) -> str:
    sign = "<" if part.relation == "below" else ">"
    same = list(sizes) == list(others)
    over = f" at {_named(sizes)}" if sizes else ""
    less = f" less that of {part.less}" if part.less else ""
    where = over + less + f" at {_named(others)}" if part.less and not same else less + over
    return f"{_WORDS[part.measure]} of {part.of}{where} {sign} {part.bound:g}"


def _named(sizes: Sequence[int]) -> str:
    return f"N = {', '.join(map(name_size, sizes))}"
