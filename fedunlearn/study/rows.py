"""Finished cells as the rows of compare.csv: one row for each of a cell's four models."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

from fedunlearn.caveats import decisive_caveat
from fedunlearn.results_schema import (
    CollateralShift,
    Gap,
    LogOddsShift,
    ModelScores,
    PhaseCostRow,
    Results,
    ShadowAttackScores,
)
from fedunlearn.study.grid import WHOLE_CLIENT, StudyCell
from fedunlearn.unlearning import method_named
from fedunlearn.unlearning.contract import MethodCard


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One model of one run. A value that is not known is None.

    Attributes:
        method: name of the variant, as tables show it.
        sees: what its method sees: "forget" is the forget set alone.
        model: name of the recogniser.
        corpus: its name.
        forget_size: utterances that each requester deletes; 0 = all, as the file says.
        requesters: clients that file a request.
        aggregation: how the requesters' updates are aggregated.
        recovery: name of the recovery.
        seed: of the run.
        stage: original, unlearned, recovered or retrained.
        forget: forget accuracy.
        retain: retain accuracy.
        test: test accuracy (WA).
        unseen: UAR on unseen speakers.
        membership: AUC of the population attack.
        gap: mean gap; of the original that of doing nothing, of the retrained model the noise floor.
        client_seconds: CPU time on the clients until there was this model, in s; 0 for the original.
        algorithm: name of the method.
        settings: the variant's own, as written on the command line.
        recovery_rounds: number of recovery rounds.
        recovery_steps: SGD steps of a client in each; 0 = ``recovery_epochs`` passes.
        recovery_epochs: passes in each, where ``recovery_steps`` is 0.
        recovery_lr: learning rate in each.
        reversion: only after recovery: forget accuracy less that right after unlearning.
        reversion_membership: the same of the membership AUC.
        gap_forget: gap in forget accuracy.
        gap_retain: gap in retain accuracy.
        gap_test: gap in test accuracy.
        gap_membership: gap in membership AUC.
        noise_floor: mean gap between retrained seeds.
        original: key of the original model among the references.
        scalars: which of the server's numbers the method read, separated by spaces.
        window: rounds that a request waits for others to be served with it.
        rounds_waited_mean: rounds that the requests waited, on average.
        fold: of the corpus's protocol; 0 = unseen speakers drawn at random.
        test_uar: UAR on test speech.
        test_macro_f1: macro F1 on test speech.
        unseen_wa: accuracy (WA) on unseen speakers.
        unseen_macro_f1: macro F1 on unseen speakers.
        shift_requesters: rms shift of log-odds from the original on held-out speech of those who asked,
            in nats; of the retrained model that from seed to seed.
        shift_others: the same on held-out speech of all others.
        slope_requesters: slope of the log-odds after on those before, where ``shift_requesters`` is measured.
        slope_others: the same of ``shift_others``.
        spread: standard deviation of the log-odds on D_f, in nats.
        shift_never_heard: as ``shift_others``, on candidates that a shadow model never heard.
        slope_never_heard: the slope there.
        follow_slope: slope of the log-odds of deleted utterances on the method's targets, in shadow models.
        follow_residual: rms of the residuals about that line, in nats.
        membership_tpr: true positive rate of the population attack at a false positive rate of 1 %.
        ulira: AUC of U-LiRA on shadow models.
        ulira_tpr: its true positive rate at a false positive rate of 1 %.
        klom: median KLoM over candidates, in nats; of the retrained model that between models that never
            heard them.
        klom_p95: its 95th percentile.
        klom_gaussian: as ``klom``, of Gaussians fitted to the margins.
        says_nothing: why the run says nothing about the method (``results_schema.CaveatKind``); else empty.
        guarded: honest updates that the server's guard shortened, scaled back or refused.
        control: whether the method is a control; not in the file.
        seeds: of the retrained model: forget and retain accuracy with each of its seeds; not in the file.
    """

    method: str
    sees: str
    model: str | None
    corpus: str | None
    forget_size: int
    requesters: int
    aggregation: str
    recovery: str
    seed: int
    stage: str
    forget: float | None
    retain: float | None
    test: float | None
    unseen: float | None
    membership: float | None
    gap: float | None
    client_seconds: float | None
    algorithm: str
    settings: str
    recovery_rounds: int | None
    recovery_steps: int | None
    recovery_epochs: int | None
    recovery_lr: float | None
    reversion: float | None
    reversion_membership: float | None
    gap_forget: float | None
    gap_retain: float | None
    gap_test: float | None
    gap_membership: float | None
    noise_floor: float | None
    original: str | None
    scalars: str
    window: int
    rounds_waited_mean: float | None
    fold: int
    test_uar: float | None
    test_macro_f1: float | None
    unseen_wa: float | None
    unseen_macro_f1: float | None
    shift_requesters: float | None = None
    shift_others: float | None = None
    slope_requesters: float | None = None
    slope_others: float | None = None
    spread: float | None = None
    shift_never_heard: float | None = None
    slope_never_heard: float | None = None
    follow_slope: float | None = None
    follow_residual: float | None = None
    membership_tpr: float | None = None
    ulira: float | None = None
    ulira_tpr: float | None = None
    klom: float | None = None
    klom_p95: float | None = None
    klom_gaussian: float | None = None
    says_nothing: str = ""
    guarded: int = 0
    control: bool = False
    seeds: tuple[tuple[float, float], ...] = ()


