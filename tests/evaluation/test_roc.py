"""The ROC by hand, by counting, and thin without losing its low end."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from fedunlearn.evaluation.roc import corners, low_rates, thin, tpr_at
from fedunlearn.seeding import rng_for

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=25)


def curve(
    positive: list[float], negative: list[float], weights: list[float] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    found = corners(
        np.array(positive, float), np.array(negative, float), None if weights is None else np.array(weights)
    )
    assert found is not None
    return found


def test_a_threshold_takes_all_that_are_tied() -> None:
    """Scores 3+, 2+ 2-, 1-: nobody is accused at 3; at 2 the tied pair goes together."""
    fpr, tpr = curve([3, 2], [2, 1])
    assert (fpr.tolist(), tpr.tolist()) == ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    assert [tpr_at(fpr, tpr, most) for most in (0.0, 0.4999, 0.5, 1.0)] == [0.5, 0.5, 1.0, 1.0]


def test_the_tpr_is_of_a_threshold_that_there_is() -> None:
    """10 negatives measure no FPR between 0 and .1: at 1 % the rate without any wrong accusation is
    reported."""
    fpr, tpr = curve([5, 4, 3, 2], [4.5, *range(-9, 0)])
    assert low_rates(fpr, tpr) == {"0.01": 0.25, "0.001": 0.25}
    assert tpr_at(fpr, tpr, 0.0999) == 0.25 and tpr_at(fpr, tpr, 0.1) == 1.0


def test_a_tie_at_the_top_leaves_nothing_certain() -> None:
    assert low_rates(*curve([1, 1, 1], [1, 0])) == {"0.01": 0.0, "0.001": 0.0}


def test_weights_are_shares_of_the_negatives() -> None:
    fpr, tpr = curve([2, 0], [1, 3, -1], [0.98, 0.01, 0.01])
    assert fpr == pytest.approx([0.0, 0.01, 0.01, 0.99, 0.99, 1.0])
    assert tpr_at(fpr, tpr, 0.01) == 0.5  # a hundredth is a hundredth, whatever floating point makes of it


def test_who_weighs_nothing_is_not_there() -> None:
    assert corners(np.ones(2), np.zeros(2), np.zeros(2)) is None
    for one, other in zip(curve([2, 0], [1, 9], [1.0, 0.0]), curve([2, 0], [1]), strict=True):
        assert one.tolist() == other.tolist()


def test_infinite_scores_are_scores_and_nan_is_none() -> None:
    infinite = float("inf")
    for one, other in zip(curve([infinite, 1], [0, -infinite]), curve([3, 2], [1, 0]), strict=True):
        assert one.tolist() == other.tolist()
    with pytest.raises(ValueError, match="NaN"):
        corners(np.array([np.nan]), np.zeros(1))


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 60), st.booleans(), st.integers(1, 40))
def test_the_corners_are_scikit_learns(seed: int, p: int, n: int, weighted: bool, levels: int) -> None:
    """All thresholds of scikit-learn's curve are on ours, bit for bit, and ours has no other corners."""
    rng = np.random.default_rng(seed)
    positive, negative = (rng.integers(0, levels, k).astype(float) for k in (p, n))
    weights = rng.random(n) + 0.01 if weighted else np.ones(n)
    fpr, tpr, _ = roc_curve(
        np.repeat([1, 0], [p, n]),
        np.concatenate([positive, negative]),
        sample_weight=np.concatenate([np.ones(p), weights]),
        drop_intermediate=False,
    )
    found = corners(positive, negative, weights if weighted else None)
    assert found is not None
    theirs = set(zip(np.clip(fpr, 0, 1).tolist(), np.clip(tpr, 0, 1).tolist(), strict=True))
    assert set(zip(*(rate.tolist() for rate in found), strict=True)) <= theirs
    assert np.trapezoid(*found[::-1]) == pytest.approx(np.trapezoid(tpr, fpr), abs=1e-12)


@pytest.mark.parametrize(("positive", "negative"), [(0, 3), (3, 0), (0, 0)])
def test_of_one_kind_alone_there_is_no_curve(positive: int, negative: int) -> None:
    assert corners(np.ones(positive), np.ones(negative)) is None


@given(SCORES, SCORES, st.floats(0.0, 1.0))
def test_the_rates_are_counts(positive: list[float], negative: list[float], most: float) -> None:
    """At every threshold that accuses few enough, count who is caught; and one is above all of them."""
    up, down = np.array(positive), np.array(negative)
    caught = [float((up >= t).mean()) for t in range(8) if (down >= t).mean() <= most + 1e-12]
    fpr, tpr = curve(positive, negative)
    assert tpr_at(fpr, tpr, most) == pytest.approx(max(caught))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()


def test_a_short_curve_is_kept_whole() -> None:
    fpr, tpr = curve([3, 2], [2, 1])
    assert thin(fpr, tpr).to_json() == {"fpr": fpr.tolist(), "tpr": tpr.tolist()}


@pytest.mark.parametrize("negatives", [2000, 5000, 100_000])
def test_a_long_curve_is_thinned_and_keeps_its_low_end(negatives: int) -> None:
    rng = rng_for(1, "long", negatives)
    fpr, tpr = curve(list(rng.normal(1.0, 1.0, 3000)), list(rng.normal(0.0, 1.0, negatives)))
    roc = thin(fpr, tpr)
    few = np.array(roc.fpr), np.array(roc.tpr)
    assert len(fpr) > 1000 and len(few[0]) <= 200
    assert (few[0][0], few[1][0], few[0][-1], few[1][-1]) == (0.0, 0.0, 1.0, 1.0)
    assert set(zip(*few, strict=True)) <= set(zip(fpr, tpr, strict=True))
    assert low_rates(*few) == low_rates(fpr, tpr)
    assert tpr_at(*few, 0.0) == tpr_at(fpr, tpr, 0.0)
    assert np.trapezoid(few[1], few[0]) == pytest.approx(np.trapezoid(tpr, fpr), abs=1e-3)
    beyond = few[0] > 0.01
    assert np.diff((few[0] + few[1])[beyond]).max() <= 0.0205 + np.diff(fpr + tpr).max()
    if negatives <= 5000:
        low = fpr <= 0.01
        assert few[0][: low.sum()].tolist() == fpr[low].tolist()
        assert few[1][: low.sum()].tolist() == tpr[low].tolist()
