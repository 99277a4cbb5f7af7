"""CALM and the smoothed model that it predicts with: by hand, where it reduces to others, at its edges."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TinyModel, forget_set, speechless, tiny
from torch import Tensor

from fedunlearn.config.model import ModelSettings
from fedunlearn.config.unlearning import CalmSettings, DeleteSettings, L2ULSettings, UnlearningSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import LogOdds, ServerScalars, UnknownSpeakers, UnlearnResult
from fedunlearn.unlearning.copies import noisy_copies
from fedunlearn.unlearning.log_odds import (
    RANKS,
    log_odds,
    log_odds_of,
    predict_log_odds,
    smoothed_log_odds,
    with_log_odds,
)
from fedunlearn.unlearning.low_rank import Smoothing, smoothed

SILENT = ServerScalars()
SCALARS = ServerScalars(0.5, 0.5, LogOdds(2.0, 2.0), LogOdds(-1.0, 4.0), UnknownSpeakers(0.5, 1.5))


def run(model: TinyModel, data: ForgetSet, scalars: ServerScalars = SCALARS, **chosen: Any) -> UnlearnResult:
    settings = UnlearningSettings(calm=CalmSettings(**chosen))
    return METHODS["calm"].unlearn(model, data, settings, np.random.default_rng(0), scalars)


# ---- the smoothed model ------------------------------------------------------------------------------------


def test_smoothing_keeps_the_leading_directions_by_hand() -> None:
    """W = diag(3, 2, 1), turned by a permutation of its rows: of rank 2 what is left lacks the 1."""
    weight = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    model = smoothed(TinyModel(weight, torch.tensor([5.0, 6.0, 7.0])), 2)
    kept = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(model.weight.detach(), kept)
    assert model.bias.tolist() == [5.0, 6.0, 7.0]


@given(rank=st.integers(1, 5), seed=st.integers(0, 50))
def test_smoothing_is_the_nearest_matrix_of_that_rank_and_idempotent(rank: int, seed: int) -> None:
    """Eckart & Young: what is cut off has the norm of the small singular values."""
    model = tiny(classes=4, dims=5, seed=seed)
    once = smoothed(model, rank)
    assert int(torch.linalg.matrix_rank(once.weight)) == min(rank, 4)
    tail = torch.linalg.svdvals(model.weight.detach())[rank:].square().sum()
    cut = (model.weight - once.weight).detach().square().sum()
    torch.testing.assert_close(cut, tail, rtol=1e-4, atol=1e-9)
    again = smoothed(once.requires_grad_(True), rank)
    torch.testing.assert_close(again.weight.detach(), once.weight.detach(), rtol=1e-4, atol=1e-5)


def test_smoothing_leaves_the_model_alone_and_what_is_small_or_frozen_as_it_is() -> None:
    model = tiny().train()
    before = model.weight.detach().clone()
    assert torch.equal(smoothed(model, 4).weight, before)
    assert not smoothed(model, 1).training and model.training
    assert torch.equal(model.weight, before) and model.weight.requires_grad
    model.weight.requires_grad_(False)
    assert torch.equal(smoothed(model, 1).weight, before)


def test_log_odds_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): for the first class ln 1 = 0, for the second ln (1/4 / 3/4) = -ln 3."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]).log()
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), torch.tensor([0.0, -math.log(3.0)]))


def test_log_odds_do_not_overflow() -> None:
    """Where p_y rounds to 1 the quotient would be 1 / 0."""
    values = log_odds(torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(values, torch.tensor([200.0 - math.log(2), -200.0 - math.log(2)]))


def test_log_odds_need_another_class() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        log_odds(torch.zeros(1, 1), torch.tensor([0]))


# ---- its targets -------------------------------------------------------------------------------------------


def test_targets_by_hand() -> None:
    """Log-odds of ln 3 are p_y = 3/4; the other quarter is shared as 2 : 1, as before."""
    logits = torch.tensor([[5.0, 2.0, 1.0]]).log()
    target = with_log_odds(logits, torch.tensor([0]), torch.tensor([math.log(3.0)]))
    torch.testing.assert_close(target, torch.tensor([[0.75, 1 / 6, 1 / 12]]))


@given(seed=st.integers(0, 100), wanted=st.floats(-30, 30))
def test_targets_are_distributions_with_the_wanted_log_odds(seed: int, wanted: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (5,), generator=generator)
    target = with_log_odds(logits, labels, torch.full((5,), wanted, dtype=torch.float64))
    torch.testing.assert_close(target.sum(1), torch.ones(5, dtype=torch.float64))
    tight = {"rtol": 1e-3, "atol": 1e-3} if abs(wanted) > 15 else {"rtol": 1e-6, "atol": 1e-6}
    got = log_odds(target.log(), labels)
    torch.testing.assert_close(got, torch.full((5,), wanted, dtype=torch.float64), **tight)


def test_the_wanted_log_odds_that_are_the_models_own_are_its_output() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([1])
    torch.testing.assert_close(with_log_odds(logits, labels, log_odds(logits, labels)), logits.softmax(1))


def functionals() -> tuple[EmotionModel, Examples]:
    model = build_model(ModelSettings(name="functionals"), 6, np.random.default_rng(0))
    features = torch.randn(9, 1, model.dims, generator=torch.Generator().manual_seed(0))
    return model, Examples(features, torch.ones(9, dtype=torch.int64), torch.arange(9) % 6)


def test_models_smoothed_at_several_ranks_are_those_smoothed_one_by_one() -> None:
    """Whatever the order: a rank that was cut off before is whole again."""
    model, examples = functionals()
    smoothing = Smoothing(model, 6)
    for rank in (24, 6, 500, 12):
        frozen = smoothing.at(rank)
        expected = predict(smoothed(model, rank), examples)
        assert torch.equal(predict(frozen, examples), expected)
    assert torch.equal(expected, predict(smoothed(model, 12), examples))


def test_smoothed_log_odds_are_the_mean_over_four_ranks() -> None:
    model, examples = functionals()
    found = [log_odds_of(smoothed(model, times * 6), examples) for times in (1, 2, 4, 8)]
    assert RANKS == (1, 2, 4, 8)
    torch.testing.assert_close(smoothed_log_odds(model, examples), sum(found) / 4)  # type: ignore[arg-type]


def test_a_model_with_nothing_to_smooth_foretells_itself() -> None:
    model, data = tiny(), speechless(12)
    assert torch.equal(smoothed_log_odds(model, data.examples), log_odds_of(model, data.examples))


def test_log_odds_are_predicted_by_hand() -> None:
    """Trained on: 2 +- 2; held out: -1 +- 4; unknown speakers: .5 * 4 lower, 1.5 times as wide.

    Half of a speaker goes: -1 - .5 * .5 * 4 = -2 on average, 4 * (1 + .5 * .5) = 5 wide. A log-odds of 4 lies
    one deviation up, 3, one of 0 one down, -7. Two classes, so log-odds are differences.
    """
    model = TinyModel(torch.tensor([[1.0], [-1.0]]))
    data = forget_set([torch.tensor([[2.0]]), torch.tensor([[0.0]])], [0, 1])
    predicted, read = predict_log_odds(model, data, SCALARS)
    torch.testing.assert_close(predicted, torch.tensor([3.0, -7.0], dtype=torch.float64))
    assert read == ("trained", "held_out", "share", "unknown")
    everything, _ = predict_log_odds(model, data, replace(SCALARS, share=1.0))
    torch.testing.assert_close(everything, torch.tensor([3.0, -9.0], dtype=torch.float64))
    # The model without this client says 0 on average, the other numbers -3: their level is moved by 1.5.
    person = replace(data, unknown=torch.tensor([5.0, -5.0], dtype=torch.float64))
    half, _ = predict_log_odds(model, person, SCALARS)
    torch.testing.assert_close(half, torch.tensor([3.75, -6.25], dtype=torch.float64))
    for less in (replace(SCALARS, share=None), replace(SCALARS, unknown=None)):
        alone, read = predict_log_odds(model, data, less)
        torch.testing.assert_close(alone, torch.tensor([3.0, -5.0], dtype=torch.float64))
        assert read == ("trained", "held_out")


def test_without_log_odds_the_share_that_the_server_knows_of_is_right() -> None:
    model, data = tiny(), speechless(41)
    known = log_odds_of(model, data.examples)
    predicted, read = predict_log_odds(model, data, ServerScalars(test_accuracy=0.6))
    assert int((predicted > 1e-9).sum()) == 24 and read == ("test_accuracy",)
    torch.testing.assert_close(predicted - predicted[0], known - known[0])
    predicted, read = predict_log_odds(model, data, SILENT)
    assert int((predicted > 1e-9).sum()) == 10 and read == ()  # chance: a quarter
    assert run(model, data).scalars_read == ("trained", "held_out", "share", "unknown")


# ---- what it holds -----------------------------------------------------------------------------------------


def test_noisy_copies_have_the_configured_size_and_leave_padding_alone() -> None:
    model, data = tiny(dims=5), speechless(60)
    copies = noisy_copies(model, data.examples, 1.5, 40, np.random.default_rng(0))
    source = torch.arange(60).repeat_interleave(40)
    moved = (copies.features - data.examples.features[source]) / model.norm.std
    padding = torch.arange(3)[None, :] >= copies.frames[:, None]
    assert bool((copies.features[padding] == 0).all())
    assert float(moved[~padding].std()) == pytest.approx(1.5, rel=0.02)
    assert abs(float(moved[~padding].mean())) < 0.05
    assert torch.equal(copies.frames, data.examples.frames[source])
    assert torch.equal(
        noisy_copies(model, data.examples, 0.0, 1, np.random.default_rng(0)).features, data.examples.features
    )


@pytest.mark.parametrize("hold", ["adversarial", "noisy"])
def test_samples_pull_back_from_the_second_step_on(hold: str) -> None:
    """At the original their loss has its minimum, so the first step is the same without them."""
    model, data = tiny(), speechless(12)
    free, held = (
        [
            run(model, data, hold=kind, lr=0.3, momentum=0.0, max_steps=steps).state["weight"]
            for steps in (1, 2)
        ]
        for kind in ("none", hold)
    )
    torch.testing.assert_close(held[0], free[0], rtol=0, atol=1e-6)
    assert float((held[1] - free[1]).abs().max()) > 1e-4


def test_the_more_the_samples_weigh_the_less_the_model_moves() -> None:
    """Without noise they are the forget set itself, and ask for the opposite."""
    model, data = tiny(), speechless(12)
    chosen: dict[str, Any] = dict(lr=0.02, momentum=0.0, max_steps=200, hold="noisy", noise=0.0)
    chosen["attack"] = {"per_utterance": 1}
    moved = [run(model, data, keep=keep, **chosen).notes["moved"] for keep in (0.0, 1.0, 10.0)]
    assert moved[0] > 1.2 * moved[1] > 1.44 * moved[2], moved


def test_noisy_copies_have_the_labels_or_the_outputs_that_the_original_gives_them() -> None:
    """Held at its own labels a model moves; held at its own outputs, with nothing to forget, it does not."""
    model, data = tiny(), speechless(12)
    same = ServerScalars(0.5, 1.0, LogOdds(1.0, 2.0), LogOdds(1.0, 2.0))
    soft, hard = (
        run(model, data, same, hold="noisy", keep_target=target, lr=0.1).notes["moved"]
        for target in ("soft", "hard")
    )
    assert soft < 1e-3 < 0.1 < hard


def test_with_the_papers_switches_it_is_l2ul_bit_for_bit() -> None:
    model, data = tiny(), speechless(40)
    paper = UnlearningSettings(calm=CalmSettings(**L2ULSettings().model_dump()))
    one = METHODS["calm"].unlearn(model, data, paper, np.random.default_rng(3), SCALARS)
    other = METHODS["l2ul"].unlearn(model, data, UnlearningSettings(), np.random.default_rng(3), SCALARS)
    assert one.adversarial == other.adversarial == 400 and one.attack_success == other.attack_success
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    assert one.scalars_read == other.scalars_read == ("test_accuracy",)


def test_by_default_it_attacks_and_says_how_often_that_succeeded() -> None:
    result = run(tiny(), speechless(12))
    assert result.adversarial == 36 and 0.0 < result.attack_success <= 1.0
    for other in ("noisy", "none"):
        result = run(tiny(), speechless(12), hold=other)
        assert result.adversarial == 0 and math.isnan(result.attack_success)


def test_masked_without_samples_it_is_delete() -> None:
    model, data = tiny(), speechless(12)
    chosen: dict[str, Any] = dict(lr=0.1, stop="steps", max_steps=8, batch_size=64)
    one = run(model, data, objective="masked", hold="none", **chosen).state
    other = METHODS["delete"].unlearn(
        model,
        data,
        UnlearningSettings(delete=DeleteSettings(**chosen)),
        np.random.default_rng(0),
        SILENT,
    )
    for name, value in one.items():
        torch.testing.assert_close(value, other.state[name], rtol=1e-4, atol=1e-6)


def test_with_nothing_of_the_truth_left_its_target_is_deletes() -> None:
    """phi* -> -infinity."""
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4
    masked = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)
    gone = torch.full((5,), -1e6, dtype=torch.float64)
    torch.testing.assert_close(with_log_odds(logits, labels, gone), masked)


def test_a_matched_forget_set_is_where_it_stays() -> None:
    """Trained and held-out alike, no smoothing: the target is what the model says already."""
    model, data = tiny(), speechless(12)
    same = ServerScalars(0.5, 1.0, LogOdds(1.0, 2.0), LogOdds(1.0, 2.0), UnknownSpeakers(0.0, 1.0))
    result = run(model, data, same, lr=0.1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.state[name], value, rtol=0, atol=1e-4)


def test_the_forget_set_ends_up_with_the_predicted_log_odds() -> None:
    """One utterance a direction: nothing stands in the way."""
    weight = 4.0 * torch.eye(4)
    data = forget_set([torch.eye(4)[i : i + 1] for i in range(4)], [0, 1, 2, 3])
    model = TinyModel(weight)
    scalars = ServerScalars(0.5, 1.0, LogOdds(4.0, 2.0), LogOdds(0.5, 1.0))
    predicted, _ = predict_log_odds(model, data, scalars)
    result = run(model, data, scalars, hold="none", lr=0.5, max_steps=400)
    after = TinyModel(weight)
    after.load_state_dict(result.state)
    torch.testing.assert_close(log_odds_of(after, data.examples), predicted, rtol=0, atol=1e-2)
    assert result.notes["predicted_accuracy"] == float((predicted > 0).double().mean())


@pytest.mark.parametrize("labels", [[0], [2] * 5, [0, 1, 1, 1]], ids=["one", "one class", "a single example"])
def test_small_forget_sets(labels: list[int]) -> None:
    full: Tensor = speechless(len(labels)).examples.features
    model, data = tiny(), forget_set(list(full), labels)
    predicted, _ = predict_log_odds(model, data, SCALARS)
    after = tiny()
    after.load_state_dict(run(model, data, lr=0.2, max_steps=300, hold="none").state)
    before = log_odds_of(model, data.examples)
    got = log_odds_of(after, data.examples)
    assert bool(((got - predicted).abs() < (before - predicted).abs()).all())


def test_convolutions_stay_as_they_are() -> None:
    model = build_model(ModelSettings(name="cnn"), 8, np.random.default_rng(0))
    before, after = dict(model.named_parameters()), dict(smoothed(model, 12).named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name, value in before.items() if value.dim() == 2 and min(value.shape) > 12}
    assert changed and any(value.dim() == 3 for value in before.values())
