"""GUM and CGUM: forgetting, recognition and speed in one number, to compare with the speech benchmark.

GUM is UnSLU-BENCH's (Koudounas et al. 2025, arXiv 2505.15700), CGUM its successor (Savelli et al. 2026, as
given in the benchmark's public repository, koudounasalkis/UnSLU-BENCH, CGUM.ipynb). ``gum`` reproduces the
benchmark's published rows (tests/evaluation/test_gum.py); for CGUM no published table was found to check
against.

One number for three things does not say which of them is good or bad: read the gap first.
"""

from collections.abc import Mapping, Sequence
from math import log

import numpy as np

from fedunlearn.results_schema import GumReport, GumScores, Models, ModelScores, PhaseCostRow

_EPSILON = 1e-6
"""the benchmark's, against division by 0; part of the published values"""


def efficacy(mia: float, mia_original: float, mia_gold: float) -> float:
    """How well membership is hidden: 1 at the retrained model's value, 0 at the original's or above.

    1 - ((m - g) / (o - g))^2 with o the original's, m = min(mia, o) and g = min((m + o) / 2, gold): from
    the retrained model's value to well below it, little is lost. 0 where the original's value is reached,
    whatever the retrained model's is.

    Args:
        mia: success of a membership attack, in [0, 1], on the model that is judged.
        mia_original: the same on the original.
        mia_gold: the same on the retrained model.
    """
    hidden = min(mia, mia_original)
    wanted = min((hidden + mia_original) / 2, mia_gold)
    if wanted >= mia_original:
        return 0.0
    return _clip(1.0 - ((hidden - wanted) / (mia_original - wanted)) ** 2)


def speed(seconds: float, seconds_gold: float) -> float:
    """1 - ln(t + 1) / ln(t_gold + 1), in [0, 1]: 0 where unlearning takes as long as retraining, or longer.

    The formula is negative where unlearning takes longer; here it is 0 then, as in CGUM. No published row is
    affected.

    Args:
        seconds: of unlearning.
        seconds_gold: of retraining, > 0. The logarithm of seconds is no ratio: the same speed-up counts for
            less where retraining takes seconds than where it takes a day.
    """
    return _clip(1.0 - log(seconds + 1.0) / log(seconds_gold + 1.0))


def gum(
    f1: float,
    f1_gold: float,
    mia: float,
    mia_original: float,
    mia_gold: float,
    seconds: float,
    seconds_gold: float,
) -> float:
    """GUM: the harmonic mean of efficacy E, utility U = 1 - |F1 difference| and speed T, in [0, 1].

    3 U E T / (E T + U T + U E + 1e-6).

    Args:
        f1: macro F1 on test speech of the model that is judged.
        f1_gold: macro F1 of the retrained model.
        mia: see ``efficacy``.
        mia_original: see ``efficacy``.
        mia_gold: see ``efficacy``.
        seconds: see ``speed``.
        seconds_gold: see ``speed``.
    """
    return _balanced(
        1.0 - abs(f1 - f1_gold), efficacy(mia, mia_original, mia_gold), speed(seconds, seconds_gold)
    )


def cgum(
    f1: float,
    f1_gold: float,
    mia: float,
    mia_original: float,
    mia_gold: float,
    seconds: float,
    seconds_gold: float,
    classes: int,
) -> float:
    """CGUM with its weights alpha = beta = 1: like GUM, but with parts measured from chance, in [0, 1].

    U = (F1 - 1/C) / (F1_gold - 1/C): a model at chance has utility 0, one better than the retrained 1.
    E = 1 - |m - gold| / |original - gold|, m held on the retrained model's side of the original: linear, and
    0 for a model that hides as far below the retrained one's value as the original stands above it.

    Args:
        f1: macro F1 on test speech of the model that is judged.
        f1_gold: macro F1 of the retrained model.
        mia: see ``efficacy``.
        mia_original: see ``efficacy``.
        mia_gold: see ``efficacy``.
        seconds: see ``speed``.
        seconds_gold: see ``speed``.
        classes: number of emotions, C.
    """
    chance = 1.0 / classes
    utility = _clip((f1 - chance) / (f1_gold - chance + _EPSILON))
    held = min(mia, mia_original) if mia_original >= mia_gold else max(mia, mia_original)
    hidden = _clip(1.0 - abs(held - mia_gold) / (abs(mia_original - mia_gold) + _EPSILON))
    time = _clip(1.0 - log(seconds + 1.0) / (log(seconds_gold + 1.0) + _EPSILON))
    return _balanced(utility, hidden, time)


def macro_f1(confusion: Sequence[Sequence[int]]) -> float | None:
    """Mean F1 over the emotions that occur or are recognised, from counts [true][recognised].

    None where there are no utterances. Equal to scikit-learn's f1_score(average="macro").
    """
    counts = np.array(confusion, np.int64)
    both = counts.sum(0) + counts.sum(1)
    if not both.any():
        return None
    return float((2.0 * np.diag(counts)[both > 0] / both[both > 0]).mean())


def gum_of(models: Models, cost: Mapping[str, PhaseCostRow]) -> GumReport | None:
    """GUM and CGUM of a run's unlearned and recovered models, for ``results.gum``.

    Computed from macro F1 on the test speech of client speakers; the AUC of the population attack, where the
    benchmark has an attack's accuracy (chance is 1/2 of both, but an AUC moves more, and below 1/2 for a
    model that never saw D_f); client-seconds of unlearning, and with them of recovery, against client-seconds
    of retraining, where the benchmark has one GPU's wall clock. Values can be compared with each other; with
    the published ones only roughly.

    Args:
        models: of the run; of the retrained seeds the mean counts.
        cost: of the run, by phase.

    Returns:
        the scores of both, in [0, 1], larger is better; None where the test set or the comparison of losses
        is empty, or where retraining cost nothing.
    """
    seeds = models.retrained.seeds or [models.retrained]
    f1_gold, mia_gold = _mean([_f1(s) for s in seeds]), _mean([_mia(s) for s in seeds])
    original = _mia(models.original)
    gold_seconds = cost["retrain"].client_seconds or 0.0
    if f1_gold is None or mia_gold is None or original is None or gold_seconds <= 0:
        return None

    def score(model: ModelScores, seconds: float) -> GumScores | None:
        f1, mia = _f1(model), _mia(model)
        if f1 is None or mia is None:
            return None
        known = (f1, f1_gold, mia, original, mia_gold, seconds, gold_seconds)
        return GumScores(
            gum=gum(*known),
            cgum=cgum(*known, classes=len(model.confusion.test)),
            efficacy=efficacy(mia, original, mia_gold),
            utility=1.0 - abs(f1 - f1_gold),
            time=speed(seconds, gold_seconds),
        )

    unlearning, recovery = (cost[phase].client_seconds or 0.0 for phase in ("unlearn", "recover"))
    unlearned = score(models.unlearned, unlearning)
    recovered = score(models.recovered, unlearning + recovery)
    if unlearned is None or recovered is None:
        return None
    return GumReport(unlearned=unlearned, recovered=recovered)


def _balanced(utility: float, efficacy: float, time: float) -> float:
    product = utility * efficacy * time
    return 3 * product / (efficacy * time + utility * time + utility * efficacy + _EPSILON)


def _clip(value: float) -> float:
    return max(0.0, min(1.0, value))


def _f1(model: ModelScores) -> float | None:
    return macro_f1(model.confusion.test)


def _mia(model: ModelScores) -> float | None:
    return model.membership.auc


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
