"""How far answers move on speech that nobody asked to delete, with values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation.collateral import (
    mean_shift,
    never_heard_shift,
    shift,
    shift_between,
    spread,
    targets_followed,
)

ANSWERS = st.lists(st.floats(-20, 20), min_size=2, max_size=12)


def test_shift_of_three_utterances() -> None:
    """Moved by -1, 1, 3: squares 1, 1, 9. Before -1, 0, 1 about the mean, after 1 and 3 apart: slope 3."""
    found = shift(np.array([1.0, 2.0, 3.0]), np.array([0.0, 3.0, 6.0]))
    assert found.rms == pytest.approx((11 / 3) ** 0.5) and found.mean == 1.0
    assert found.slope == pytest.approx(3.0) and found.n == 3
    assert found.residual == pytest.approx(0.0, abs=1e-12)


@given(answers=ANSWERS, factor=st.floats(0.1, 2.0), offset=st.floats(-5, 5))
def test_flattened_answers_have_the_slope_that_they_were_flattened_by(
    answers: list[float], factor: float, offset: float
) -> None:
    before = np.array(answers)
    found = shift(before, factor * before + offset)
    if np.ptp(before) > 1e-3:
        assert found.slope == pytest.approx(factor, abs=1e-6)
    assert found.mean == pytest.approx((factor - 1) * before.mean() + offset, abs=1e-9)
    assert found.rms is not None and found.mean is not None and found.rms >= abs(found.mean) - 1e-9


def test_the_residual_is_what_is_left_about_the_line() -> None:
    """Before -1, 0, 1; after 0, 3, 0: slope 0, mean 1, residuals -1, 2, -1."""
    found = shift(np.array([-1.0, 0.0, 1.0]), np.array([0.0, 3.0, 0.0]))
    assert found.slope == 0.0 and found.residual == pytest.approx(2**0.5)


def test_targets_are_followed_where_there_are_any() -> None:
    """Two of three candidates have targets, -1 and 1; they reach -.5 and 1.5: slope 1, .5 too high."""
    targets = np.array([[-1.0, np.nan, 1.0]])
    phi = {"unlearned": np.array([[-0.5, 9.0, 1.5]]), "recovered": np.array([[0.0, 9.0, 0.0]])}
    found = targets_followed(phi, targets)
    assert found.unlearned.slope == 1.0 and found.unlearned.mean == 0.5 and found.unlearned.residual == 0.0
    assert found.recovered.slope == 0.0 and found.recovered.n == 2
    assert not targets_followed(phi, np.full((1, 3), np.nan))


def test_what_is_not_finite_is_left_out_and_a_constant_has_no_slope() -> None:
    found = shift(np.array([np.nan, 1.0, 1.0]), np.array([0.0, 2.0, 3.0]))
    assert found.n == 2 and found.slope is None and found.mean == 1.5
    nothing = shift(np.array([np.nan]), np.array([1.0]))
    assert nothing.n == 0 and nothing.rms is None and nothing.slope is None


def test_seeds_are_compared_pair_by_pair() -> None:
    """Answers 0, 2 and 1, 1: one is the other moved by 1 and -1; slopes 0 and, of a constant, none."""
    a, b = np.array([0.0, 2.0]), np.array([1.0, 1.0])
    found = shift_between([a, b])
    assert found.rms == 1.0 and found.mean == 0.0 and found.slope is None
    assert not shift_between([a])
    both = mean_shift([shift(a, a), shift(a, 2 * a)])
    assert both.slope == 1.5 and both.rms == pytest.approx(2**0.5 / 2) and both.n == 2


def test_spread_is_the_deviation_over_utterances_and_the_mean_over_models() -> None:
    """Deviations sqrt(2) and 2 sqrt(2)."""
    one, two = np.array([0.0, 2.0]), np.array([0.0, 4.0])
    assert spread([one]) == pytest.approx(2**0.5) and spread([one, two]) == pytest.approx(1.5 * 2**0.5)
    assert spread([np.array([1.0])]) is None and spread([]) is None


def test_only_what_a_shadow_never_heard_counts() -> None:
    """Two shadows, three candidates. Outside: the first in shadow 0, the first and the last in shadow 1.

    They move by 1, 2 and 2, those inside by 100. From one shadow to the other on the first candidate: 1 to 4
    and back, by 3.
    """
    inside = np.array([[False, True, True], [False, True, False]])
    original = np.array([[1.0, 0.0, 0.0], [4.0, 0.0, 5.0]])
    moved = np.where(inside, 100.0, np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 2.0]]))
    phi = {"original": original, "unlearned": original + moved, "recovered": original}
    found = never_heard_shift(phi, inside)
    assert found.unlearned.rms == pytest.approx(3**0.5) and found.unlearned.n == 3
    assert found.recovered.rms == 0.0 and found.recovered.slope == pytest.approx(1.0)
    assert found.seeds.rms == 3.0 and found.seeds.n == 2 and found.seeds.slope == pytest.approx(-1.0)
