"""U-LiRA by hand, against the slow way, on planted memorisation and where there is nothing to find."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_memory import Mask, Matrix, halves, logits_of, planted
from scipy.stats import norm

from fedunlearn.evaluation.lira import (
    LEAST_UTTERANCES,
    OWN_VARIANCE,
    confidence,
    likelihood_ratios,
    u_lira,
)
from fedunlearn.evaluation.shadow_attack import CannotAttack, attack_result
from fedunlearn.results_schema import ShadowAttackScores
from fedunlearn.seeding import rng_for


def attack(phi: Matrix, inside: Mask, resamples: int = 100) -> ShadowAttackScores:
    return u_lira(logits_of(phi), np.zeros(phi.shape[1], int), inside, resamples, rng_for(1, "bootstrap"))


# ---- the confidence --------------------------------------------------------------------------------------


def test_confidence_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): ln(1/2 / 1/2) = 0 for the first class, ln(1/4 / 3/4) = -ln 3 for the others."""
    logits = np.log([[0.5, 0.25, 0.25]] * 3)
    assert confidence(logits, np.arange(3)) == pytest.approx([0.0, -math.log(3), -math.log(3)])


def test_confidence_is_finite_where_probabilities_are_rounded() -> None:
    """Logits 800 and 0 twice: phi = 800 - ln 2 for the first class, and about -800 for another."""
    logits = np.array([[800.0, 0.0, 0.0]] * 2, np.float32)
    assert confidence(logits, np.array([0, 1])) == pytest.approx([800 - math.log(2), -800.0])


@given(st.lists(st.floats(-15, 15), min_size=2, max_size=6), st.floats(-50, 50))
def test_confidence_is_the_log_odds_and_falls_as_the_loss_rises(logits: list[float], shift: float) -> None:
    z = np.array(logits)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    phi = confidence(np.array([z]), np.array([1]))[0]
    assert phi == pytest.approx(math.log(p[1]) - math.log(np.delete(p, 1).sum()), abs=1e-9)
    assert math.log1p(math.exp(-phi)) == pytest.approx(-math.log(p[1]), abs=1e-12)
    assert confidence(np.array([z + shift]), np.array([1]))[0] == pytest.approx(phi, abs=1e-9)


def test_a_logit_that_is_not_finite_is_unknown_and_one_class_is_an_error() -> None:
    logits = np.array([[1.0, 2.0], [np.inf, 0.0], [np.nan, 0.0]])
    assert np.isnan(confidence(logits, np.zeros(3, int))).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="2 classes"):
        confidence(np.zeros((3, 1)), np.zeros(3, int))


# ---- the score -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shadows", [8, OWN_VARIANCE])
def test_the_score_is_of_gaussians_fitted_on_the_other_shadows(shadows: int) -> None:
    """The slow way: for each pair, leave its shadow out and fit.

    Variances are pooled over the utterances that are attacked in any shadow; utterance 4 is not.
    """
    phi, inside = planted(shadows, 10, 1.0, rng_for(1, "slow", shadows))
    phi[2, 3], inside[:, 4] = np.nan, np.arange(shadows) < 1
    scores = likelihood_ratios(phi, inside)
    known, checked = ~np.isnan(phi), 0
    sides = inside & known, ~inside & known
    pooled = [k for k in range(10) if not np.isnan(scores[:, k]).all()]
    for s in range(shadows):
        others = (np.arange(shadows) != s)[:, None]
        fits = [[phi[(side & others)[:, k], k] for k in range(10)] for side in sides]
        for k in range(10):
            if not known[s, k] or min(len(fit[k]) for fit in fits) < 2:
                assert np.isnan(scores[s, k])
                continue
            density = []
            for fit in fits:
                deviation = float(fit[k].std(ddof=1))
                if shadows < OWN_VARIANCE:
                    lists = [fit[u] for u in pooled]
                    squares = sum(((v - v.mean()) ** 2).sum() for v in lists)
                    deviation = math.sqrt(squares / sum(len(v) - 1 for v in lists))
                density.append(norm.logpdf(phi[s, k], fit[k].mean(), deviation))
            assert scores[s, k] == pytest.approx(density[0] - density[1])
            checked += 1
    assert checked > 40 and 4 not in pooled and len(pooled) > 6


