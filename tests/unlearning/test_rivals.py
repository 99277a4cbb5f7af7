"""The rivals that see the forget set alone: by hand, where they reduce to one another, and at their edges.

What every method must keep is tested on all in METHODS, so that a new one is tested too.
"""

import copy
import keyword
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from pydantic import BaseModel
from tiny_model import TinyModel, forget_set, separable, speechless, tiny
from torch import Tensor

from fedunlearn.config.descent import DescentSettings
from fedunlearn.config.unlearning import AttackSettings, L2ULSettings, UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.unlearning import METHODS, PRIVILEGED, TICKETED
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed, UnlearnResult
from fedunlearn.unlearning.importance import saliency_mask
from fedunlearn.unlearning.log_odds import virtual_teacher, without_true_class
from fedunlearn.unlearning.untargeted_attack import closest_adversarial, fgsm

SILENT = ServerScalars()
SECTIONS: dict[str, Any] = {
    name: UnlearningSettings.model_fields[name.replace("-", "_")].annotation
    for name in METHODS
    if name.replace("-", "_") in UnlearningSettings.model_fields
}
STEPPING = sorted(name for name, kind in SECTIONS.items() if issubclass(kind, DescentSettings))
RIVALS = sorted({*STEPPING} - {"l2ul"})
UNMOVED = {"amun-forget"}
"""AMUN changes the model at the boundaries only, and a linear model has nothing else near them."""
CHANGING = sorted({*METHODS} - {"none"})
UNREACHED = {
    *((method, "level") for method in ("amun-forget", "calm", "l2ul", "one-answer")),
    *((method, "zero") for method in ("amun-forget", "calm", "l2ul", "one-answer")),
    *((method, "zero") for method in ("gradient-ascent", "pga")),
}
ONE_STEP: dict[str, Any] = dict(momentum=0.0, stop="steps", max_steps=1, batch_size=64)


def run(
    method: str,
    model: TinyModel,
    data: ForgetSet,
    seed: int = 0,
    scalars: ServerScalars = SILENT,
    **chosen: Any,
) -> UnlearnResult:
    settings = UnlearningSettings(**{method.replace("-", "_"): SECTIONS[method](**chosen)})
    return METHODS[method].unlearn(model, data, settings, np.random.default_rng(seed), scalars)


def l2ul(model: TinyModel, data: ForgetSet, seed: int = 0, **chosen: Any) -> UnlearnResult:
    """Without attack and elasticity."""
    attack = AttackSettings(per_utterance=0)
    return run("l2ul", model, data, seed, attack=attack, elasticity=0.0, **chosen)


def assert_same(one: UnlearnResult, other: UnlearnResult, **close: float) -> None:
    assert (one.steps, one.stopped) == (other.steps, other.stopped)
    for name, value in one.state.items():
        if close:
            torch.testing.assert_close(value, other.state[name], **close)
        else:
            assert torch.equal(value, other.state[name]), name


def pair(classes: int = 2, bias: Tensor | None = None) -> tuple[TinyModel, ForgetSet]:
    """W = 0, and two utterances of two signs: x = 2 of class 0, x = -1 of class 1."""
    model = TinyModel(torch.zeros(classes, 1), bias)
    return model, forget_set([torch.tensor([[2.0]]), torch.tensor([[-1.0]])], [0, 1])


# ---- by hand ---------------------------------------------------------------------------------------------


def test_random_label_by_hand() -> None:
    """p = (1/2, 1/2); the gradient of the mean is (p - onehot(new)) x, averaged: for W
    ((1/2, -1/2) * 2 + (-1/2, 1/2) * -1) / 2 = (3/4, -3/4), for b (0, 0).
    """
    model, data = pair()
    result = run("random-label", model, data, **ONE_STEP, lr=0.2)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.15], [0.15]]))
    torch.testing.assert_close(result.state["bias"], torch.zeros(2))
    assert result.forget_accuracy == (0.5, 0.0)


def test_gradient_ascent_by_hand() -> None:
    """Three classes, W = 0, so p - onehot(0) = (-2/3, 1/3, 1/3) for x = 3 and x = -3, both of class 0: what
    they say of W cancels, and b moves by lr * (p - onehot(0)).
    """
    model = TinyModel(torch.zeros(3, 1))
    data = forget_set([torch.tensor([[3.0]]), torch.tensor([[-3.0]])], [0, 0])
    result = run("gradient-ascent", model, data, **ONE_STEP, lr=0.3)
    torch.testing.assert_close(result.state["weight"], torch.zeros(3, 1))
    torch.testing.assert_close(result.state["bias"], torch.tensor([-0.2, 0.1, 0.1]))


