"""The measures of the table of methods: names, explanations, and where results hold them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from fedunlearn.results_schema import (
    AccuracyChange,
    CollateralShift,
    DistanceScores,
    Gap,
    GumScores,
    KlomScores,
    ModelScores,
    PhaseCostRow,
    RelearnTime,
    Results,
    ShadowAttackReport,
    ShadowAttackScores,
)

Stage = Literal["original", "unlearned", "recovered", "retrained"]
STAGES: Final[tuple[Stage, ...]] = ("original", "unlearned", "recovered", "retrained")

Target = Literal["low", "high", "reference", ""]
"""Which values are good: low or high ones, those of the retrained models, or none in particular."""

_FIRST_FPR = "0.01"


@dataclass(frozen=True)
class MethodMeasure:
    """A column of the table of methods.

    Attributes:
        key: identifies it.
        label: head of its column.
        topic: group of columns that are shown or hidden together.
        explanation: one sentence.
        target: which values are good.
        value: of a model of a run; None where results do not hold it.
    """

    key: str
    label: str
    topic: str
    explanation: str
    target: Target
    value: Callable[[Results, Stage], float | None]


def _gap(part: Callable[[Gap], float | None]) -> Callable[[Results, Stage], float | None]:
    def value(results: Results, stage: Stage) -> float | None:
        gaps = results.gap
        of_stage = {
            "original": gaps.none,
            "unlearned": gaps.unlearned,
            "recovered": gaps.recovered,
            "retrained": gaps.noise_floor,
        }
        return part(of_stage[stage])

    return value


def _score(part: Callable[[ModelScores], float | None]) -> Callable[[Results, Stage], float | None]:
    """A score; of the retrained models the mean over seeds."""

    def value(results: Results, stage: Stage) -> float | None:
        scores = results.models[stage]
        return _mean(part(seed) for seed in scores.seeds) if scores.seeds else part(scores)

    return value


def _difference(part: Callable[[ModelScores], float | None]) -> Callable[[Results, Stage], float | None]:
    """A score less the mean over retrained seeds."""
    score = _score(part)

    def value(results: Results, stage: Stage) -> float | None:
        own, reference = score(results, stage), score(results, "retrained")
        return None if own is None or reference is None else own - reference

    return value


def _distance(part: Callable[[DistanceScores], float | None]) -> Callable[[Results, Stage], float | None]:
    return lambda results, stage: part(results.distances[stage])


def _shadow(
    attack: Callable[[Results], ShadowAttackReport], part: Callable[[ShadowAttackScores], float | None]
) -> Callable[[Results, Stage], float | None]:
    return lambda results, stage: None if stage == "retrained" else part(attack(results).stages[stage])


def _tpr(scores: ShadowAttackScores) -> float | None:
    rate = scores.tpr_at.get(_FIRST_FPR)
    return None if rate is None else rate.value


def _klom(part: Callable[[KlomScores], float | None]) -> Callable[[Results, Stage], float | None]:
    def value(results: Results, stage: Stage) -> float | None:
        report = results.attacks.klom
        of_stage = {
            "original": report.original,
            "unlearned": report.unlearned,
            "recovered": report.recovered,
            "retrained": report.null,
        }
        return part(of_stage[stage])

    return value


def _shift(of: Callable[[Results], CollateralShift]) -> Callable[[Results, Stage], float | None]:
    """Shift from the original; of the retrained models that from seed to seed."""

    def value(results: Results, stage: Stage) -> float | None:
        return None if stage == "original" else of(results)["seeds" if stage == "retrained" else stage].rms

    return value


def _change(part: Callable[[AccuracyChange], float | None]) -> Callable[[Results, Stage], float | None]:
    return lambda results, stage: None if stage == "original" else part(results.fairness.change[stage])


def _gum(part: Callable[[GumScores], float | None]) -> Callable[[Results, Stage], float | None]:
    return lambda results, stage: part(results.gum[stage]) if stage in ("unlearned", "recovered") else None


def _relearn(part: Callable[[RelearnTime], float | None]) -> Callable[[Results, Stage], float | None]:
    return lambda results, stage: part(results.relearn[stage])


def _seconds(results: Results, stage: Stage) -> float | None:
    return _cost(results, stage, lambda row: row.client_seconds)


def _megabytes(results: Results, stage: Stage) -> float | None:
    moved = _cost(
        results,
        stage,
        lambda row: None if row.bytes_up is None or row.bytes_down is None else row.bytes_up + row.bytes_down,
    )
    return None if moved is None else moved / 1e6


def _cost(results: Results, stage: Stage, part: Callable[[PhaseCostRow], float | None]) -> float | None:
    """What it took to make a model of the original one."""
    phases = {
        "original": (),
        "unlearned": ("unlearn",),
        "recovered": ("unlearn", "recover"),
        "retrained": ("retrain",),
    }
    spent = [part(results.cost.get(phase, PhaseCostRow.empty())) for phase in phases[stage]]
    known = [value for value in spent if value is not None]
    return sum(known) if len(known) == len(spent) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


MEASURES: Final[tuple[MethodMeasure, ...]] = (
    MethodMeasure(
        "gap",
        "mean gap",
        "gap",
        "Mean distance to the retrained models; of these the noise floor.",
        "low",
        _gap(lambda gap: gap.mean),
    ),
    MethodMeasure(
        "gap_forget",
        "gap forget",
        "gap",
        "Distance in forget accuracy to the retrained models.",
        "low",
        _gap(lambda gap: gap.forget),
    ),
    MethodMeasure(
        "gap_retain",
        "gap retain",
        "gap",
        "Distance in retain accuracy to the retrained models.",
        "low",
        _gap(lambda gap: gap.retain),
    ),
    MethodMeasure(
        "gap_test",
        "gap test",
        "gap",
        "Distance in test accuracy to the retrained models.",
        "low",
        _gap(lambda gap: gap.test),
    ),
    MethodMeasure(
        "gap_membership",
        "gap membership",
        "gap",
        "Distance in membership AUC to the retrained models.",
        "low",
        _gap(lambda gap: gap.membership),
    ),
    MethodMeasure(
        "forget",
        "forget acc.",
        "accuracy",
        "Accuracy on the deleted utterances.",
        "reference",
        _score(lambda scores: scores.forget.accuracy),
    ),
    MethodMeasure(
        "retain",
        "retain acc.",
        "accuracy",
        "Accuracy on the training utterances that clients keep.",
        "reference",
        _score(lambda scores: scores.retain.accuracy),
    ),
    MethodMeasure(
        "test",
        "test acc.",
        "accuracy",
        "Accuracy (WA) on held-out speech of client speakers.",
        "high",
        _score(lambda scores: scores.test.accuracy),
    ),
    MethodMeasure(
        "test_uar",
        "test UAR",
        "accuracy",
        "Unweighted average recall on held-out speech.",
        "high",
        _score(lambda scores: scores.test.uar),
    ),
    MethodMeasure(
        "test_macro_f1",
        "test F1",
        "accuracy",
        "Macro F1 on held-out speech.",
        "high",
        _score(lambda scores: scores.test.macro_f1),
    ),
    MethodMeasure(
        "unseen",
        "unseen UAR",
        "accuracy",
        "Unweighted average recall on speakers who take no part.",
        "high",
        _score(lambda scores: scores.unseen.uar),
    ),
    MethodMeasure(
        "membership",
        "membership AUC",
        "attacks",
        "AUC of the population attack by loss; .5 is chance.",
        "reference",
        _score(lambda scores: scores.membership.auc),
    ),
    MethodMeasure(
        "membership_tpr",
        "TPR at 1 %",
        "attacks",
        "True positive rate of that attack at 1 % false positives.",
        "reference",
        _score(lambda scores: scores.membership.tpr_at.get(_FIRST_FPR)),
    ),
    MethodMeasure(
        "ulira",
        "U-LiRA AUC",
        "attacks",
        "AUC of the attack on single utterances with shadow models.",
        "low",
        _shadow(lambda results: results.attacks.ulira, lambda scores: scores.auc),
    ),
    MethodMeasure(
        "ulira_tpr",
        "U-LiRA TPR at 1 %",
        "attacks",
        "Its true positive rate at 1 % false positives.",
        "low",
        _shadow(lambda results: results.attacks.ulira, _tpr),
    ),
    MethodMeasure(
        "informed",
        "informed AUC",
        "attacks",
        "AUC of the attack trained on the other requests.",
        "low",
        _shadow(lambda results: results.attacks.informed, lambda scores: scores.auc),
    ),
    MethodMeasure(
        "klom",
        "KLoM",
        "attacks",
        "Median KL divergence of margins, in nats.",
        "low",
        _klom(lambda scores: scores.median),
    ),
    MethodMeasure(
        "klom_p95",
        "KLoM p95",
        "attacks",
        "Its 95th percentile: the utterances that are answered worst.",
        "low",
        _klom(lambda scores: scores.p95),
    ),
    MethodMeasure(
        "relearn",
        "relearn steps",
        "attacks",
        "Gradient steps until the deleted utterances are known again.",
        "reference",
        _relearn(lambda time: time.steps),
    ),
    MethodMeasure(
        "shift_others",
        "shift others",
        "side effects",
        "Rms shift of log-odds on held-out speech of those who did not ask, in nats.",
        "reference",
        _shift(lambda results: results.collateral.others),
    ),
    MethodMeasure(
        "shift_requesters",
        "shift requesters",
        "side effects",
        "Rms shift of log-odds on held-out speech of those who asked, in nats.",
        "reference",
        _shift(lambda results: results.collateral.requesters),
    ),
    MethodMeasure(
        "change_mean",
        "mean change",
        "side effects",
        "Change of test accuracy against the original, mean over the speakers who stay.",
        "high",
        _change(lambda change: change.mean),
    ),
    MethodMeasure(
        "change_worst",
        "worst change",
        "side effects",
        "Change of test accuracy of the speaker who loses most.",
        "high",
        _change(lambda change: change.worst),
    ),
    MethodMeasure(
        "tow",
        "tug of war",
        "distances",
        "Product of 1 - accuracy difference over the three sets.",
        "high",
        _distance(lambda scores: scores.tow),
    ),
    MethodMeasure(
        "ks",
        "KS",
        "distances",
        "Kolmogorov-Smirnov distance of the losses on the deleted utterances.",
        "low",
        _distance(lambda scores: scores.ks),
    ),
    MethodMeasure(
        "js",
        "JS",
        "distances",
        "Jensen-Shannon divergence of the predictions on them, in nats.",
        "low",
        _distance(lambda scores: scores.js),
    ),
    MethodMeasure(
        "gum",
        "GUM",
        "distances",
        "Harmonic mean of efficacy, utility and time saved.",
        "high",
        _gum(lambda scores: scores.gum),
    ),
    MethodMeasure("seconds", "client s", "cost", "CPU time on the clients, summed, in s.", "low", _seconds),
    MethodMeasure("megabytes", "MB moved", "cost", "Messages in both directions, in MB.", "low", _megabytes),
)
"""in the order of the columns"""

FORGET_DIFFERENCE: Final = _difference(lambda scores: scores.forget.accuracy)
RETAIN_DIFFERENCE: Final = _difference(lambda scores: scores.retain.accuracy)
TEST_DIFFERENCE: Final = _difference(lambda scores: scores.test.accuracy)
