"""Resamples of what the gap is measured on: by hand where they are known, and never between the models."""

import numpy as np
import pytest

from fedunlearn.evaluation.intervals import l1_interval
from fedunlearn.evaluation.membership import membership
from fedunlearn.evaluation.resampling import Answers, Draws, differences

LABELS = np.array([0, 0, 1, 1])


def answers(right: list[int], losses: list[float], labels: np.ndarray = LABELS) -> Answers:
    return Answers(np.array(right, bool), np.array(losses), labels)


FORGET = answers([1, 1, 0, 1], [0.1, 0.2, 0.9, 0.3])
RETAIN = answers([1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1])
TEST = answers([1, 0, 0, 1], [0.4, 0.8, 1.2, 0.2])
MODEL = (FORGET, RETAIN, TEST)
EMPTY = answers([], [], np.zeros(0, np.int64))


def draws(forget: int = 4, retain: int = 4, test: int = 4, resamples: int = 400) -> Draws:
    return Draws(forget, retain, test, resamples, np.random.default_rng(1))


def test_the_measures_as_they_are_by_hand() -> None:
    """Accuracies 3/4, 1 and 1/2. AUC: of the 4 x 4 pairs weighted alike, .1, .2 and .3 are each below or
    level with (.4 .8 1.2 .2): 4, 3 + 1/2 and 3; .9 is below 1.2 alone: 11.5 / 16."""
    observed, drawn = draws().measure(*MODEL)
    assert observed.tolist() == pytest.approx([0.75, 1.0, 0.5, 11.5 / 16])
    assert drawn.shape == (400, 4)
    assert drawn[:, 1].tolist() == [1.0] * 400, "all are right, whichever are drawn"


def test_the_membership_is_that_of_the_population_attack() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 40)
    forget = answers([1] * 40, list(rng.exponential(1.0, 40)), labels)
    other = rng.integers(0, 2, 60)  # one emotion of D_f is not among these
    test = answers([1] * 60, list(rng.exponential(1.5, 60)), other)
    observed, _ = Draws(40, 4, 60, 100, rng).measure(forget, RETAIN, test)
    known = membership(forget.losses, labels, test.losses, other, 100, rng)
    assert observed[3] == pytest.approx(known.auc)


def test_the_resamples_spread_as_the_binomial_says() -> None:
    """Accuracy 1/2 of 4 utterances drawn again: standard deviation sqrt(.25 / 4) = .25."""
    _, drawn = draws(resamples=4000).measure(*MODEL)
    assert drawn[:, 2].mean() == pytest.approx(0.5, abs=0.02)
    assert drawn[:, 2].std() == pytest.approx(0.25, abs=0.01)


def test_a_model_never_differs_from_itself_however_often_it_is_drawn() -> None:
    """Both see the same draws: where each were drawn on its own, the differences would spread."""
    observed, drawn = differences(draws(), MODEL, [MODEL, MODEL])
    assert observed.shape == (4, 2) and drawn.shape == (400, 4, 2)
    assert not observed.any() and not np.nan_to_num(drawn).any()
    assert l1_interval(observed, drawn) == (0.0, 0.0)


def test_without_a_forget_set_its_measures_are_unknown_and_the_others_stand() -> None:
    observed, drawn = differences(draws(forget=0), (EMPTY, RETAIN, TEST), [(EMPTY, RETAIN, TEST)])
    assert np.isnan(observed[[0, 3]]).all() and np.isnan(drawn[:, [0, 3]]).all()
    assert l1_interval(observed, drawn) == (0.0, 0.0)


def test_forget_utterances_of_an_emotion_that_nobody_was_tested_on_have_no_membership() -> None:
    observed, drawn = draws().measure(FORGET, RETAIN, answers([1] * 4, [0.5] * 4, np.full(4, 7)))
    assert np.isnan(observed[3]) and np.isnan(drawn[:, 3]).all() and observed[0] == 0.75