def test_delete_by_hand() -> None:
    """p = (2, 3, 1) / 6 everywhere. For x = 2 of class 0 the target is (0, 3/4, 1/4), for x = -1 of class 1
    it is (2/3, 0, 1/3); p - target is (1/3, -1/4, -1/12) and (-1/3, 1/2, -1/6). Hence the mean gradients
    W: (2 (1/3, -1/4, -1/12) - (-1/3, 1/2, -1/6)) / 2 = (1/2, -1/2, 0); b: (0, 1/8, -1/8).
    """
    model, data = pair(3, torch.tensor([2.0, 3.0, 1.0]).log())
    result = run("delete", model, data, **ONE_STEP, lr=0.4)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.2], [0.2], [0.0]]))
    moved = result.state["bias"] - model.bias.detach()
    torch.testing.assert_close(moved, torch.tensor([0.0, -0.05, 0.05]))


@pytest.mark.parametrize(("eps", "crossed"), [(0.01, 0.0), (2.0, 1.0)])
def test_boundary_shrink_takes_the_class_on_the_near_side(eps: float, crossed: float) -> None:
    """logits (1, x, -x): x = 0.1 and x = -0.1 are of class 0, and d CE / dx = p_1 - p_2 has the sign of x.

    The step leads to class 1 on one side and to class 2 on the other, whether it crosses or not.
    """
    model = TinyModel(torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([1.0, 0.0, 0.0]))
    data = forget_set([torch.tensor([[0.1]]), torch.tensor([[-0.1]])], [0, 0])
    result = run("boundary-shrink", model, data, **ONE_STEP, lr=1.0, eps=eps)
    assert (result.adversarial, result.attack_success) == (2, crossed)
    logits = model.classify(data.examples.features, data.examples.frames)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1, 2])), model.weight)
    torch.testing.assert_close(result.state["weight"], model.weight.detach() - gradient)


def test_fgsm_moves_every_true_value_by_eps_standard_deviations() -> None:
    model, data = tiny(), speechless(7)
    moved = fgsm(model, data.examples, 0.3) - data.examples.features
    real = (torch.arange(3)[None, :] < data.examples.frames[:, None])[:, :, None]
    torch.testing.assert_close(moved.abs(), (0.3 * model.norm.std * real).expand_as(moved))
    logits = [
        model.classify(x, data.examples.frames)
        for x in (data.examples.features, data.examples.features + 0.01 * moved)
    ]
    before, after = (F.cross_entropy(z, data.examples.labels, reduction="none") for z in logits)
    assert bool((after > before).all())


def test_the_closest_adversarial_example_by_hand() -> None:
    """The boundary is at 0, the standard deviation 2: x = 1.7 and x = -1.7 are 0.85 deviations away.

    Balls of 0.25, 0.5 and 1.0, steps of a tenth: 0.5 at the end of the second ball, then 0.6 ... 0.9.
    A third utterance is of the other class already, and stays.
    """
    model = TinyModel(torch.tensor([[1.0], [-1.0]]))
    model.norm.std.fill_(2.0)
    data = forget_set([torch.tensor([[x]]) for x in (1.7, -1.7, 0.5)], [0, 1, 1])
    features, predicted, distance = closest_adversarial(model, data.examples, 0.25, 3, 50)
    torch.testing.assert_close(features.flatten(), torch.tensor([-0.1, 0.1, 0.5]))
    torch.testing.assert_close(distance, torch.tensor([0.9, 0.9, 0.0]))
    assert predicted.tolist() == [1, 0, 0]
    held = closest_adversarial(model, data.examples, 0.25, 1, 50)
    torch.testing.assert_close(held[2], torch.tensor([0.5, 0.5, 0.0]))
    assert held[1].tolist() == [0, 1, 0]