def test_planted_memorisation_is_found() -> None:
    phi, inside = planted(64, 60, 3.0, rng_for(1, "planted"))
    found = attack(phi, inside)
    assert found.auc > 0.85 and found.low > 0.8
    assert found.tpr_at["0.01"].value > found.tpr_at["0.01"].low > 0.1
    assert found.n_in == found.n_out == 64 * 30 and found.left_out == 0
    assert np.trapezoid(found.roc.tpr, found.roc.fpr) == pytest.approx(found.auc, abs=2e-3)


def test_a_loss_that_fell_or_rose_is_found_alike() -> None:
    """Over-forgetting: what was trained on has an unusually high loss."""
    phi, inside = planted(64, 60, 3.0, rng_for(1, "planted"))
    assert attack(-phi, inside).auc == pytest.approx(attack(phi, inside).auc)


def test_a_loss_parked_at_a_usual_value_is_found() -> None:
    """Members have the mean phi of everybody; nobody is easier or harder than never-seen on average."""
    rng = rng_for(1, "parked")
    phi, inside = planted(64, 60, 0.0, rng)
    parked = np.where(inside, 0.3 * rng.standard_normal(phi.shape), phi)
    assert attack(parked, inside).low > 0.8


@pytest.mark.parametrize("shadows", [8, 64])
def test_where_nothing_is_planted_nothing_is_found(shadows: int) -> None:
    """The interval errs on the wide side here: it held .5 in 97.7 % of 300 trials with 8 shadows, in 98 % of
    150 with 64. Fewer than 18 of 20 has a chance of 1 %.
    """
    found = [attack(*planted(shadows, 40, 0.0, rng_for(trial, "nothing"))) for trial in range(20)]
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 18
    assert all(f.tpr_at["0.01"].low <= 0.01 for f in found)


@pytest.mark.parametrize(("shadows", "utterances"), [(16, 40), pytest.param(64, 60, marks=pytest.mark.slow)])
def test_intervals_cover_what_the_attack_finds_on_average(shadows: int, utterances: int) -> None:
    """The truth is the mean over 400 other trials; of 60 intervals 57 should hold it, standard deviation 1.7.

    Fewer than 53 has a chance of 1.2 % at 95 %.
    """
    others = [
        attack(*planted(shadows, utterances, 1.0, rng_for(t, "others")), resamples=0) for t in range(400)
    ]
    truth = np.mean([t.auc for t in others]), np.mean([t.tpr_at["0.01"].value for t in others])
    held = np.zeros(2)
    for trial in range(60):
        found = attack(*planted(shadows, utterances, 1.0, rng_for(trial, "trial")))
        share = found.tpr_at["0.01"]
        held += [found.low <= truth[0] <= found.high, share.low <= truth[1] <= share.high]
    assert held.min() >= 53


# ---- degenerate shadows ----------------------------------------------------------------------------------


def test_what_too_few_shadows_saw_is_left_out_and_counted() -> None:
    """2 IN and 2 OUT besides the attacked one: utterance 0 was in 1 of 12 shadows, 1 in all but 1."""
    phi, inside = planted(12, 10, 2.0, rng_for(1, "few"))
    inside[:, 0], inside[:, 1] = np.arange(12) < 1, np.arange(12) >= 1
    inside[:, 2:] = (np.arange(12) % 2 == 0)[:, None]
    found = attack(phi, inside)
    assert found.left_out == 2 and found.n_in + found.n_out == 8 * 12
    rest = attack(phi[:, 2:], inside[:, 2:])
    assert (rest.auc, rest.roc) == (found.auc, found.roc)


@pytest.mark.parametrize("shadows", [0, 1, 2, 4])
def test_too_few_shadows_are_refused_in_one_line(shadows: int) -> None:
    phi, inside = planted(shadows, 10, 1.0, rng_for(1, "few"))
    with pytest.raises(CannotAttack, match=f"evaluation.shadows higher .got {shadows}."):
        attack(phi, inside)


