"""The halves and starts of privileged baselines: by hand, and where they reduce to one another."""

import copy
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import TinyModel, forget_set, separable, speechless, tiny
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.config.model import ModelSettings
from fedunlearn.config.unlearning import UnlearningSettings, section_of
from fedunlearn.config.work import LocalWork
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import TrainingDiverged
from fedunlearn.unlearning import METHODS, PRIVILEGED, method_named
from fedunlearn.unlearning.contract import Method, ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import divergence, unlearning_cross_entropy
from fedunlearn.unlearning.label_means import mean_outputs
from fedunlearn.unlearning.privileged import fed_eraser
from fedunlearn.unlearning.privileged.contract import HistoryCard, Plan, RewindCard, RoundsCard, ScratchCard

SILENT = ServerScalars()
LOCAL = LocalSettings(momentum=0.0, batch_size=64)
ROUNDS = {name: card for name, card in PRIVILEGED.items() if isinstance(card, RoundsCard)}
FORGETTING = sorted(name for name, card in ROUNDS.items() if card.forget)


def settings(method: str, **chosen: Any) -> UnlearningSettings:
    section = section_of(method)
    kind: Any = UnlearningSettings.model_fields[section].annotation
    return UnlearningSettings(**{section: kind(**chosen)})


def away(
    method: str,
    model: EmotionModel,
    data: ForgetSet,
    original: EmotionModel,
    held_out: Examples | None = None,
    more: dict[str, Any] | None = None,
    **chosen: Any,
) -> UnlearnResult:
    forget = ROUNDS[method].forget
    assert forget is not None
    steps = dict(momentum=0.0, stop="steps", max_steps=1, batch_size=64) | chosen
    chosen_all, rng = settings(method, forget=steps, **(more or {})), np.random.default_rng(0)
    return forget(model, data, chosen_all, rng, SILENT, original, held_out)


def kept(
    method: str,
    model: EmotionModel,
    data: Examples,
    original: EmotionModel,
    local: LocalSettings = LOCAL,
    seed: int = 0,
    **chosen: Any,
) -> dict[str, Tensor]:
    """The state after the retain half; the model itself stays."""
    trained, rng = copy.deepcopy(model), np.random.default_rng(seed)
    ROUNDS[method].retain(trained, data, settings(method, **chosen), local, rng, original)
    return trained.state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def pair() -> tuple[TinyModel, ForgetSet]:
    """W = 0, and two utterances of two signs: x = 2 of class 0, x = -1 of class 1."""
    data = forget_set([torch.tensor([[2.0]]), torch.tensor([[-1.0]])], [0, 1])
    return TinyModel(torch.zeros(2, 1)), data


# ---- by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fine-tune", "neggrad-plus", "not", "regun", "fedosd"])
def test_the_retain_half_descends_the_cross_entropy(method: str) -> None:
    """p = (1/2, 1/2); the mean gradient for W is ((-1/2, 1/2) * 2 + (1/2, -1/2) * -1) / 2 = (-3/4, 3/4),
    for b it is zero. One step goes down it.
    """
    model, data = pair()
    state = kept(method, model, data.examples, model, steps=1, lr=0.2)
    torch.testing.assert_close(state["weight"], torch.tensor([[0.15], [-0.15]]))
    torch.testing.assert_close(state["bias"], torch.zeros(2))


def test_the_forget_half_of_neggrad_plus_ascends_it() -> None:
    model, data = pair()
    result = away("neggrad-plus", model, data, model, lr=0.2)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.15], [0.15]]))


def test_the_servers_shares_in_neggrad_plus_are_the_losss() -> None:
    """With equal learning rates a forget half weighed 1 - alpha and a retain half weighed alpha are a step
    down alpha CE(retain) - (1 - alpha) CE(forget): on the same two utterances, 2 alpha - 1 of fine-tuning.
    """
    model, data = pair()
    plan = ROUNDS["neggrad-plus"].plan(settings("neggrad-plus", alpha=0.75, rounds=3))
    assert plan == Plan(3, 3, 0.25, 0.75)
    up = away("neggrad-plus", model, data, model, lr=0.2).state["weight"]
    down = kept("neggrad-plus", model, data.examples, model, steps=1, lr=0.2)["weight"]
    joint = plan.forget_share * up + plan.retain_share * down
    torch.testing.assert_close(joint, torch.tensor([[0.075], [-0.075]]))


