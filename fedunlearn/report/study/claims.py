"""Claims that a study has decided: what was found, as a table and as a file."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, bracketed, signed

ClaimVerdict = Literal["reproduced", "refuted", "not decided"]
Condition = Literal["holds", "fails", "not decided", "not measured"]


@dataclass(frozen=True)
class ConditionResult:
    """One condition of a claim on the finished cells.

    Attributes:
        rule: the condition in words.
        premise: whether it must hold for the claim to be decided at all.
        mean: of the difference over seeds; NaN where no seed has all sizes.
        low: lower end of its 95 % interval; NaN with fewer than two seeds.
        high: upper end of it.
        seeds: seeds (and folds) that count.
        outcome: what the interval says.
    """

    rule: str
    premise: bool
    mean: float
    low: float
    high: float
    seeds: int
    outcome: Condition


@dataclass(frozen=True)
class ClaimResult:
    """A claim on the finished cells.

    Attributes:
        text: the claim.
        verdict: by its conditions.
        why: what became of a premise that does not hold; empty where all hold.
        conditions: in the order of the config.
    """

    text: str
    verdict: ClaimVerdict
    why: str
    conditions: tuple[ConditionResult, ...]


_CAPTION = (
    "Each condition is about the mean of a difference over seeds, with its 95 % interval (Student's t). It "
    "holds where the whole interval keeps the bound, fails where the whole interval breaks it, and is not "
    "decided otherwise. A claim is reproduced where all its conditions hold, and refuted where one fails. n: "
    "seeds. The intervals are not corrected for the number of claims. The rules were in the config before "
    "the runs."
)


def claims_table(claims: Sequence[ClaimResult]) -> Table:
    """Tabulate claims, a row for each condition, with the verdict in the first row of each."""
    lines = []
    for claim in claims:
        for number, found in enumerate(claim.conditions):
            first = number == 0
            why = f": {claim.why}" if claim.why else ""
            verdict = f"**{claim.verdict}{why}**" if first else ""
            cells = [
                f"premise: {found.rule}" if found.premise else found.rule,
                signed(found.mean),
                bracketed((found.low, found.high), 3) if not math.isnan(found.low) else MISSING,
                str(found.seeds),
                found.outcome,
                verdict,
            ]
            lines.append(Row(claim.text if first else "", cells=tuple(map(Cell, cells))))
    heads = (("claim", True), ("rule", True), ("mean", False), ("95 % interval", False), ("n", False))
    columns = [Column(text, left=left) for text, left in (*heads, ("condition", True), ("verdict", True))]
    return Table(tuple(columns), tuple(lines), "Claims", _CAPTION)


def claims_csv(claims: Sequence[ClaimResult]) -> str:
    """Write claims as the text of claims.csv, a row for each condition; what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ("claim", "verdict", "why", "rule", "premise", "mean", "low", "high", "seeds", "condition")
    )
    for claim in claims:
        for found in claim.conditions:
            numbers = ["" if math.isnan(v) else f"{v:.6g}" for v in (found.mean, found.low, found.high)]
            rule = (found.rule, str(found.premise).lower())
            writer.writerow(
                (claim.text, claim.verdict, claim.why, *rule, *numbers, found.seeds, found.outcome)
            )
    return file.getvalue()
