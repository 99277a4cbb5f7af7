"""The informed attack: what it is shown, what is kept from it, and what it finds."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from planted_memory import halves, logits_of, planted

from fedunlearn.evaluation.informed import FOLDS, informed, outputs
from fedunlearn.evaluation.shadow_attack import CannotAttack
from fedunlearn.results_schema import ShadowAttackScores
from fedunlearn.seeding import rng_for

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def attack(phi: Matrix, inside: Mask, requests: int = 4, resamples: int = 100) -> ShadowAttackScores:
    utterances = np.arange(phi.shape[1])
    labels = np.zeros(len(utterances), int)
    return informed(logits_of(phi), labels, inside, utterances % requests, resamples, rng_for(1, "bootstrap"))


def crowd(shadows: int, utterances: int, rng: np.random.Generator) -> tuple[Matrix, Mask]:
    """phi of never-seen speech, whatever was trained on."""
    return planted(shadows, utterances, 0.0, rng)


def test_what_the_attacker_looks_at_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), true class 1: phi -ln 3, entropy 1.5 ln 2, margin ln 2."""
    shown = outputs(np.log([[0.5, 0.25, 0.25]]), np.array([1]))
    assert shown[0] == pytest.approx([-math.log(3), 1.5 * math.log(2), math.log(2), 1.0])
    sure = outputs(np.array([[900.0, 0.0]]), np.array([0]))[0]
    assert sure == pytest.approx([900.0, 0.0, 900.0, 0.0])
    assert np.isnan(outputs(np.array([[np.nan, 0.0]]), np.array([0]))).any()


def test_low_losses_are_found() -> None:
    phi, inside = planted(16, 60, 4.0, rng_for(1, "low"))
    found = attack(phi, inside)
    assert found.low > 0.6 and found.n_in == found.n_out == 16 * 30


def test_parked_losses_are_found_though_none_is_low() -> None:
    """Members lie about everybody's median: half of the never-seen utterances have a higher loss."""
    rng = rng_for(1, "parked")
    phi, inside = crowd(16, 60, rng)
    parked = np.where(inside, np.median(phi) + 0.3 * rng.standard_normal(phi.shape), phi)
    simple = (parked[inside][:, None] > parked[~inside][None, :]).mean()
    assert simple == pytest.approx(0.5, abs=0.03)
    found = attack(parked, inside)
    assert found.low > 0.8
    assert [r.request for r in found.requests] == [0, 1, 2, 3]
    assert all(r.auc is not None and r.auc > 0.8 and r.n == 15 for r in found.requests)
    rates = [(r.tpr_at["0.01"] or 0.0, r.tpr_at["0.001"] or 0.0) for r in found.requests]
    assert all(often > 0.01 and often >= seldom for often, seldom in rates)


def test_losses_driven_too_far_are_found() -> None:
    phi, inside = crowd(16, 60, rng_for(1, "far"))
    assert attack(phi - 4.0 * inside, inside).low > 0.7


def test_where_nothing_is_planted_nothing_is_found() -> None:
    held = 0
    for trial in range(10):
        found = attack(*crowd(8, 40, rng_for(trial, "nothing")), requests=2)
        held += found.low <= 0.5 <= found.high
    assert held >= 9


@pytest.mark.parametrize("leak", ["own request", "own shadow"])
def test_the_attacked_request_and_model_are_kept_from_the_lesson(leak: str) -> None:
    """Membership shows in one direction in each request (or shadow) and in the other in the next one.

    Whoever may learn from the very request or model under attack is right; from the others alone, one learns
    nothing or the wrong thing.
    """
    rng = rng_for(1, leak)
    inside = halves(8, 40, rng)
    sign = np.where(np.arange(40) % 2 == 0, 1.0, -1.0)[None, :]
    if leak == "own shadow":
        sign = np.where(np.arange(8) % FOLDS == 0, 1.0, -1.0)[:, None]
    phi = np.where(inside, 1.0, -1.0) * sign + 0.1 * rng.standard_normal(inside.shape)
    found = attack(phi, inside, requests=2)
    if leak == "own request":
        assert found.auc < 0.05 and all(r.auc is not None and r.auc < 0.05 for r in found.requests)
    else:
        # 2 of 8 shadows are alone with their sign; the others outvote them.
        whole = attack(phi * sign, inside, requests=2)
        assert whole.auc > 0.95 and found.auc < whole.auc - 0.2


@pytest.mark.parametrize(("shadows", "requests", "says"), [(8, 1, "other requests"), (1, 4, "other shadows")])
def test_with_nobody_to_learn_from_it_says_why(shadows: int, requests: int, says: str) -> None:
    phi, inside = crowd(shadows, 20, rng_for(1, "few"))
    with pytest.raises(CannotAttack, match=says):
        attack(phi, inside, requests)


def test_nothing_to_attack_is_refused() -> None:
    phi, inside = crowd(8, 20, rng_for(1, "few"))
    for outcome, members in ((phi, np.ones_like(inside)), (np.full_like(phi, np.nan), inside)):
        with pytest.raises(CannotAttack):
            attack(outcome, members)
    with pytest.raises(CannotAttack):
        attack(phi[:, :0], inside[:, :0])


def test_a_request_of_which_all_pairs_are_inside_has_no_number_of_its_own() -> None:
    phi, inside = planted(8, 20, 3.0, rng_for(1, "whole"))
    inside[:, ::4] = True
    found = attack(phi, inside)
    assert [r.auc is None for r in found.requests] == [True, False, False, False]


def test_constant_outputs_tell_nothing() -> None:
    inside = halves(16, 20, rng_for(1, "constant"))
    # Whatever the share of members was in each lesson is all that there is to learn.
    assert attack(np.ones(inside.shape), inside).auc == pytest.approx(0.5, abs=0.05)


def test_pairs_without_finite_logits_are_left_out() -> None:
    phi, inside = planted(8, 20, 3.0, rng_for(1, "broken"))
    phi[3], phi[:, 5] = np.nan, np.nan
    found = attack(phi, inside)
    assert found.n_in + found.n_out == 7 * 19 and found.left_out == 1


def test_the_same_again() -> None:
    phi, inside = planted(8, 20, 1.0, rng_for(1, "same"))
    assert attack(phi, inside) == attack(phi, inside)