def test_the_closest_adversarial_example_leaves_padding_alone_and_is_in_its_ball() -> None:
    model, data = tiny(), speechless(90)
    features, predicted, distance = closest_adversarial(model, data.examples, 0.05, 5, 10)
    moved = (features - data.examples.features) / model.norm.std
    padding = torch.arange(3)[None, :] >= data.examples.frames[:, None]
    assert bool((moved[padding] == 0).all())
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), distance)
    assert bool((distance <= 0.05 * 2**5 * (data.examples.frames * 5).sqrt() * 1.0001).all())
    assert bool((predicted != data.examples.labels).any())


def test_amun_learns_the_adversarial_samples_with_their_wrong_labels() -> None:
    """Of x = 0.85 and x = -0.85 one lies within the balls' reach, the other, at 5, beyond it."""
    model = TinyModel(torch.tensor([[1.0], [-1.0]]))
    data = forget_set([torch.tensor([[0.85]]), torch.tensor([[-5.0]])], [0, 1])
    amun: dict[str, Any] = dict(eps=0.25, doublings=2, lr=1.0, **ONE_STEP)
    result = run("amun-forget", model, data, **amun)
    assert (result.adversarial, result.attack_success) == (1, 0.5)
    assert result.notes["distance"] == pytest.approx(0.9)
    ones = torch.ones(3, dtype=torch.int64)

    def stepped(features: Tensor, labels: Tensor) -> Tensor:
        logits = model.classify(features[:, None, None], ones[: len(features)])
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), model.weight)
        return model.weight.detach() - gradient

    alone = stepped(torch.tensor([-0.05]), torch.tensor([1]))
    torch.testing.assert_close(result.state["weight"], alone)
    both = run("amun-forget", model, data, **amun, forget_set="true-label")
    expected = stepped(torch.tensor([-0.05, 0.85, -5.0]), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(both.state["weight"], expected)


def test_amun_says_when_it_found_no_adversarial_sample() -> None:
    model, data = separable()
    result = run("amun-forget", model, data, eps=1e-9, doublings=0)
    assert (result.stopped, result.adversarial, result.forget_accuracy) == (
        "no adversarial samples",
        0,
        (1.0, 1.0),
    )
    assert torch.equal(result.state["weight"], model.weight)


def test_pga_clips_the_gradient_to_its_length() -> None:
    """x = 3 of class 0: for W -(p - onehot) x = (2, -1, -1), for b a third of that. Length 6 ** 0.5 *
    (1 + 1/9) ** 0.5; clipped to 0.5 only the direction is left.
    """
    model = TinyModel(torch.zeros(3, 1))
    data = forget_set([torch.tensor([[3.0]])], [0])
    direction = torch.tensor([2.0, -1.0, -1.0]) / math.sqrt(6 * (1 + 1 / 9))
    result = run("pga", model, data, **ONE_STEP, lr=0.1, clip=0.5, radius=1e9)
    torch.testing.assert_close(result.state["weight"][:, 0], -0.05 * direction)
    torch.testing.assert_close(result.state["bias"], -0.05 * direction / 3)


def test_pga_stays_in_its_ball_and_on_its_edge_where_ascent_would_leave() -> None:
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=1.0, stop="steps", max_steps=20)
    inside = run("pga", model, data, **chosen, radius=0.01)
    assert inside.notes["moved"] == pytest.approx(inside.notes["radius"], rel=1e-4)
    assert run("gradient-ascent", model, data, **chosen).notes["moved"] > 10 * inside.notes["radius"]
    twice = run("pga", model, data, **chosen, radius=0.02)
    assert twice.notes["radius"] == pytest.approx(2 * inside.notes["radius"])


def test_pgas_radius_is_a_share_of_the_distance_to_random_models() -> None:
    """W of 2 x 50000 is drawn uniformly in +-1/sqrt(50000): with W = 0 the squared distance is close to
    100000 * (1/50000) / 3 = 2/3, and three quarters of its root is requested.
    """
    model = TinyModel(torch.zeros(2, 50_000))
    data = forget_set([torch.zeros(1, 50_000)], [0])
    result = run("pga", model, data, radius=0.75, max_steps=0)
    assert result.notes["radius"] == pytest.approx(0.75 * math.sqrt(2 / 3), rel=0.01)


