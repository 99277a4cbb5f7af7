"""ROC of an attack, with its low end: how many members are found at a low false positive rate.

An attack that is right on average may find nobody with certainty, and an average hides one that is certain
about a few people: Carlini et al. 2022 (arXiv 2112.03570) therefore ask for the true positive rate (TPR) at
a low false positive rate (FPR). The lowest FPR above 0 that n negatives can measure is 1 / n (their smallest
weight, where they are weighted); below that, the TPR at FPR 0 is given, without any false positive.
"""

import numpy as np
import numpy.typing as npt

from fedunlearn.results_schema import RocCurve

Scores = npt.NDArray[np.floating]
Rates = npt.NDArray[np.float64]

LOW_RATES = {"0.01": 0.01, "0.001": 0.001}
"""FPRs at which the TPR is reported, by their name in results.json"""

ROUNDING = 1e-12
"""by which a sum of weights may come out above what it is"""

_LOW_END, _LOW_POINTS, _HIGH_POINTS = 0.01, 100, 99


def corners(
    positive: Scores, negative: Scores, negative_weights: Rates | None = None
) -> tuple[Rates, Rates] | None:
    """FPR and TPR of every threshold that matters, from (0, 0) to (1, 1); None where a side is empty.

    A threshold includes all scores that are at least as large, so that ties go together. Scores may be
    infinite.

    Args:
        positive: scores of the positives, [p], larger = more like a positive.
        negative: scores of the negatives, [n].
        negative_weights: [n], >= 0; a negative of weight 0 is left out.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("ROC: a score is NaN")
    weights = np.ones(len(negative)) if negative_weights is None else negative_weights
    negative, weights = negative[weights > 0], weights[weights > 0]
    if len(positive) == 0 or len(negative) == 0:
        return None
    # Plain sums, in scikit-learn's order: its import costs every run a second, and pandas with it.
    ranks = np.unique(np.concatenate([positive, negative]), return_inverse=True)[1]
    order = np.argsort(-ranks, kind="stable")
    is_positive = np.repeat([1.0, 0.0], [len(positive), len(negative)])
    weight = np.concatenate([np.ones(len(positive)), weights])
    last_of_ties = np.append(np.flatnonzero(np.diff(ranks[order])), len(order) - 1)
    tpr, fpr = (
        np.concatenate([[0.0], np.cumsum((side * weight)[order])[last_of_ties]])
        for side in (is_positive, 1.0 - is_positive)
    )
    tpr, fpr = tpr / tpr[-1], fpr / fpr[-1]
    within_run = [(np.diff(rate)[:-1] == 0) & (np.diff(rate)[1:] == 0) for rate in (fpr, tpr)]
    kept = np.pad(~(within_run[0] | within_run[1]), 1, constant_values=True)
    return np.clip(fpr[kept], 0.0, 1.0), np.clip(tpr[kept], 0.0, 1.0)


def tpr_at(fpr: Rates, tpr: Rates, most: float) -> float:
    """The largest TPR at a FPR of at most ``most``: of a threshold that there is, not between two."""
    return float(tpr[np.flatnonzero(fpr <= most + ROUNDING)[-1]])


def low_rates(fpr: Rates, tpr: Rates) -> dict[str, float]:
    """TPR at each of ``LOW_RATES``."""
    return {name: tpr_at(fpr, tpr, most) for name, most in LOW_RATES.items()}


def thin(fpr: Rates, tpr: Rates) -> RocCurve:
    """Keep at most some 200 of the corners: all up to FPR 1 %, beyond that evenly along the curve.

    Between two that are kept beyond 1 %, FPR and TPR together grow by 2 % or by one single corner. Of more
    than 100 corners up to 1 % (only from thousands of negatives on), 100 are kept, evenly by the logarithm.
    """
    low = np.flatnonzero(fpr <= _LOW_END)
    if len(low) > _LOW_POINTS:
        marks = np.geomspace(fpr[fpr > 0][0], _LOW_END, _LOW_POINTS - 2)
        low = np.unique([0, *(np.searchsorted(fpr, np.append(0.0, marks) + ROUNDING, "right") - 1)])
    high = np.arange(int(low[-1]), len(fpr))
    if len(high) > _HIGH_POINTS:
        along = (fpr + tpr)[high]
        high = high[np.searchsorted(along, np.linspace(along[0], along[-1], _HIGH_POINTS))]
    kept = np.unique([*low, *high, len(fpr) - 1])
    return RocCurve(fpr=fpr[kept].tolist(), tpr=tpr[kept].tolist())