COLUMNS = tuple(field.name for field in fields(StudyRow) if field.name not in ("control", "seeds"))
"""of compare.csv"""
_NUMBERS = [field.name for field in fields(StudyRow) if field.type == (float | None)]


def rows_of(cell: StudyCell, results: Results) -> Iterator[StudyRow]:
    """Yield the rows of one cell, one for each model."""
    gap, models = results.gap, results.models
    unlearning, recovery, retraining = (
        results.cost.get(phase, PhaseCostRow.empty()).client_seconds
        for phase in ("unlearn", "recover", "retrain")
    )
    reverted = (
        _difference(models.recovered.forget.accuracy, models.unlearned.forget.accuracy),
        _difference(models.recovered.membership.auc, models.unlearned.membership.auc),
    )
    both = None if unlearning is None or recovery is None else unlearning + recovery
    yield _row(cell, results, "original", models.original, gap.none, 0.0)
    yield _row(cell, results, "unlearned", models.unlearned, gap.unlearned, unlearning)
    yield _row(cell, results, "recovered", models.recovered, gap.recovered, both, reverted)
    yield _row(cell, results, "retrained", models.retrained, gap.noise_floor, retraining)


def frame_of(rows: Iterable[StudyRow]) -> pd.DataFrame:
    """Make a data frame of rows, with a column for each field; an unknown number is NaN."""
    names = [field.name for field in fields(StudyRow)]
    return pd.DataFrame([asdict(row) for row in rows], columns=names).astype(dict.fromkeys(_NUMBERS, float))


def csv_of(rows: pd.DataFrame, first: Sequence[str] = ()) -> str:
    """Write rows as the text of compare.csv; what is not known is empty.

    Args:
        rows: of a study.
        first: further columns, which come before those of ``StudyRow``.
    """
    sizes = rows["forget_size"].astype(object)
    written = rows.assign(forget_size=sizes.mask(sizes == WHOLE_CLIENT, "all"))
    return written.to_csv(columns=[*first, *COLUMNS], index=False, lineterminator="\n")  # type: ignore[no-any-return]