def test_saluns_mask_by_hand() -> None:
    """p = (1/2, 1/2). x = (3, 1) of class 0 and x = (-3, 1) of class 1 pull alike at the first column of W,
    by 3/2, and against each other at the second and at b: 0.
    """
    model = TinyModel(torch.zeros(2, 2))
    data = forget_set([torch.tensor([[3.0, 1.0]]), torch.tensor([[-3.0, 1.0]])], [0, 1])
    weight, bias = saliency_mask(model, data.examples, 0.7)
    assert weight.tolist() == [[True, False], [True, False]]
    assert bias.tolist() == [False, False]
    assert all(bool(mask.all()) for mask in saliency_mask(model, data.examples, 0.0))


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75, 1.0])
def test_saluns_masked_weights_do_not_move_whatever_the_momentum(threshold: float) -> None:
    model, data = tiny(), speechless(11)
    result = run("salun", model, data, threshold=threshold, stop="steps", max_steps=9, lr=0.1)
    masks = saliency_mask(model, data.examples, threshold)
    free = 0
    for (name, old), mask in zip(model.named_parameters(), masks, strict=True):
        assert torch.equal(result.state[name][~mask], old[~mask])
        assert bool((result.state[name][mask] != old[mask]).all())
        free += int(mask.sum())
    assert free == max(1, 24 - int(threshold * 24))
    assert result.notes["salient"] == free / 24


def test_jit_shrinks_what_noise_changes() -> None:
    """logits = w z + b, z = x / 2 the standardised feature: noise e in z moves them by w e, so that
    |f(x) - f(x + e)| / |e| = |w| whatever the noise. Its gradient is w / |w|, here w itself, of length 1.
    """
    model = TinyModel(torch.tensor([[3.0], [4.0]]) / 5)
    model.norm.std.fill_(2.0)
    data = forget_set([torch.tensor([[1.0]]), torch.tensor([[-0.5]])], [0, 1])
    result = run("jit", model, data, **ONE_STEP, lr=0.1, noise=0.3, copies=4)
    torch.testing.assert_close(result.state["weight"], 0.9 * model.weight.detach())
    torch.testing.assert_close(result.state["bias"], torch.zeros(2), rtol=0, atol=1e-5)


def test_the_virtual_teachers_of_fedquit_by_hand() -> None:
    """Logits (ln 8, ln 2, ln 1) of class 0: the lowest is ln 1, so (1, 2, 1) / 4. Of the wrong classes
    q = (2/3, 1/3), and 2/3 ln 2 + 1/3 ln 1 = ln 2^(2/3) makes the entropy greatest. Of class 2 the truth is
    the lowest already.
    """
    logits, labels = torch.tensor([[8.0, 2.0, 1.0]]).log(), torch.tensor([0])
    lowest = virtual_teacher(logits, labels, "min").softmax(1)
    torch.testing.assert_close(lowest, torch.tensor([[1 / 4, 1 / 2, 1 / 4]]))
    even = virtual_teacher(logits, labels, "entropy")
    torch.testing.assert_close(even[0, 0], torch.tensor(2 / 3 * math.log(2.0)))

    def entropy(value: float) -> float:
        p = virtual_teacher(logits, labels, value).softmax(1)
        return float(-(p * p.log()).sum())

    best = entropy(float(even[0, 0]))
    assert best > max(entropy(float(even[0, 0]) + shift) for shift in (-0.3, -0.1, 0.1, 0.3))
    assert torch.equal(virtual_teacher(logits, torch.tensor([2]), "min"), logits)


def test_fedquit_by_hand() -> None:
    """p = (1/2, 1/4, 1/4) everywhere, which is (2, 1, 1) / 4: the teacher of class 0 is (1, 1, 1) / 3, that
    of class 1 is p. p - target: (1/6, -1/12, -1/12) for x = 2 and nothing for x = -1.
    """
    model, data = pair(3, torch.tensor([2.0, 1.0, 1.0]).log())
    result = run("fedquit", model, data, **ONE_STEP, lr=0.6, true_logit="min")
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.1], [0.05], [0.05]]))
    moved = result.state["bias"] - model.bias.detach()
    torch.testing.assert_close(moved, torch.tensor([-0.05, 0.025, 0.025]))