def test_the_distance_of_scrub_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2; the other way 1/2 ln 2/3 + 1/2 ln 2."""
    sure, even = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(sure, even).item() == pytest.approx(expected)
    assert divergence(even, sure).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2.0))
    both = divergence(torch.cat([sure, sure]), torch.cat([even, sure]))
    assert both.item() == pytest.approx(expected / 2)


def test_scrub_goes_from_the_teacher_on_one_half_and_to_it_on_the_other() -> None:
    """The teacher says p = (3/4, 1/4) of everything, the student q = (1/2, 1/2). d KL / d logits = q - p =
    (-1/4, 1/4); with the mean of x = 2 and x = -1 the gradient is (-1/8, 1/8) for W, (-1/4, 1/4) for b.
    """
    model, data = pair()
    teacher = TinyModel(torch.zeros(2, 1), torch.tensor([math.log(3.0), 0.0]))
    up = away("scrub", model, data, teacher, lr=0.8).state
    down = kept("scrub", model, data.examples, teacher, steps=1, lr=0.8, alpha=0.5, gamma=0.0)
    torch.testing.assert_close(up["weight"], torch.tensor([[-0.1], [0.1]]))
    torch.testing.assert_close(up["bias"], torch.tensor([-0.2, 0.2]))
    torch.testing.assert_close(down["weight"], torch.tensor([[0.05], [-0.05]]))
    torch.testing.assert_close(down["bias"], torch.tensor([0.1, -0.1]))


def test_at_the_teacher_itself_scrub_has_nowhere_to_go() -> None:
    model, data = tiny(), speechless(9)
    up = away("scrub", model, data, model, lr=1.0).state
    down = kept("scrub", model, data.examples, model, steps=1, lr=1.0, alpha=1.0, gamma=0.0)
    for state in (up, down):
        torch.testing.assert_close(state["weight"], model.weight.detach(), rtol=0, atol=1e-6)


def test_fed_eraser_takes_the_old_size_and_the_new_direction() -> None:
    new = {
        "w": torch.tensor([[3.0, -4.0]]),
        "b": torch.tensor([-2.0]),
        "still": torch.zeros(2),
        "norm.mean": torch.tensor([0.5]),
    }
    calibrated = fed_eraser.calibrate(new, {"w": 10.0, "b": 0.5, "still": 7.0})
    assert calibrated["w"].tolist() == [[6.0, -8.0]]
    assert calibrated["b"].tolist() == [-0.5]
    assert calibrated["still"].tolist() == [0.0, 0.0]
    assert calibrated["norm.mean"].tolist() == [0.5]
    assert {value.dtype for value in calibrated.values()} == {torch.float64}


def test_fed_eraser_with_sizes_of_its_own_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    new = {"w": torch.randn(40, 30, generator=generator), "b": torch.randn(40, generator=generator)}
    sizes = {name: float(value.double().norm()) for name, value in new.items()}
    for name, value in fed_eraser.calibrate(new, sizes).items():
        torch.testing.assert_close(value, new[name].double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("interval", "done", "again"),
    [(1, 3, [1, 2, 3]), (2, 5, [1, 3, 5]), (3, 6, [1, 4]), (9, 4, [1]), (1, 0, [])],
)
def test_fed_eraser_goes_through_every_so_many_rounds(interval: int, done: int, again: list[int]) -> None:
    chosen = UnlearningSettings.model_validate({"fed_eraser": {"interval": interval}})
    assert list(fed_eraser.rounds(chosen, done)) == again


@pytest.mark.parametrize(
    ("ratio", "ordinary", "share"),
    [
        (1.0, LocalWork(0, 5), LocalWork(0, 5)),
        (0.5, LocalWork(0, 4), LocalWork(0, 2)),
        (0.1, LocalWork(0, 5), LocalWork(0, 1)),
        (0.5, LocalWork(0, 1), LocalWork(0, 1)),
        (1.0, LocalWork(15, 5), LocalWork(15, 5)),
        (0.5, LocalWork(15, 1), LocalWork(8, 1)),  # 7.5
        (0.1, LocalWork(30, 1), LocalWork(3, 1)),
        (0.1, LocalWork(1, 1), LocalWork(1, 1)),
    ],
)
def test_fed_eraser_trains_for_a_share_of_a_round(
    ratio: float, ordinary: LocalWork, share: LocalWork
) -> None:
    chosen = UnlearningSettings.model_validate({"fed_eraser": {"calibration_ratio": ratio}})
    assert fed_eraser.CARD.work(chosen, ordinary) == share


@pytest.mark.parametrize(("model", "layer"), [("functionals", "head.0.weight"), ("cnn", "layers.0.weight")])
def test_not_negates_the_first_layer_and_nothing_else(model: Any, layer: str) -> None:
    recogniser = build_model(ModelSettings(name=model, hidden=8), 4, rng_for(0, "any"))
    before = {name: value.clone() for name, value in recogniser.state_dict().items()}
    once = ROUNDS["not"].start(recogniser.state_dict(), recogniser)
    assert recogniser.first_layer == layer
    assert torch.equal(once[layer], -before[layer]) and bool(before[layer].any())
    assert_same({**once, layer: -once[layer]}, before)
    assert_same(recogniser.state_dict(), before)
    twice = ROUNDS["not"].start(once, recogniser)
    assert_same(twice, before)


def test_a_negated_first_layer_changes_what_the_models_say() -> None:
    """Also of the CNN, whose first weights are standardised before they are used."""
    for name, frames in (("functionals", 1), ("cnn", 30)):
        recogniser = build_model(ModelSettings(name=name, hidden=8), 4, rng_for(0, "any")).eval()  # type: ignore[arg-type]
        features = torch.randn(3, frames, recogniser.dims, generator=torch.Generator().manual_seed(0))
        lengths = torch.full((3,), frames)
        with torch.no_grad():
            before = recogniser.classify(features, lengths)
            recogniser.load_state_dict(ROUNDS["not"].start(recogniser.state_dict(), recogniser))
            after = recogniser.classify(features, lengths)
        assert float((after - before).abs().max()) > 0.01


def test_the_reference_of_regun_is_the_mean_output_on_held_out_speech_of_the_label() -> None:
    """Logits (x, 0): x = ln 3 is answered (3/4, 1/4), x = -ln 3 (1/4, 3/4), x = 0 (1/2, 1/2)."""
    model = TinyModel(torch.tensor([[1.0], [0.0]]))
    heard = [torch.tensor([[x]]) for x in (math.log(3.0), 0.0, -math.log(3.0))]
    both = mean_outputs(model, forget_set(heard, [0, 0, 1]).examples)
    torch.testing.assert_close(both, torch.tensor([[5 / 8, 3 / 8], [1 / 4, 3 / 4]]))
    # No held-out utterance has label 1: the mean over all.
    one = mean_outputs(model, forget_set(heard[:2], [0, 0]).examples)
    torch.testing.assert_close(one, torch.tensor([[5 / 8, 3 / 8], [5 / 8, 3 / 8]]))


def test_regun_goes_to_the_reference_of_the_label_or_of_the_batch() -> None:
    """Logits (x, 0); held-out x = ln 3 of class 0 is answered (3/4, 1/4), x = -ln 3 of class 1 (1/4, 3/4).

    Three forget utterances x = 0, of classes 0, 0 and 1, are answered (1/2, 1/2). The gradient for b is the
    mean of p - target, (1/2, 1/2) - (2 (3/4, 1/4) + (1/4, 3/4)) / 3 = (-1/12, 1/12), with both references.
    """
    model = TinyModel(torch.tensor([[1.0], [0.0]]))
    held_out = forget_set([torch.tensor([[math.log(3.0)]]), torch.tensor([[-math.log(3.0)]])], [0, 1])
    data = forget_set([torch.zeros(1, 1)] * 3, [0, 0, 1])
    for reference in ("class", "batch"):
        result = away("regun", model, data, model, held_out.examples, {"reference": reference}, lr=1.2)
        torch.testing.assert_close(result.state["bias"], torch.tensor([0.1, -0.1]))
    # x = 1 of class 0 and x = -1 of class 1: the batch's reference (1/2, 1/2) flattens W, that of the label
    # (3/4, 1/4) sharpens it, as p = sigma(1) = .731 is less than 3/4.
    apart = forget_set([torch.tensor([[1.0]]), torch.tensor([[-1.0]])], [0, 1])
    weights = {
        reference: away("regun", model, apart, model, held_out.examples, {"reference": reference}, lr=1.0)
        .state["weight"][0]
        .item()
        for reference in ("class", "batch")
    }
    sure = 1 / (1 + math.exp(-1.0))
    assert weights == pytest.approx({"class": 1 - (sure - 0.75), "batch": 1 - (sure - 0.5)}, rel=1e-5)


def test_without_held_out_speech_regun_has_no_reference() -> None:
    model, data = pair()
    result = away("regun", model, data, model, speechless(0).examples)
    assert (result.stopped, result.steps) == ("no held-out speech", 0)
    assert_same(result.state, model.state_dict())


def test_the_loss_of_fedosd_by_hand() -> None:
    """p_y = 1/2 and 3/4: the mean of -ln(3/4) and -ln(5/8). Sure of the truth it is ln 2, and no more."""
    model = TinyModel(torch.tensor([[1.0], [0.0]]))
    data = forget_set([torch.zeros(1, 1), torch.tensor([[math.log(3.0)]]), torch.tensor([[99.0]])], [0, 0, 0])
    loss = unlearning_cross_entropy(data.examples)
    two = loss(model, torch.tensor([0, 1]))
    assert two.item() == pytest.approx(-(math.log(3 / 4) + math.log(5 / 8)) / 2)
    assert loss(model, torch.tensor([2])).item() == pytest.approx(math.log(2.0))


def test_the_forget_half_of_fedosd_descends_it() -> None:
    """p = (1/2, 1/2). d -ln(1 - p_y/2) / d p_y = (1/2) / (1 - 1/4) = 2/3, d p_y / d logits = (1/4, -1/4) for
    class 0: the gradient is (1/6, -1/6) for x = 2 of class 0 and (-1/6, 1/6) for x = -1 of class 1. For W
    the mean is (2/6 + 1/6) / 2 = 1/4.
    """
    model, data = pair()
    result = away("fedosd", model, data, model, lr=0.4)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.1], [0.1]]))
    torch.testing.assert_close(result.state["bias"], torch.zeros(2))


def test_oracle_matching_goes_to_the_logits_of_the_oracle() -> None:
    """The oracle says (1, 0) of everything, the model (0, 0): the gradient of the mean squared distance is
    2 (-1, 0), times x for W; x = 2 and x = -1 have the mean 1/2.
    """
    model, data = pair()
    oracle = TinyModel(torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
    gone = away("oracle-matching", model, data, oracle, lr=0.1).state
    stayed = kept("oracle-matching", model, data.examples, oracle, steps=1, lr=0.1)
    for state in (gone, stayed):
        torch.testing.assert_close(state["weight"], torch.tensor([[0.1], [0.0]]))
        torch.testing.assert_close(state["bias"], torch.tensor([0.2, 0.0]))
    for state in (
        away("oracle-matching", oracle, data, oracle, lr=0.1).state,
        kept("oracle-matching", oracle, data.examples, oracle, steps=1, lr=0.1),
    ):
        assert_same(state, oracle.state_dict())


# ---- where they reduce to one another --------------------------------------------------------------------


def test_the_forget_half_of_neggrad_plus_is_gradient_ascent() -> None:
    model, data = separable()
    steps = dict(lr=0.05, max_steps=7, batch_size=8, stop="steps")
    ascent = UnlearningSettings.model_validate({"gradient_ascent": steps})
    alone = METHODS["gradient-ascent"].unlearn(model, data, ascent, np.random.default_rng(0), SILENT)
    assert_same(away("neggrad-plus", model, data, model, momentum=0.9, **steps).state, alone.state)


def test_scrub_with_cross_entropy_alone_is_fine_tuning() -> None:
    """Dropout, shuffling, mixup and noise included: the same draws, the same bits."""
    model = FunctionalsModel(4, hidden=8, dropout=0.5)
    other = FunctionalsModel(4, hidden=8, dropout=0.5)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 720, generator=generator) for _ in range(20)]
    data = forget_set(features, [i % 4 for i in range(20)]).examples
    local = LocalSettings(batch_size=6, mixup=0.2, feature_noise=0.1, weight_decay=0.01)
    chosen: dict[str, Any] = dict(steps=3, lr=0.05)
    tuned = kept("fine-tune", model, data, other, local, **chosen)
    assert_same(kept("scrub", model, data, other, local, alpha=0.0, gamma=1.0, **chosen), tuned)
    assert_same(kept("not", model, data, other, local, **chosen), tuned)
    taught = kept("scrub", model, data, other, local, alpha=0.5, gamma=1.0, **chosen)
    assert not torch.equal(taught["head.0.weight"], tuned["head.0.weight"])


@pytest.mark.parametrize(
    ("method", "chosen", "plan"),
    [
        ("fine-tune", dict(rounds=4), Plan(4)),
        ("not", dict(rounds=4), Plan(4)),
        ("neggrad-plus", dict(rounds=4, alpha=1.0), Plan(4, 0, 0.0, 1.0)),
        ("neggrad-plus", dict(rounds=4, alpha=0.0), Plan(4, 4, 1.0, 0.0)),
        ("scrub", dict(rounds=4, max_rounds=2), Plan(4, 2)),
        ("scrub", dict(rounds=4, max_rounds=0), Plan(4, 0)),
        ("regun", dict(rounds=4), Plan(4, 4)),
        ("oracle-matching", dict(rounds=4), Plan(4, 4)),
        ("fedosd", dict(rounds=4, forget_rounds=3), Plan(4, 3)),
        ("fedosd", dict(rounds=4, forget_rounds=9), Plan(4, 4)),
        ("fedosd", dict(rounds=4, forget_rounds=0), Plan(4, 0)),
    ],
)
def test_the_plans(method: str, chosen: dict[str, Any], plan: Plan) -> None:
    assert ROUNDS[method].plan(settings(method, **chosen)) == plan


# ---- what holds for all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FORGETTING)
def test_a_forget_half_changes_no_model_and_stops_at_the_level(method: str) -> None:
    model, data = separable()
    # Surer: away from it is down. An oracle that is always wrong is down, too.
    original = TinyModel((-6.0 if method == "oracle-matching" else 6.0) * torch.eye(4))
    wrong = Examples(data.examples.features, data.examples.frames, (data.examples.labels + 1) % 4)
    held_out = wrong if ROUNDS[method].held_out else None
    states = [copy.deepcopy(m.state_dict()) for m in (model, original)]
    forget = ROUNDS[method].forget
    assert forget is not None
    chosen = settings(method, forget=dict(lr=0.1, batch_size=8, max_steps=500, stop="level"))
    results: list[UnlearnResult] = [
        forget(model, data, chosen, np.random.default_rng(seed), ServerScalars(0.6), original, held_out)
        for seed in (1, 1, 2)
    ]
    for m, state in zip((model, original), states, strict=True):
        assert_same(m.state_dict(), state)
    assert results[0].stopped == "level" and results[0].forget_accuracy[1] <= 0.6
    assert results[0].scalars_read == ("test_accuracy",)
    assert_same(results[0].state, results[1].state)
    assert not torch.equal(results[0].state["weight"], results[2].state["weight"])


@pytest.mark.parametrize("method", FORGETTING)
def test_an_empty_forget_set_moves_nothing(method: str) -> None:
    model = tiny()
    result = away(method, model, speechless(0), tiny(seed=1))
    assert_same(result.state, model.state_dict())
    assert (result.stopped, result.steps) == ("empty forget set", 0)


@pytest.mark.parametrize("method", sorted(ROUNDS))
def test_a_retain_half_is_drawn_by_its_rng_alone_and_spares_the_teacher(method: str) -> None:
    model, data = separable()
    original = TinyModel(2.0 * torch.eye(4)).train()
    before = copy.deepcopy(original.state_dict())
    local = LocalSettings(batch_size=8)
    one, again, other = (
        kept(method, model, data.examples, original, local, seed, steps=2, lr=0.1) for seed in (3, 3, 4)
    )
    assert_same(one, again)
    assert not torch.equal(one["weight"], other["weight"])
    assert_same(original.state_dict(), before)
    assert original.training


def test_a_retain_half_that_diverges_names_its_step() -> None:
    model, data = tiny(), speechless(6)
    model.norm.std.fill_(1e-20)
    with pytest.raises(TrainingDiverged, match="step 2"):
        unclipped = LOCAL.model_copy(update={"gradient_clip": 0.0})
        kept("fine-tune", model, data.examples, model, unclipped, steps=9, lr=1e15)


def test_the_type_of_a_card_says_what_it_sees() -> None:
    kinds = {name: (type(card), card.sees) for name, card in PRIVILEGED.items()}
    assert kinds == {
        **dict.fromkeys(("fine-tune", "neggrad-plus", "scrub", "not"), (RoundsCard, "retain")),
        **dict.fromkeys(("regun", "fedosd", "oracle-matching"), (RoundsCard, "retain")),
        "fed-eraser": (HistoryCard, "history"),
        "rewind-to-delete": (RewindCard, "history"),
        "retrained": (ScratchCard, "retain"),
    }
    for name, card in PRIVILEGED.items():
        assert card.name == name and method_named(name) is card
        assert any(word in card.source for word in ("arXiv", "anew"))
    assert not METHODS.keys() & PRIVILEGED.keys()


def test_a_method_of_the_forget_set_has_no_way_to_see_more() -> None:
    """The parameters of ``contract.Method``, and no others, are those of every method in METHODS."""
    parameters = list(inspect.signature(Method.__call__).parameters)[1:]
    assert parameters == ["model", "forget_set", "settings", "rng", "scalars"]
    for card in METHODS.values():
        assert list(inspect.signature(card.unlearn).parameters) == parameters