@pytest.mark.parametrize("utterances", [1, 3])
def test_too_few_utterances_are_refused_in_one_line(utterances: int) -> None:
    """Of one alone and 8 shadows that know nothing, the AUC is .35 on average; 7 of 10 intervals hold .5."""
    inside = (np.arange(12) % 2 == 0)[:, None] & np.ones(utterances, bool)
    phi = rng_for(1, "one").standard_normal(inside.shape)
    with pytest.raises(CannotAttack, match=f"fewer than 4 utterances: .* .got {utterances}.$"):
        attack(phi, inside)


def test_of_the_fewest_utterances_intervals_hold_a_half_where_nothing_is_planted() -> None:
    """They did in 96 % of 400 trials; fewer than 53 of 60 has a chance of .5 %."""
    held = 0
    for trial in range(60):
        phi, _ = planted(16, LEAST_UTTERANCES, 0.0, rng_for(trial, "fewest"))
        inside = rng_for(trial, "coins").random(phi.shape) < 0.5
        found = attack(phi, inside)
        held += found.low <= 0.5 <= found.high
    assert held >= 53


def test_pairs_that_cannot_be_attacked_divide_by_nothing() -> None:
    """2 OUT of 8: an OUT shadow has one other, whose variance nobody knows; the IN alone are attacked."""
    inside = np.tile((np.arange(8) < 6)[:, None], 4)
    scores = likelihood_ratios(rng_for(1, "two").standard_normal(inside.shape), inside)
    assert np.array_equal(np.isnan(scores), ~inside)


def test_no_candidates_or_no_finite_logits_are_refused() -> None:
    inside = np.arange(12)[:, None] % 2 == np.zeros(10)
    for phi in (np.empty((12, 0)), np.full((12, 10), np.nan)):
        with pytest.raises(CannotAttack):
            attack(phi, inside[:, : phi.shape[1]])


def test_constant_outputs_tell_nothing() -> None:
    inside = halves(40, 10, rng_for(1, "constant"))
    found = attack(np.full(inside.shape, 1.5), inside)
    assert (found.auc, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.tpr_at["0.001"].to_json() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found.roc.to_json() == {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}


def test_exactly_parked_outputs_are_found_for_certain() -> None:
    """Zero variance IN counts as a small one; OUT varies."""
    rng = rng_for(1, "exact")
    inside = halves(40, 20, rng)
    phi = np.where(inside, 0.7, rng.standard_normal(inside.shape))
    assert attack(phi, inside).auc > 0.99


def test_the_same_again() -> None:
    phi, inside = planted(16, 20, 1.0, rng_for(1, "same"))
    assert attack(phi, inside) == attack(phi, inside)


# ---- scores judged ---------------------------------------------------------------------------------------


def test_scores_are_judged_by_hand() -> None:
    """IN 4, 2; OUT 3, 2; one pair is not attacked: wins 1, 1, 0 and a tie: 2.5 of 4. Column 2 is left out."""
    scores = np.array([[4.0, 3.0, np.nan], [2.0, 2.0, np.nan]])
    inside = np.array([[True, False, True], [False, True, False]])
    found = attack_result(scores, inside, 0, rng_for(1, "bootstrap"))
    assert (found.auc, found.low, found.high) == (0.625, 0.625, 0.625)
    assert (found.n_in, found.n_out, found.left_out) == (2, 2, 1)
    assert found.roc.to_json() == {"fpr": [0.0, 0.0, 0.5, 1.0], "tpr": [0.0, 0.5, 0.5, 1.0]}
    assert found.tpr_at["0.01"].to_json() == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_resamples_are_of_whole_shadows_and_utterances() -> None:
    """One utterance: shadows alone are drawn. One shadow: utterances alone. Both as plain bootstraps do."""
    rng = rng_for(1, "one")
    scores, inside = rng.standard_normal((60, 1)), np.arange(60)[:, None] < 30
    scores[:30] += 1.0
    found = attack_result(scores, inside, 2000, rng_for(2, "bootstrap"))
    turned = attack_result(scores.T, inside.T, 2000, rng_for(3, "bootstrap"))
    plain = []
    for _ in range(2000):
        drawn = rng.integers(60, size=60)
        one, other = scores[drawn[drawn < 30], 0], scores[drawn[drawn >= 30], 0]
        plain.append((one[:, None] > other[None, :]).mean())
    for result in (found, turned):
        assert [result.low, result.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.015)