def _row(
    cell: StudyCell,
    results: Results,
    stage: str,
    scores: ModelScores,
    gap: Gap,
    seconds: float | None,
    reverted: tuple[float | None, float | None] = (None, None),
) -> StudyRow:
    card, caveat = method_named(cell.variant.algorithm), decisive_caveat(results)
    return StudyRow(
        method=cell.variant.name,
        sees=card.sees,
        model=results.setting("model", "name"),
        corpus=results.corpus.name,
        forget_size=cell.size,
        requesters=cell.requesters,
        aggregation=cell.aggregation,
        recovery=cell.recovery,
        seed=cell.seed,
        stage=stage,
        forget=scores.forget.accuracy,
        retain=scores.retain.accuracy,
        test=scores.test.accuracy,
        unseen=scores.unseen.uar,
        membership=scores.membership.auc,
        gap=gap.mean,
        client_seconds=seconds,
        algorithm=cell.variant.algorithm,
        settings=cell.variant.written,
        recovery_rounds=results.setting("recovery", "rounds"),
        recovery_steps=results.setting("recovery", "steps"),
        recovery_epochs=results.setting("recovery", "epochs"),
        recovery_lr=results.setting("recovery", "lr"),
        reversion=reverted[0],
        reversion_membership=reverted[1],
        gap_forget=gap.forget,
        gap_retain=gap.retain,
        gap_test=gap.test,
        gap_membership=gap.membership,
        noise_floor=results.gap.noise_floor.mean,
        original=results.references.get("original"),
        scalars=" ".join(sorted({name for request in results.requests for name in request.scalars_read})),
        window=cell.window,
        rounds_waited_mean=_mean([request.rounds_waited for request in results.requests]),
        fold=cell.fold,
        test_uar=scores.test.uar,
        test_macro_f1=scores.test.macro_f1,
        unseen_wa=scores.unseen.accuracy,
        unseen_macro_f1=scores.unseen.macro_f1,
        membership_tpr=scores.membership.tpr_at.get("0.01"),
        **_side_effects(results, stage),
        says_nothing="" if caveat is None else str(caveat.kind),
        guarded=_guarded(results),
        control=isinstance(card, MethodCard) and bool(card.control),
        seeds=_accuracies(scores.seeds),
    )


def _side_effects(results: Results, stage: str) -> dict[str, Any]:
    """Collateral shift, spread of answers and what attacks on single utterances found, by column."""
    own, spread, attacks = results.collateral, results.collateral.spread, results.attacks
    shifted = {"unlearned": "unlearned", "recovered": "recovered", "retrained": "seeds"}.get(stage)

    def shift(of: CollateralShift) -> LogOddsShift:
        return of[shifted] if shifted else LogOddsShift.empty()

    requesters, others, unheard = map(shift, (own.requesters, own.others, attacks.collateral))
    spreads = {
        "original": spread.original,
        "unlearned": spread.unlearned,
        "recovered": spread.recovered,
        "retrained": spread.retrained,
    }
    kloms = {
        "original": attacks.klom.original,
        "unlearned": attacks.klom.unlearned,
        "recovered": attacks.klom.recovered,
        "retrained": attacks.klom.null,
    }
    stages = attacks.ulira.stages
    found = ShadowAttackScores.empty() if stage == "retrained" else stages[stage]
    after = stage in ("unlearned", "recovered")
    followed = attacks.following[stage] if after else LogOddsShift.empty()
    at_one_percent = found.tpr_at.get("0.01")
    return {
        "shift_requesters": requesters.rms,
        "shift_others": others.rms,
        "slope_requesters": requesters.slope,
        "slope_others": others.slope,
        "spread": spreads[stage],
        "shift_never_heard": unheard.rms,
        "slope_never_heard": unheard.slope,
        "follow_slope": followed.slope,
        "follow_residual": followed.residual,
        "ulira": found.auc,
        "ulira_tpr": None if at_one_percent is None else at_one_percent.value,
        "klom": kloms[stage].median,
        "klom_p95": kloms[stage].p95,
        "klom_gaussian": kloms[stage].gaussian,
    }


def _accuracies(models: Sequence[ModelScores]) -> tuple[tuple[float, float], ...]:
    pairs = ((model.forget.accuracy, model.retain.accuracy) for model in models)
    return tuple((forget, retain) for forget, retain in pairs if forget is not None and retain is not None)


def _guarded(results: Results) -> int:
    """Count the honest updates that the guard touched, each once."""
    malicious = results.attackers.clients if results.attackers else []
    return len({(done.round, done.client) for done in results.guard if done.client not in malicious})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
