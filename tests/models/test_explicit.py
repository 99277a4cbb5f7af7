"""Explicit gradients against autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for, torch_rng_for
from fedunlearn.training import TrainingDiverged, train

CLASSES = 5


def perceptron(dropout: float = 0.0, kind: type[FunctionalsModel] = FunctionalsModel) -> FunctionalsModel:
    """With weights and standardisation drawn at random."""
    rng = torch_rng_for(1, "model")
    model = kind(CLASSES, hidden=16, dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / parameter.shape[-1] ** 0.5)
    model.norm.mean.copy_(torch.randn(model.dims, generator=rng))
    model.norm.std.copy_(0.5 + torch.rand(model.dims, generator=rng))
    return model


def utterances(count: int, seed: int = 0, size: float = 1.0) -> Examples:
    features = size * torch.randn(count, 1, FunctionalsModel.dims, generator=torch_rng_for(seed, "features"))
    labels = torch.from_numpy(rng_for(seed, "labels").integers(0, CLASSES, count))
    return Examples(features, torch.ones(count, dtype=torch.int64), labels)


def by_autograd(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
    """The ordinary loss, as a user's own objective, which the explicit gradients are not of."""
    return cross_entropy


def largest_difference(one: EmotionModel, other: EmotionModel) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


OPTIONS: dict[str, LocalSettings] = {
    "plain": LocalSettings(),
    "no momentum": LocalSettings(momentum=0.0),
    "clipped": LocalSettings(gradient_clip=0.05),
    "unclipped": LocalSettings(gradient_clip=0.0),
    "weight decay": LocalSettings(weight_decay=0.01),
    "label smoothing": LocalSettings(label_smoothing=0.2),
    "noise": LocalSettings(feature_noise=0.3),
    "mixup": LocalSettings(mixup=0.4),
    "all": LocalSettings(
        gradient_clip=1.0, weight_decay=0.01, label_smoothing=0.2, feature_noise=0.3, mixup=0.4
    ),
}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("steps", [1, 4, 15])
@pytest.mark.parametrize("count", [37, 200])
@pytest.mark.parametrize("name", OPTIONS)
def test_training_is_that_by_autograd(name: str, count: int, steps: int, dropout: float) -> None:
    """Same draws, same loss and same weights up to rounding; the last batch of a pass is smaller."""
    chosen = OPTIONS[name].model_copy(update={"steps": steps})
    ours, theirs, examples = perceptron(dropout), perceptron(dropout), utterances(count)
    loss = train(ours, examples, chosen, 0.02, rng_for(1, "a"))
    expected = train(theirs, examples, chosen, 0.02, rng_for(1, "a"), by_autograd)
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert largest_difference(ours, theirs) <= 1e-6
    assert largest_difference(ours, perceptron(dropout)) > 1e-5, "and it did train"


def test_training_by_adamw_is_that_by_autograd() -> None:
    """It divides each gradient by its own size, so that rounding errors of small ones come to bear."""
    chosen = LocalSettings(optimizer="adamw", weight_decay=0.01)
    ours, theirs, examples = perceptron(), perceptron(), utterances(37)
    train(ours, examples, chosen, 0.001, rng_for(1, "a"))
    train(theirs, examples, chosen, 0.001, rng_for(1, "a"), by_autograd)
    assert largest_difference(ours, theirs) <= 1e-5 < 1e-3 < largest_difference(ours, perceptron())


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 250),
    batch=st.integers(1, 20),
    seed=st.integers(0, 1000),
    momentum=st.floats(0.0, 0.95),
    clip=st.floats(0.1, 10.0),
    dropout=st.sampled_from([0.0, 0.5]),
    mixup=st.sampled_from([0.0, 1.0]),
)
def test_training_is_that_by_autograd_of_any_size(
    count: int, batch: int, seed: int, momentum: float, clip: float, dropout: float, mixup: float
) -> None:
    chosen = LocalSettings(
        steps=6, batch_size=batch, momentum=momentum, gradient_clip=clip, mixup=mixup, label_smoothing=0.1
    )
    ours, theirs, examples = perceptron(dropout), perceptron(dropout), utterances(count, seed)
    loss = train(ours, examples, chosen, 0.01, rng_for(seed, "a"))
    assert loss == pytest.approx(
        train(theirs, examples, chosen, 0.01, rng_for(seed, "a"), by_autograd), rel=1e-6, abs=1e-6
    )
    assert largest_difference(ours, theirs) <= 1e-6


