"""95 % intervals of accuracies, of UAR, and of a mean distance.

Intervals of shares have their coverage on average over the true share, not at every single one, as counts
are whole numbers. Coverage is tested by simulation (tests/evaluation/test_intervals.py).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri  # scipy.stats takes a second to import

LEVEL = 0.95
_TAIL = (1.0 - LEVEL) / 2.0
_Z = float(ndtri(1.0 - _TAIL))

Labels = npt.NDArray[np.integer]
Numbers = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]
Bounds = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def share_interval(right: int, n: int) -> tuple[float, float] | None:
    """95 % interval of a share, from ``right`` of ``n``; None where n is 0.

    The modified Jeffreys interval of Brown, Cai and DasGupta (2001, doi 10.1214/ss/1009213286): quantiles of
    Beta(right + 1/2, n - right + 1/2), exact where all or none are right. Of 400 true shares from 0.005 to
    0.995 none is covered less than 89 % of the time at any n tried (1 to 480), the mean is 95 to 99 %;
    Wilson's interval falls to 80 % at small n.

    Raises:
        ValueError: ``right`` is not in 0..n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"share_interval: {right} of {n} cannot be")
    if n == 0:
        return None
    low, high = _jeffreys(np.array([right]), np.array([n]))
    return float(low[0]), float(high[0])


def accuracy_interval(labels: Labels, predictions: Labels) -> tuple[float, float] | None:
    """95 % interval of the share recognised. [n], [n]; None where n is 0."""
    return share_interval(int((labels == predictions).sum()), len(labels))


def uar_interval(labels: Labels, predictions: Labels) -> tuple[float, float] | None:
    """95 % interval of the mean recall over the emotions that occur. [n], [n]; None where n is 0.

    See ``mean_share_interval``: a bootstrap over utterances would give no width at all to an emotion of one
    utterance, or to recalls of 0 and 1.
    """
    if len(labels) == 0:
        return None
    emotions = np.unique(labels)
    n = np.array([(labels == c).sum() for c in emotions])
    right = np.array([(predictions[labels == c] == c).sum() for c in emotions])
    low, high = mean_share_interval(right, n)
    return float(low), float(high)


def mean_share_interval(right: Counts, n: Counts) -> Bounds:
    """95 % interval of the unweighted mean of K shares, each from ``right`` of ``n``.

    The wider, on each side, of two intervals, as each alone fails somewhere:
    - MOVER (Zou and Donner 2008, doi 10.1002/sim.3095) from each share's Jeffreys interval, which keeps the
      uncertainty of a rare emotion; too narrow where every emotion has a few utterances (as low as 86 %);
    - Wilson's with as many utterances as would give the mean its variance, each share drawn to the mean by
      one utterance; alone it overlooks a rare emotion that came out like the others (as low as 50 %).

    Args:
        right: [..., K] of whole numbers.
        n: [K], each > 0.

    Returns:
        (low, high), each [...], in [0, 1].
    """
    kinds = right.shape[-1]
    shares = right / n
    mean = shares.mean(-1)
    low, high = _jeffreys(right, np.broadcast_to(n, right.shape))
    down = np.sqrt(((shares - low) ** 2).sum(-1)) / kinds
    up = np.sqrt(((high - shares) ** 2).sum(-1)) / kinds
    drawn = (right + mean[..., None]) / (n + 1)
    variance = (drawn * (1 - drawn) / n).sum(-1) / kinds**2
    # Where all are right, or none: as if all shares were the same.
    alike = kinds**2 / (1.0 / n).sum()
    size = np.where(variance > 0, mean * (1 - mean) / np.where(variance > 0, variance, 1.0), alike)
    centre = (mean + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * np.sqrt(mean * (1 - mean) / size + _Z**2 / (4 * size**2))
    return (
        np.maximum(np.minimum(mean - down, centre - half), 0.0),
        np.minimum(np.maximum(mean + up, centre + half), 1.0),
    )


def l1_interval(observed: Numbers, resampled: Numbers) -> tuple[float, float] | None:
    """95 % interval of a mean distance, the mean of |d| over measures and references.

    A bootstrap of the distance itself is biased upwards: noise has no sign, so that a true distance of 0
    would never be covered. Here the half width h is the 95 % quantile over resamples b of
    mean |resampled_b - observed|; as mean |d| is a norm, by the triangle inequality it errs by no more than
    that, and max(0, g - h) to min(1, g + h) covers at least as often as the resamples are faithful.

    Args:
        observed: signed differences [M, S] of M measures to S references.
        resampled: the same, from resampled utterances [B, M, S]. NaN in either = unknown; left out of the
            means.

    Returns:
        (low, high) in [0, 1]; None where nothing is known.
    """
    known = ~np.isnan(observed)
    if not known.any() or len(resampled) == 0:
        return None
    gap = float(np.abs(observed[known]).mean())
    # By hand, as numpy's nanmean warns of a resample in which nothing is known.
    there = known & ~np.isnan(resampled)
    away = np.where(there, np.abs(np.where(there, resampled, 0.0) - np.where(known, observed, 0.0)), 0.0)
    counted = there.sum((1, 2))
    if not counted.any():
        return None
    half = float(np.quantile(away.sum((1, 2))[counted > 0] / counted[counted > 0], LEVEL))
    return max(0.0, gap - half), min(1.0, gap + half)


def _jeffreys(right: Counts, n: Counts) -> Bounds:
    """Modified Jeffreys intervals of shares, of any shape."""
    low = np.asarray(betaincinv(right + 0.5, n - right + 0.5, _TAIL), np.float64)
    high = np.asarray(betaincinv(right + 0.5, n - right + 0.5, 1 - _TAIL), np.float64)
    exact = _TAIL ** (1.0 / n)
    low = np.where(right <= 1, 0.0, np.where(right == n, exact, low))
    high = np.where(right >= n - 1, 1.0, np.where(right == 0, 1.0 - exact, high))
    # One utterance is both the first and the last of its kind.
    low = np.where((n == 1) & (right == 1), exact, low)
    high = np.where((n == 1) & (right == 0), 1.0 - exact, high)
    return low, high
