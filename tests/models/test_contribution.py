"""What is noted of each utterance in training: all parts together are the update."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_explicit import CLASSES, by_autograd, perceptron, utterances
from tiny_model import speechless, tiny
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel, trained_tensors
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import train

OPTIONS: dict[str, LocalSettings] = {
    "plain": LocalSettings(),
    "no momentum": LocalSettings(momentum=0.0),
    "clipped": LocalSettings(gradient_clip=0.05),
    "unclipped": LocalSettings(gradient_clip=0.0),
    "label smoothing": LocalSettings(label_smoothing=0.2),
    "mixup": LocalSettings(mixup=0.4),
    "one pass": LocalSettings(epochs=1),
}


def trained(
    model: EmotionModel, examples: Examples, local: LocalSettings, lr: float = 0.05
) -> tuple[dict[str, Tensor], Tensor]:
    """What training takes from each weight, and what is noted of each utterance."""
    before = {name: value.clone() for name, value in trained_tensors(model).items()}
    noted = torch.zeros(len(examples), model.ticket_size)
    train(model, examples, local, lr, rng_for(1, "train"), noted=noted)
    return {name: before[name] - value for name, value in trained_tensors(model).items()}, noted


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], within: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=within * float(value.abs().max()))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("count", [3, 40, 200])
@pytest.mark.parametrize("name", OPTIONS)
def test_of_the_perceptron_all_parts_add_up_to_the_update(name: str, count: int, dropout: float) -> None:
    """With few examples it trains in their span, with many (200 of 720 features) it does not."""
    model, examples = perceptron(dropout), utterances(count)
    taken, noted = trained(model, examples, OPTIONS[name])
    assert_equal(model.contribution(examples, noted), taken, within=1e-4)


@given(sets=st.lists(st.integers(0, 11), min_size=1, max_size=11, unique=True))
@settings(max_examples=20, deadline=None)
def test_the_parts_of_some_and_of_the_others_add_up(sets: list[int]) -> None:
    model, examples = perceptron(), utterances(12)
    _, noted = trained(model, examples, LocalSettings())
    rest = [i for i in range(12) if i not in sets]
    parts = [model.contribution(examples.take(torch.tensor(i)), noted[i]) for i in (sets, rest) if i]
    together = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert_equal(model.contribution(examples, noted), together, within=1e-5)  # type: ignore[arg-type]


def test_one_step_by_hand() -> None:
    """Hidden unit relu(2) = 2, logits (2, -2): p_0 = 1 / (1 + exp(-4)); the label is 1, the rate .1."""
    model = FunctionalsModel(2, hidden=1)
    with torch.no_grad():
        for name, value in {"0.weight": 0.0, "0.bias": 2.0, "3.bias": 0.0}.items():
            model.head.get_parameter(name).fill_(value)
        model.head.get_parameter("3.weight").copy_(torch.tensor([[1.0], [-1.0]]))
    features = torch.ones(1, 1, model.dims)
    examples = Examples(features, torch.ones(1, dtype=torch.int64), torch.tensor([1]))
    local = LocalSettings(steps=1, momentum=0.0, gradient_clip=0.0)
    _, noted = trained(model, examples, local, lr=0.1)
    p = 1 / (1 + math.exp(-4))
    wanted = 0.1 * torch.tensor([[2 * p, 2 * p, -2 * p, p, -p]])
    torch.testing.assert_close(noted, wanted)


def test_the_effect_of_a_step_grows_with_the_steps_after_it() -> None:
    """Two steps on one utterance with momentum .5 and gradient g each: the first moves the weights by 1.5 lr
    g in the end, the second by lr g. (Gradients at so low a rate hardly change.)"""
    model, examples = perceptron(), utterances(1)
    once = trained(perceptron(), examples, LocalSettings(steps=1, momentum=0.5, gradient_clip=0.0), 1e-6)[1]
    twice = trained(model, examples, LocalSettings(steps=2, momentum=0.5, gradient_clip=0.0), 1e-6)[1]
    torch.testing.assert_close(twice, 2.5 * once, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_of_any_other_model_exactly_where_it_is_linear(name: str) -> None:
    """J never changes there. Its frames are means over time, so that mixtures have as many as the shorter."""
    model, examples = tiny(), speechless(12, frames=1).examples
    taken, noted = trained(model, examples, OPTIONS[name])
    assert noted.shape == (12, 4)
    torch.testing.assert_close(noted.sum(1), torch.zeros(12), atol=1e-6, rtol=0.0)  # p and the target are 1
    assert_equal(model.contribution(examples, noted), taken, within=1e-4)


def test_frozen_weights_leave_the_general_ticket() -> None:
    model = perceptron()
    assert model.ticket_size == 16 * (CLASSES + 1) + CLASSES
    model.head.get_parameter("0.bias").requires_grad_(False)
    assert model.ticket_size == CLASSES
    taken, noted = trained(model, utterances(4), LocalSettings(steps=1))
    assert model.contribution(utterances(4), noted).keys() == taken.keys() == trained_tensors(model).keys()


def test_noting_changes_nothing_in_training() -> None:
    one, other, examples = perceptron(0.3), perceptron(0.3), utterances(20)
    local = LocalSettings(mixup=0.4)
    trained(one, examples, local)
    train(other, examples, local, 0.05, rng_for(1, "train"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("local", "objective"), [(LocalSettings(optimizer="adamw"), None), (LocalSettings(), by_autograd)]
)
def test_what_cannot_be_noted_is_refused(local: LocalSettings, objective: object) -> None:
    model, examples = perceptron(), utterances(4)
    noted = torch.zeros(4, model.ticket_size)
    more = {} if objective is None else {"objective": objective}
    with pytest.raises(ValueError, match="SGD on the cross-entropy alone"):
        train(model, examples, local, 0.01, np.random.default_rng(0), noted=noted, **more)  # type: ignore[arg-type]
