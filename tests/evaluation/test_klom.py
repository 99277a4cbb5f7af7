"""KL divergence of margins, with values worked out by hand, and what it is by chance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_memory import logits_of

from fedunlearn.evaluation.klom import gaussian_klom, klom, klom_of_shadows
from fedunlearn.evaluation.lira import u_lira
from fedunlearn.evaluation.shadow_attack import CannotAttack

MARGINS = st.lists(st.floats(-30, 30), min_size=1, max_size=20).map(np.array)


def test_two_bins_by_hand() -> None:
    """Unlearned: 3 of 4 in the lowest bin, 1 in the highest. Retrained: half and half.

    3/4 ln(3/2) + 1/4 ln(1/2).
    """
    found = klom(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0.0, 1.0]))
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_margins_that_nowhere_overlap_are_as_far_as_a_bin_counts() -> None:
    assert klom(np.array([5.0, 5.0]), np.array([-5.0, -4.0])) == pytest.approx(math.log(1e5))


def test_a_margin_beyond_a_hundred_counts_as_a_hundred() -> None:
    """A model that is certain without bound has no bins of its own: 1e6 and 1e3 are alike."""
    assert klom(np.array([1e6]), np.array([1e3])) == 0.0


def test_a_few_of_them_far_away_hide_the_others() -> None:
    """The bins reach from the least to the largest: with one at 100, those at 0 and 1 share a bin."""
    assert klom(np.array([0.0, 100.0]), np.array([1.0, 100.0])) == 0.0


@given(margins=MARGINS)
def test_the_same_margins_are_not_apart(margins: np.ndarray) -> None:
    assert klom(margins, margins[::-1]) == pytest.approx(0.0, abs=1e-12)


@given(one=MARGINS, other=MARGINS)
def test_it_is_at_least_zero_and_at_most_what_an_empty_bin_gives(one: np.ndarray, other: np.ndarray) -> None:
    assert 0.0 <= klom(one, other) <= math.log(1e5) + 1e-9


@pytest.mark.parametrize("margins", [np.array([]), np.array([np.nan])])
def test_what_is_no_margin_is_refused(margins: np.ndarray) -> None:
    with pytest.raises(ValueError, match="klom"):
        klom(margins, np.array([1.0]))


# ---- over shadows ----------------------------------------------------------------------------------------


def shadows(rng: np.random.Generator, apart: float, deviation: float = 1.0) -> tuple[np.ndarray, ...]:
    """64 shadows, 30 candidates of their own difficulty: margins after unlearning, before, and who is IN."""
    inside = rng.random((64, 30)) < 0.5
    level = rng.normal(0, 2, 30)
    before = level + rng.normal(0, 1, inside.shape)
    after = np.where(inside, level + apart + deviation * rng.normal(0, 1, inside.shape), before)
    return after, before, inside


def test_perfect_unlearning_is_as_far_as_chance() -> None:
    rng = np.random.default_rng(1)
    found, null = klom_of_shadows(*shadows(rng, apart=0.0), rng)
    assert found.n == null.n == 30 and found.models == null.models and 14 <= (found.models or 0) <= 17
    assert found.mean == pytest.approx(null.mean, rel=0.1)
    assert null.median is not None and null.p95 is not None and 0 < null.median < null.p95


def test_gaussians_by_hand() -> None:
    """Means 1 and 0, variances 2 and 8: ((2 + 1) / 8 - 1 - ln(2 / 8)) / 2."""
    found = gaussian_klom(np.array([0.0, 2.0]), np.array([-2.0, 2.0]))
    assert found == pytest.approx(0.5 * (3 / 8 - 1 + math.log(4)))
    assert gaussian_klom(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0.0


def test_one_answer_for_all_passes_an_attack_by_loss_and_is_found_by_both() -> None:
    """IN: every margin at the median of those that nobody heard, to .05 nats. OUT: as they were."""
    rng = np.random.default_rng(4)
    _, before, inside = shadows(rng, 0.0)
    level = float(np.median(before[~inside]))
    after = np.where(inside, level + 0.05 * rng.normal(0, 1, inside.shape), before)
    simple = (after[inside][:, None] > after[~inside][None, :]).mean()
    assert simple == pytest.approx(0.5, abs=0.03)
    labels = np.zeros(inside.shape[1], int)
    attacked = u_lira(logits_of(after), labels, inside, 100, rng)
    assert attacked.low is not None and attacked.low > 0.8
    found, null = klom_of_shadows(after, before, inside, rng)
    assert (found.mean or 0.0) > 1.2 * (null.mean or math.inf)
    assert (found.gaussian or 0.0) > 5 * (null.gaussian or math.inf)


@pytest.mark.parametrize(("apart", "deviation"), [(2.0, 1.0), (0.0, 0.05)])
def test_a_shift_is_found_and_so_are_answers_without_variation(apart: float, deviation: float) -> None:
    rng = np.random.default_rng(2)
    found, null = klom_of_shadows(*shadows(rng, apart, deviation), rng)
    assert (found.median or 0.0) > 1.1 * (null.median or math.inf)
    assert (found.gaussian or 0.0) > 3 * (null.gaussian or math.inf)


def test_too_few_shadows_are_reported_in_one_line() -> None:
    rng = np.random.default_rng(3)
    after, before, inside = (part[:8] for part in shadows(rng, 0.0))
    inside[:] = np.arange(8)[:, None] % 2 == 0
    with pytest.raises(CannotAttack, match=r"KLoM needs .* evaluation\.shadows higher \(got 8\)"):
        klom_of_shadows(after, before, inside, rng)