def test_loss_and_gradient_are_those_of_autograd() -> None:
    model, examples = perceptron(), utterances(9)
    explicit = model.explicit_gradients(examples, torch.Generator(), in_span=False)
    assert explicit is not None
    targets = torch.softmax(torch.randn(9, CLASSES, generator=torch_rng_for(3, "targets")), 1)
    loss = explicit.loss(explicit.inputs, targets)
    logits = model.classify(examples.features, examples.frames)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    flat = torch.cat([g.flatten() for g in wanted])
    torch.testing.assert_close(explicit.gradient, flat, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 180), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_in_the_span_of_the_examples_loss_and_length_of_the_gradient_are_the_same(n: int, seed: int) -> None:
    model, examples = perceptron(), utterances(n, seed)
    targets = torch.nn.functional.one_hot(examples.labels, CLASSES).float()
    found = []
    for in_span in (False, True):
        explicit = model.explicit_gradients(examples, torch.Generator(), in_span)
        assert explicit is not None
        found.append((explicit.loss(explicit.inputs, targets), float(explicit.gradient.norm())))
    assert explicit.weights.numel() == 16 * n + 16 + CLASSES * 17, "a column of W for each example"
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_weights_that_were_not_trained_stay() -> None:
    model, examples = perceptron(), utterances(20)
    for in_span in (False, True):
        explicit = model.explicit_gradients(examples, torch.Generator(), in_span)
        assert explicit is not None
        explicit.finish()
    assert largest_difference(model, perceptron()) == 0.0


def test_identical_utterances_train_like_by_autograd() -> None:
    """The span of the examples has fewer directions than there are examples."""
    few = utterances(3)
    examples = few.take(torch.arange(30) % 3)
    ours, theirs = perceptron(), perceptron()
    train(ours, examples, LocalSettings(), 0.02, rng_for(1, "a"))
    train(theirs, examples, LocalSettings(), 0.02, rng_for(1, "a"), by_autograd)
    assert largest_difference(ours, theirs) <= 1e-6


class Tempered(FunctionalsModel):
    """A derived class with other logits, whose gradients are other ones."""

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        return super().classify(features, frames) / 3


def test_a_derived_class_and_frozen_weights_train_by_autograd() -> None:
    examples = utterances(20)
    frozen = perceptron()
    first = frozen.head[0]
    assert isinstance(first, torch.nn.Linear)
    first.requires_grad_(False)
    before = first.weight.clone()
    for model in (perceptron(kind=Tempered), frozen):
        assert model.explicit_gradients(examples, torch.Generator(), in_span=True) is None
        assert math.isfinite(train(model, examples, LocalSettings(), 0.02, rng_for(1, "a")))
    assert torch.equal(first.weight, before)
    tempered, theirs = perceptron(kind=Tempered), perceptron(kind=Tempered)
    train(tempered, examples, LocalSettings(), 0.02, rng_for(1, "a"))
    train(theirs, examples, LocalSettings(), 0.02, rng_for(1, "a"), by_autograd)
    assert largest_difference(tempered, theirs) == 0.0


@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_divergence_is_found_at_the_step_at_which_autograd_finds_it(clip: float) -> None:
    examples, found = utterances(20), list[str]()
    for objective in ({}, {"objective": by_autograd}):
        with pytest.raises(TrainingDiverged) as raised:
            train(
                perceptron(), examples, LocalSettings(gradient_clip=clip), 1e30, rng_for(1, "a"), **objective
            )
        found.append(str(raised.value).partition("at step")[2])
    assert found[0] == found[1]