def test_puf_takes_back_what_training_does_several_times_over() -> None:
    """p = (1/2, 1/2): the true labels have the gradient (-3/4, 3/4) for W (as the wrong ones, turned). One
    step of .2 is (.15, -.15); taken back three times it is (-.45, .45), and every answer is wrong.
    """
    model, data = pair()
    result = run("puf", model, data, steps=1, lr=0.2, momentum=0.0, scale=3.0)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.45], [0.45]]))
    torch.testing.assert_close(result.state["bias"], torch.zeros(2))
    assert (result.steps, result.stopped, result.forget_accuracy) == (1, "steps", (0.5, 0.0))
    assert result.notes["trained"] == pytest.approx(0.15 * 2**0.5)
    assert_same(run("puf", model, data, scale=0.0), run("puf", model, data, steps=15, scale=0.0))


def test_puf_says_when_its_output_is_not_finite() -> None:
    """Standardised by 1e-12, x = 2 has a gradient of 1e12; times 1e15 twice it is beyond a float32."""
    model, data = pair()
    model.norm.std.fill_(1e-12)
    with pytest.raises(UnlearnFailed, match=r"^step 1: the model's output"):
        run("puf", model, data, steps=1, scale=1e15, lr=1e15)
    assert not model.weight.any()


# ---- where they reduce to one another --------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["level", "zero", "steps"])
def test_random_label_is_l2ul_without_its_other_terms(stop: str) -> None:
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.3, max_steps=40, stop=stop, scalars=ServerScalars(0.5))
    assert_same(run("random-label", model, data, **chosen), l2ul(model, data, **chosen))


def test_gradient_ascent_is_l2ul_misclassifying() -> None:
    """In one batch: L2UL draws wrong labels first, and so another order."""
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.1, max_steps=40, batch_size=64)
    one = run("gradient-ascent", model, data, **chosen)
    assert_same(one, l2ul(model, data, objective="misclassify", **chosen), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop", ["level", "zero", "steps"])
def test_delete_is_l2ul_masked(stop: str) -> None:
    """Cross-entropy to the masked output is the divergence from it plus its entropy, which is constant; in
    one batch, as L2UL draws wrong labels first.
    """
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.1, max_steps=40, batch_size=64, stop=stop, scalars=ServerScalars(0.5))
    assert_same(
        run("delete", model, data, **chosen),
        l2ul(model, data, objective="masked", **chosen),
        rtol=1e-4,
        atol=1e-5,
    )


def test_with_two_classes_masked_is_relabelling() -> None:
    model, data = tiny(classes=2), speechless(12, classes=2)
    chosen: dict[str, Any] = dict(lr=0.1, stop="steps", max_steps=8)
    assert_same(
        l2ul(model, data, objective="masked", **chosen), l2ul(model, data, **chosen), rtol=1e-5, atol=1e-6
    )


def test_what_delete_teaches_is_the_models_output_without_the_true_class() -> None:
    """p = (2, 3, 1) / 6: without class 1 (2/3, 0, 1/3). The same however sure of the truth the model is."""
    for sure in (0.0, 80.0):
        model = TinyModel(torch.zeros(3, 1), torch.tensor([2.0, 3.0, 1.0]).log() + sure * torch.eye(3)[1])
        target = without_true_class(model, forget_set([torch.tensor([[7.0]])], [1]).examples)
        torch.testing.assert_close(target, torch.tensor([[2 / 3, 0.0, 1 / 3]]))


def test_fedquit_with_an_impossible_truth_is_delete() -> None:
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.1, max_steps=40, scalars=ServerScalars(0.5))
    one = run("fedquit", model, data, true_logit=-1000.0, **chosen)
    assert_same(one, run("delete", model, data, **chosen), rtol=1e-5, atol=1e-6)


@given(st.floats(0.0, 20.0), st.integers(0, 2**32))
@settings_of_hypothesis(max_examples=25, deadline=None)
def test_puf_in_one_step_is_gradient_ascent_as_many_times_as_long(scale: float, seed: int) -> None:
    model, data = tiny(seed=seed), speechless(7, seed=seed)
    one = run("puf", model, data, steps=1, lr=0.05, momentum=0.0, scale=scale)
    other = run("gradient-ascent", model, data, **ONE_STEP, lr=max(0.05 * scale, 1e-12))
    assert_same(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1])
def test_puf_goes_through_the_forget_set_in_epochs_or_steps(steps: int) -> None:
    model, data = separable(40)
    result = run("puf", model, data, steps=steps, epochs=3, batch_size=16)
    assert result.steps == (steps or 3 * 3)


