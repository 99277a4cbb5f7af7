"""Intervals cover what they should: by simulation, with seeds, at small n and near 0 and 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from fedunlearn.evaluation.intervals import (
    accuracy_interval,
    l1_interval,
    mean_share_interval,
    share_interval,
    uar_interval,
)
from fedunlearn.evaluation.metrics import uar

TRIALS = 400

# ---- shares ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 10, 48, 240])
def test_a_share_is_covered_at_every_true_share(n: int) -> None:
    """No simulation needed: the chance of each count is known. 95 % on average, and nowhere under 89 %."""
    p = np.linspace(0.005, 0.995, 199)
    bounds = np.array([share_interval(x, n) for x in range(n + 1)])
    chance = binom.pmf(np.arange(n + 1), n, p[:, None])
    covered = (chance * ((bounds[:, 0] <= p[:, None]) & (p[:, None] <= bounds[:, 1]))).sum(1)
    assert covered.min() > 0.89
    assert 0.945 < covered.mean() <= 1.0
    if n >= 48:  # no wider than it must be
        assert covered.mean() < 0.955


def test_known_intervals_of_a_share() -> None:
    """Exact at the ends: all of n right, lower bound 0.025 ** (1 / n); in the middle quantiles of a beta."""
    assert share_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
    assert share_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert share_interval(1, 1) == (pytest.approx(0.025), 1.0)
    assert share_interval(0, 1) == (0.0, pytest.approx(0.975))
    # Brown, Cai and DasGupta 2001, table 5: Jeffreys, n = 10, x = 5.
    assert share_interval(5, 10) == (pytest.approx(0.224, abs=1e-3), pytest.approx(0.776, abs=1e-3))


def test_an_interval_between_none_and_all_is_of_betas_quantiles() -> None:
    for n in (4, 17, 240):
        for right in range(2, n - 1):
            ends = beta.ppf([0.025, 0.975], right + 0.5, n - right + 0.5)
            assert share_interval(right, n) == pytest.approx(tuple(ends), rel=1e-14)


def test_no_utterances_no_interval_and_impossible_counts_are_refused() -> None:
    none = np.array([], np.int64)
    assert share_interval(0, 0) is None
    assert accuracy_interval(none, none) is None
    assert uar_interval(none, none) is None
    for right, n in ((3, 2), (-1, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"{right} of {n}"):
            share_interval(right, n)


@given(n=st.integers(1, 300), data=st.data())
def test_a_share_lies_in_its_interval_and_the_interval_in_zero_to_one(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = share_interval(right, n) or (1.0, 0.0)
    assert 0.0 <= low <= right / n <= high <= 1.0
    assert low < high


# ---- UAR -------------------------------------------------------------------------------------------------


def of_recalls(rng: np.random.Generator, recalls: list[float], n: list[int]) -> float:
    """Share of trials in which the interval covers the mean of these true recalls."""
    right = rng.binomial(n, recalls, (TRIALS, len(n)))
    low, high = mean_share_interval(right, np.array(n))
    truth = np.mean(recalls)
    return float(((low <= truth) & (truth <= high)).mean())


SAME = [[1] * 8, [2] * 8, [3] * 8, [5] * 8, [12] * 8, [30] * 8]
MIXED = [[30] * 7 + [2], [20, 10, 5, 3, 2, 1, 1, 1]]


@pytest.mark.parametrize("n", [*SAME, *MIXED], ids=str)
def test_uar_is_covered_with_few_utterances_and_recalls_near_zero_and_one(n: list[int]) -> None:
    """400 trials have a spread of 1.1 points at 95 %: of each, no less than 88 %; on average, 94 %."""
    rng = np.random.default_rng(7)
    drawn = rng.uniform(0.2, 1.0, len(n)).tolist()
    kinds: list[list[float]] = [
        [0.5] * 8,
        [0.8] * 8,
        [0.95] * 8,
        [0.99] * 8,
        [0.05] * 8,
        [0.9] * 4 + [0.1] * 4,
        [0.999] * 7 + [0.5],
        drawn,
    ]
    covered = [of_recalls(rng, recalls, n) for recalls in kinds]
    assert min(covered) > 0.88
    assert np.mean(covered) > 0.94


def test_the_interval_of_uar_is_no_wider_than_it_must_be() -> None:
    """30 utterances of each of 8 emotions at 0.8: 1.96 sqrt(0.16 / 240) = 0.051 to each side."""
    low, high = mean_share_interval(np.full(8, 24), np.full(8, 30))
    assert 0.05 < (high - low) / 2 < 0.06


def test_uar_of_all_right_has_an_interval_and_so_has_one_utterance() -> None:
    """A bootstrap over utterances would say [1, 1]."""
    labels = np.repeat(np.arange(4), 3)
    low, high = uar_interval(labels, labels) or (1.0, 0.0)
    assert (0.6 < low < 0.95) and high == 1.0
    one = np.array([2])
    assert uar_interval(one, one) == (pytest.approx(0.025), 1.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_uar_lies_in_its_interval(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    low, high = uar_interval(labels, predictions) or (1.0, 0.0)
    value = uar(labels, predictions)
    assert value is not None
    assert 0.0 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1.0
    # An emotion that does not occur has no recall, whatever was taken for it.
    assert uar_interval(labels, np.full_like(predictions, 9)) is not None


def test_a_single_emotion_has_the_uar_of_its_share() -> None:
    labels = np.zeros(20, np.int64)
    predictions = np.where(np.arange(20) < 12, 0, 1)
    low, high = uar_interval(labels, predictions) or (1.0, 0.0)
    share = share_interval(12, 20) or (0.0, 1.0)
    assert low == pytest.approx(share[0], abs=0.02) and high == pytest.approx(share[1], abs=0.02)


# ---- a mean distance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [0.0, 0.02, 0.2])
def test_a_mean_distance_is_covered_also_where_it_is_nought(truth: float) -> None:
    """Differences of noise 0.03 around the truth, resampled with the same noise around what was seen."""
    rng = np.random.default_rng(11)
    signed = truth * np.sign(rng.normal(size=(4, 3)))
    hits = 0
    for _ in range(TRIALS):
        seen = signed + rng.normal(0, 0.03, (4, 3))
        again = seen + rng.normal(0, 0.03, (200, 4, 3))
        low, high = l1_interval(seen, again) or (1.0, 0.0)
        hits += low <= truth <= high
        if truth == 0.0:
            # What a plain bootstrap of the distance would say never covers 0.
            assert np.quantile(np.abs(again).mean((1, 2)), 0.025) > 0.0
    assert hits / TRIALS > 0.93


def test_the_interval_of_a_mean_distance_by_hand() -> None:
    """d = (0.1, -0.3): g = 0.2. Resamples move both by 0.05, or by nothing: h is 0.05, or the quantile."""
    seen = np.array([[0.1], [-0.3]])
    moved = np.stack([seen + 0.05, seen - 0.05])
    assert l1_interval(seen, moved) == (pytest.approx(0.15), pytest.approx(0.25))
    assert l1_interval(seen, np.stack([seen] * 5)) == (pytest.approx(0.2), pytest.approx(0.2))
    assert l1_interval(seen, np.stack([seen + 2.0])) == (0.0, 1.0)


def test_what_is_unknown_of_a_mean_distance_is_left_out() -> None:
    nan = float("nan")
    seen = np.array([[0.1], [nan]])
    again = np.array([[[0.1 + 0.02], [0.4]], [[nan], [0.4]]])
    assert l1_interval(seen, again) == (pytest.approx(0.08), pytest.approx(0.12))
    assert l1_interval(np.array([[nan]]), again[:, :1]) is None
    assert l1_interval(seen, np.full((2, 2, 1), nan)) is None
    assert l1_interval(seen, np.zeros((0, 2, 1))) is None
