"""U-LiRA: per-example membership inference against unlearned models.

Hayes et al. 2024 (arXiv 2403.01218) on Carlini et al. 2022 (arXiv 2112.03570). A population attack asks
whether forget utterances look like members; this one knows, for each single utterance, how models answer
that have unlearned it (IN) and how models answer that never saw it (OUT), and asks which of the two the
attacked model looks like. What is hard for everybody, or easy for everybody, no longer hides a member.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from fedunlearn.evaluation.shadow_attack import BooleanMask, CannotAttack, Matrix, attack_result
from fedunlearn.results_schema import ShadowAttackScores

OWN_VARIANCE = 32
"""Shadows from which on each utterance has two variances of its own. With fewer, each is pooled over the
utterances, as Carlini et al. 2022 do below 64; measured with ``simulations/measure_figures/hidden_loss.py``,
32 shadows are enough for the utterance's own to find as much or more, by AUC and at low FPR."""

LEAST_DEVIATION = 1e-3
"""nats; a smaller standard deviation counts as this one: float32 logits say no more"""

LEAST_OTHERS = 2
"""shadows besides the attacked one that were trained on an utterance, and as many that were not"""

LEAST_UTTERANCES = 4
"""of which any pair is attacked. An utterance's own pairs lean on each other, as what is IN in one is among
the others of the next: where there is nothing to find, the AUC of one alone is .35 on average with 8 shadows
and .44 with 64, and 7 of 10 intervals hold .5; of 4 it is .47 with 16 and .48 with 64, and 92 to 96 of 100
do"""


def confidence(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Matrix:
    """phi = ln p_y - ln(1 - p_y), in nats; NaN where a logit is not finite.

    It equals the true class's logit less the log-sum-exp of the others, which is finite for every finite
    logit, where 1 - p_y has long been rounded to 0. It falls as the loss rises: loss = ln(1 + exp(-phi)).

    Args:
        logits: [..., K, C].
        labels: [K], in 0 ... C - 1.

    Raises:
        ValueError: fewer than 2 classes.
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"confidence needs 2 classes or more (got {classes})")
    wide = logits.astype(np.float64)
    finite = np.isfinite(wide).all(-1)
    wide[~finite] = 0.0
    own = np.arange(classes) == labels[:, None]
    others = logsumexp(np.where(own, -np.inf, wide), axis=-1)
    return np.where(finite, (wide * own).sum(-1) - others, np.nan)


def likelihood_ratios(phi: Matrix, inside: BooleanMask) -> Matrix:
    """log N_in(phi) - log N_out(phi) [S, K] of each pair, both Gaussians fitted on the other shadows alone.

    NaN for an unknown phi, and where fewer than ``LEAST_OTHERS`` other shadows are IN or OUT. (It is the
    others that are counted: whether a pair is attacked must not depend on what it is itself, or an attack
    with few shadows finds what is not there.)
    """
    known = ~np.isnan(phi)
    values = np.where(known, phi, 0.0)
    sides = [known & inside, known & ~inside]
    attacked = known & (np.minimum(*(side.sum(0) - side for side in sides)) >= LEAST_OTHERS)
    used = attacked.any(0)
    scores = np.full(phi.shape, np.nan)
    if used.any():
        like_in, like_out = (_log_density(values[:, used], side[:, used]) for side in sides)
        scores[:, used] = np.where(attacked[:, used], like_in - like_out, np.nan)
    return scores


def u_lira(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    inside: BooleanMask,
    resamples: int,
    rng: np.random.Generator,
) -> ShadowAttackScores:
    """Attack each shadow in turn with Gaussians from the others; all attacked pairs make one ROC.

    Args:
        logits: [S, K, C] of S shadows on K candidate utterances.
        labels: [K].
        inside: [S, K], True where the shadow was trained on the utterance (and unlearned it, if it did).
        resamples: of the bootstrap, see ``attack_result``.
        rng: of the bootstrap.

    Raises:
        CannotAttack: fewer than ``LEAST_UTTERANCES`` were both trained on and not, often enough.
    """
    scores = likelihood_ratios(confidence(logits, labels), inside)
    if np.isnan(scores).all():
        raise CannotAttack(
            f"U-LiRA needs utterances that at least {LEAST_OTHERS} other shadows were trained on and "
            f"{LEAST_OTHERS} were not: set evaluation.shadows higher (got {len(inside)})"
        )
    attacked = int((~np.isnan(scores)).any(0).sum())
    if attacked < LEAST_UTTERANCES:
        raise CannotAttack(
            f"U-LiRA says nothing of fewer than {LEAST_UTTERANCES} utterances: their scores lean on each "
            f"other (got {attacked})"
        )
    return attack_result(scores, inside, resamples, rng)


def _log_density(values: Matrix, used: BooleanMask) -> Matrix:
    """log N(values) [S, K], up to a constant: mean and variance of each row from the other rows' used ones.

    What a row takes out of an utterance's sum of squares about the mean m of n is (x - m)^2 n / (n - 1).
    """
    n = used.sum(0)
    others = np.maximum(n - used, 1)  # where there are fewer, the pair is not attacked
    mean = (values * used).sum(0) / n
    deviation = (values - mean) * used
    mean_of_others = mean - deviation / others
    squares = (deviation**2).sum(0) - deviation**2 * n / others
    if len(values) >= OWN_VARIANCE:
        variance = squares / np.maximum(others - 1, 1)
    else:
        variance = squares.sum(1, keepdims=True) / np.maximum((others - 1).sum(1, keepdims=True), 1)
    variance = np.maximum(variance, LEAST_DEVIATION**2)
    density: Matrix = -0.5 * (np.log(variance) + (values - mean_of_others) ** 2 / variance)
    return density