def test_salun_that_masks_nothing_is_random_label() -> None:
    model, data = separable()
    assert_same(run("salun", model, data, threshold=0.0, lr=0.1), run("random-label", model, data, lr=0.1))


def test_pga_in_a_ball_without_end_is_gradient_ascent() -> None:
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.1, stop="steps", max_steps=20)
    assert_same(
        run("pga", model, data, radius=1e12, clip=0.0, **chosen),
        run("gradient-ascent", model, data, **chosen),
    )


@pytest.mark.parametrize("method", ["boundary-shrink", "delete", "salun"])
def test_with_two_classes_the_wrong_label_is_the_other_one(method: str) -> None:
    """Random, nearest, and all that the original's output has left: in each case 1 - y."""
    model, data = tiny(classes=2), speechless(12, classes=2)
    chosen: dict[str, Any] = dict(lr=0.1, stop="steps", max_steps=8, batch_size=64)
    more = {"threshold": 0.0} if method == "salun" else {}
    one = run(method, model, data, **chosen, **more)
    assert_same(one, run("random-label", model, data, **chosen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", STEPPING)
def test_zero_steps_is_the_original(method: str) -> None:
    model, data = separable()
    result = run(method, model, data, max_steps=0, stop="steps")
    assert (result.steps, result.stopped, result.forget_accuracy) == (0, "steps", (1.0, 1.0))
    for name, value in model.state_dict().items():
        assert torch.equal(result.state[name], value)


# ---- what every method keeps -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", STEPPING)
@pytest.mark.parametrize(("stop", "level"), [("level", 0.9), ("zero", 0.0), ("steps", -math.inf)])
def test_a_method_stops_at_the_first_step_at_or_below_its_level(method: str, stop: str, level: float) -> None:
    """Not all get there on a linear model: L2UL and AMUN hold it at, or near, its boundaries, CALM on noisy
    copies, as the control with one answer, which is no wrong one.
    """
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.3, stop=stop, scalars=ServerScalars(0.9))
    result = run(method, model, data, max_steps=60, **chosen)
    assert result.notes["level"] == level
    reads = stop == "level" or method == "calm"  # without log-odds CALM aims at the level
    assert result.scalars_read == (("test_accuracy",) if reads else ())
    assert result.forget_accuracy[0] == 1.0
    if stop == "steps" or (method, stop) in UNREACHED:
        assert (result.stopped, result.steps) == ("steps", 60)
        assert result.forget_accuracy[1] > level
    else:
        assert result.stopped == stop and result.forget_accuracy[1] <= level
        before = run(method, model, data, max_steps=result.steps - 1, **chosen)
        assert before.forget_accuracy[1] > level and before.stopped == "steps"


@pytest.mark.parametrize("method", STEPPING)
def test_a_silent_server_means_chance_level(method: str) -> None:
    model, data = separable()
    result = run(method, model, data, max_steps=0, stop="level")
    assert (result.scalars_read, result.notes["level"]) == ((), 0.25)


@pytest.mark.parametrize("method", sorted({*RIVALS} - UNMOVED))
def test_a_rival_makes_the_forget_set_less_certain(method: str) -> None:
    model, data = separable()
    after = TinyModel(model.weight.detach())
    after.load_state_dict(run(method, model, data, lr=0.1, stop="steps", max_steps=5).state)
    with torch.no_grad():
        one, other = (
            F.cross_entropy(m.classify(data.examples.features, data.examples.frames), data.examples.labels)
            for m in (model, after)
        )
    assert float(other) > float(one)


@pytest.mark.parametrize("method", STEPPING)
@pytest.mark.parametrize("labels", [[0], [1], [1] * 5], ids=["one", "the other", "one class"])
def test_small_forget_sets_of_two_classes(method: str, labels: list[int]) -> None:
    full = speechless(len(labels), classes=2).examples
    data = forget_set([f[:n] for f, n in zip(full.features, full.frames, strict=True)], labels)
    result = run(method, tiny(classes=2), data, stop="steps", max_steps=3)
    assert result.steps == 3
    assert all(bool(value.isfinite().all()) for value in result.state.values())


@pytest.mark.parametrize("method", CHANGING)
def test_only_trainable_parameters_move(method: str) -> None:
    model, data = separable()
    model.bias.requires_grad_(False)
    model.norm.mean.fill_(0.1)
    before = copy.deepcopy(model.state_dict())
    result = METHODS[method].unlearn(
        model, data, UnlearningSettings(), np.random.default_rng(0), ServerScalars(0.5)
    )
    moved = {name for name, value in before.items() if not torch.equal(value, result.state[name])}
    assert moved == {"weight"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Brittle(TinyModel):
    """Works with the weights it was made with; with any others its output is not a number."""

    def __init__(self, weight: Tensor, quiet: bool) -> None:
        super().__init__(weight)
        self.home, self.quiet = weight.clone(), quiet

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        logits = super().classify(features, frames)
        broken = not torch.equal(self.weight, self.home) and not (self.quiet and not logits.requires_grad)
        return logits * math.nan if broken else logits


@pytest.mark.parametrize("method", STEPPING)
@pytest.mark.parametrize(
    ("quiet", "message"), [(True, "step 2: the unlearning loss"), (False, "step 1: the model's output")]
)
def test_what_is_not_finite_names_its_step_and_leaves_the_model_alone(
    method: str, quiet: bool, message: str
) -> None:
    known, data = separable()
    model = Brittle(known.weight.detach(), quiet).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnlearnFailed, match=f"^{message}"):
        run(method, model, data, stop="steps")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.weight.requires_grad and model.weight.grad is None


@pytest.mark.parametrize("method", CHANGING)
def test_dropout_is_off_and_mixed_modes_survive(method: str) -> None:
    class Spy(FunctionalsModel):
        def classify(self, features: Tensor, frames: Tensor) -> Tensor:
            assert not any(part.training for part in self.modules())
            return super().classify(features, frames)

    model = Spy(4, hidden=8, dropout=0.5).train()
    model.norm.eval()
    modes = [part.training for part in model.modules()]
    generator = torch.Generator().manual_seed(0)
    data = forget_set([torch.randn(1, 720, generator=generator) for _ in range(6)], [0, 1, 2, 3, 0, 1])
    few = {method.replace("-", "_"): SECTIONS[method](max_steps=3)} if method in STEPPING else {}
    settings = UnlearningSettings(**few)
    METHODS[method].unlearn(model, data, settings, np.random.default_rng(0), ServerScalars(0.0))
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("method", RIVALS)
def test_the_batches_are_drawn_by_the_rng_alone(method: str) -> None:
    model, data = separable()
    chosen: dict[str, Any] = dict(lr=0.1, stop="steps", max_steps=5, batch_size=3)
    one, again, other = (run(method, model, data, seed, **chosen) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not torch.equal(one.state["weight"], other.state["weight"])


@pytest.mark.parametrize("method", STEPPING)
def test_nothing_is_drawn_from_the_global_generators(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a global random generator was used")

    draws: list[tuple[Any, str]] = [(torch, name) for name in ("rand", "randn", "randint", "randperm")]
    draws += [(np.random, name) for name in ("rand", "randn", "randint", "permutation", "default_rng")]
    model, data = separable()
    rng = np.random.default_rng(0)
    for place, name in draws:
        monkeypatch.setattr(place, name, refuse)
    METHODS[method].unlearn(model, data, UnlearningSettings(), rng, ServerScalars(0.5))


def test_a_methods_settings_are_filed_under_its_name() -> None:
    """A word of the language ("not") gets an underscore."""
    known = METHODS.keys() | PRIVILEGED.keys()
    without = {"none", "destroy", "retrained"}
    filed = {name: f"{name.replace('-', '_')}{'_' * keyword.iskeyword(name)}" for name in known - without}
    sections: dict[str, Callable[..., Any]] = {
        name: field.annotation
        for name, field in UnlearningSettings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    assert sections.keys() - {"tickets"} == set(filed.values())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_says_what_it_sees_and_whom_it_is_from(name: str) -> None:
    card = METHODS[name]
    assert (card.name, card.sees) == (name, "forget + ticket" if name in TICKETED else "forget")
    assert "arXiv" in card.source or card.source.startswith("control") or "our own" in card.source


def test_l2uls_settings_still_descend_as_before() -> None:
    assert L2ULSettings().model_dump(include={"lr", "momentum", "batch_size", "max_steps", "stop"}) == {
        "lr": 0.01,
        "momentum": 0.9,
        "batch_size": 32,
        "max_steps": 100,
        "stop": "level",
    }
