"""What the study of oracle targets measures, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedunlearn.evaluation.shadow_attack import BooleanMask, Matrix
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, bracketed, fraction, interval
from fedunlearn.results_schema import LogOddsShift, ShadowAttackScores

NOT_A_METHOD = "not a method: it is told the answers"


@dataclass(frozen=True)
class OracleMeasures:
    """Of one way to unlearn. All but the gap are taken in the shadow federations.

    Attributes:
        attack: U-LiRA on the recovered models.
        gap: mean gap of the run's recovered model to the retrained ones; None without any.
        shift: of candidates that a shadow was never trained on, by the unlearn step.
        shift_recovered: of the same, from the original to the recovered model.
        following: of the deleted, from their targets to the recovered models.
        spread: standard deviation over recovered models of their log-odds on an utterance that they deleted,
            in nats; median over utterances.
        spread_never_heard: the same on utterances that they were never trained on.
    """

    attack: ShadowAttackScores
    gap: float | None
    shift: LogOddsShift
    shift_recovered: LogOddsShift
    following: LogOddsShift
    spread: float | None
    spread_never_heard: float | None


@dataclass(frozen=True)
class OracleRow:
    """A row of the table.

    Attributes:
        name: of the way to unlearn.
        told: whether it is told the answers, and so is no method.
        measures: of it.
    """

    name: str
    told: bool
    measures: OracleMeasures


def spread_over_models(phi: Matrix, which: BooleanMask) -> float | None:
    """Return how much models differ in their answer on one utterance, in nats.

    Args:
        phi: log-odds [S, K] of S models on K utterances.
        which: [S, K] the answers that count.

    Returns:
        the standard deviation over models, of a sample; the median over the utterances with two such answers
        or more, as a few that are hardly ever recognised vary most; None without any
    """
    enough = (which.sum(0) >= 2) & np.isfinite(np.where(which, phi, 0.0)).all(0)
    if not enough.any():
        return None
    return float(np.median(np.nanstd(np.where(which, phi, np.nan)[:, enough], 0, ddof=1)))


def oracle_table(rows: Sequence[OracleRow], shadows: int, exact: bool) -> Table:
    """Tabulate the study.

    Args:
        rows: of the study.
        shadows: number of shadow federations.
        exact: whether the loop that plays them gave the run's own weights.
    """
    heads = ("U-LiRA AUC", "TPR at 1 %", "gap", "shift, step", "shift, recovered", "slope of the shift")
    more = ("spread, deleted", "spread, never heard", "following, slope", "following, residual")
    columns = [Column("targets", left=True), *(Column(head) for head in (*heads, *more))]
    caption = (
        f"{shadows} shadow federations; recovered models unless said otherwise. Oracle: {NOT_A_METHOD}. Its "
        "targets are the mean log-odds under shadow federations that were never trained on the utterance, or "
        "are drawn from a Gaussian with their mean and standard deviation. Shift: rms and slope of the "
        "log-odds of utterances that a federation neither heard nor was asked to delete, in nats. Spread: "
        "standard deviation of the log-odds on one utterance over federations, in nats, median over "
        "utterances. Following: least-squares slope of the answers on the targets, and the rms about it, "
        "in nats. Gap: of the run itself. "
        + ("The loop gave the run's own weights." if exact else "The loop did not give the run's weights.")
    )
    return Table(tuple(columns), tuple(map(_row, rows)), "Oracle targets", caption)


def oracle_json(rows: Sequence[OracleRow], shadows: int, exact: bool, seed: int) -> str:
    """Write the study as JSON.

    Args:
        rows: of the study.
        shadows: number of shadow federations.
        exact: whether the loop that plays them gave the run's own weights.
        seed: of the experiment.
    """
    tree = {"seed": seed, "shadows": shadows, "replay_exact": exact, "rows": [_as_json(row) for row in rows]}
    return json.dumps(tree, indent=1) + "\n"


def _row(row: OracleRow) -> Row:
    found = row.measures
    rate = found.attack.tpr_at.get("0.01")
    texts = (
        f"{fraction(found.attack.auc)} {bracketed(interval(found.attack), 3)}".strip(),
        MISSING if rate is None else f"{fraction(rate.value)} {bracketed(interval(rate), 3)}".strip(),
        fraction(found.gap),
        _nats(found.shift.rms),
        _nats(found.shift_recovered.rms),
        _nats(found.shift_recovered.slope),
        _nats(found.spread),
        _nats(found.spread_never_heard),
        _nats(found.following.slope),
        _nats(found.following.residual),
    )
    head = f"{row.name} ({NOT_A_METHOD})" if row.told else row.name
    return Row(head, cells=tuple(map(Cell, texts)))


def _nats(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _as_json(row: OracleRow) -> dict[str, Any]:
    found = row.measures
    return {
        "name": row.name,
        "what": NOT_A_METHOD if row.told else "a method",
        "told": row.told,
        "ulira": found.attack.model_dump(mode="json", exclude={"roc", "requests"}),
        "gap": found.gap,
        "shift": found.shift.model_dump(mode="json"),
        "shift_recovered": found.shift_recovered.model_dump(mode="json"),
        "following": found.following.model_dump(mode="json"),
        "spread": found.spread,
        "spread_never_heard": found.spread_never_heard,
    }
