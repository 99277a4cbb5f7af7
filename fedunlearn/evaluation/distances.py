"""Distances between a model and a retrained one: in accuracy (ToW), in loss (KS, W1), in output (JS)."""

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from fedunlearn.results_schema import ModelScores

Losses = npt.NDArray[np.floating]
Outputs = npt.NDArray[np.floating]


def tug_of_war(model: ModelScores, reference: ModelScores) -> float | None:
    """ToW (Zhao et al. 2024, arXiv 2406.01257): product over D_f, D_r, D_t of 1 - |accuracy difference|.

    In [0, 1]; 1 = the accuracies of the reference. None where one of the six accuracies is unknown.

    Args:
        model: scores of the model.
        reference: scores of the retrained model.
    """
    product = 1.0
    pairs = (
        (model.forget, reference.forget),
        (model.retain, reference.retain),
        (model.test, reference.test),
    )
    for own, wanted in pairs:
        if own.accuracy is None or wanted.accuracy is None:
            return None
        product *= 1.0 - abs(own.accuracy - wanted.accuracy)
    return product


def kolmogorov_smirnov(a: Losses, b: Losses) -> float | None:
    """Largest difference between the distribution functions of two sets of losses: [n], [m] -> [0, 1].

    It depends on the order alone, so an infinite loss is like any other. None where either set is empty.

    Raises:
        ValueError: a loss is NaN.
    """
    _no_nan(a, b)
    if len(a) == 0 or len(b) == 0:
        return None
    return float(np.abs(_share_up_to(np.concatenate([a, b]), a, b)).max())


def wasserstein(a: Losses, b: Losses) -> float | None:
    """Wasserstein-1 distance of two sets of losses: [n], [m] -> nats, >= 0.

    The area between their distribution functions. None where either set is empty, or holds an infinite loss:
    the distance is not defined.

    Raises:
        ValueError: a loss is NaN.
    """
    _no_nan(a, b)
    if len(a) == 0 or len(b) == 0 or np.isinf(a).any() or np.isinf(b).any():
        return None
    steps = np.sort(np.concatenate([a, b]).astype(np.float64), kind="stable")
    return float(np.vecdot(np.abs(_share_up_to(steps[:-1], a, b)), np.diff(steps)))


def jensen_shannon(p: Outputs, q: Outputs) -> float | None:
    """Mean Jensen-Shannon divergence of two models' outputs, utterance by utterance: in nats, [0, ln 2].

    Per utterance 0.5 KL(p || m) + 0.5 KL(q || m), m = (p + q) / 2 (Lin 1991); then the mean over utterances.
    Not its square root, which SciPy calls the distance, and not a mean over classes, which the default
    reduction of torch's kl_div would give.

    Args:
        p: probabilities of one model, [n, C], rows summing to 1.
        q: probabilities of the other model for the same utterances, [n, C].

    Returns:
        None where n is 0.

    Raises:
        ValueError: shapes differ, or a row is no distribution.
    """
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"jensen_shannon: outputs of shapes {p.shape} and {q.shape}")
    if len(p) == 0:
        return None
    for rows in (p, q):
        # "not >=", so that NaN is found too.
        if not (rows >= 0).all() or not np.allclose(rows.sum(1), 1.0, rtol=0, atol=1e-4):
            raise ValueError("jensen_shannon: a row is not a distribution over the emotions")
    p, q = p.astype(np.float64), q.astype(np.float64)
    m = 0.5 * (p + q)
    each = 0.5 * rel_entr(p, m).sum(1) + 0.5 * rel_entr(q, m).sum(1)
    return float(np.clip(each.mean(), 0.0, np.log(2.0)))


def _share_up_to(values: Losses, a: Losses, b: Losses) -> npt.NDArray[np.float64]:
    """Distribution function of a minus that of b, at each value."""
    # As in scipy.stats, whose import takes a second.
    in_a, in_b = (np.sort(some).searchsorted(values, "right") / len(some) for some in (a, b))
    difference: npt.NDArray[np.float64] = in_a - in_b
    return difference


def _no_nan(*losses: Losses) -> None:
    if any(np.isnan(some).any() for some in losses):
        raise ValueError("a loss is NaN")
