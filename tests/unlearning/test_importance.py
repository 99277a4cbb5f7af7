"""Omega, by hand on a linear model and at its edges."""

import pytest
import torch
from tiny_model import TinyModel, forget_set, speechless, tiny

from fedunlearn.unlearning.importance import Importance, importance

KINDS: tuple[Importance, ...] = ("flipped-mas", "mas", "fisher", "none")


def test_mas_by_hand_and_that_opposite_signs_do_not_cancel() -> None:
    """W = (3, -4)^T, b = 0, x = +-2: logits z = +-(6, -8), ||z|| = 10.

    d||z||/dW = x z / ||z|| = (1.2, -1.6) for both; d||z||/db = z / ||z|| = +-(0.6, -0.8), whose signed mean
    over the two would be zero. Means of absolute values (1.2, 1.6) and (0.6, 0.8), scaled: (0, 1) and (0, 1).
    """
    model = TinyModel(torch.tensor([[3.0], [-4.0]]))
    examples = forget_set([torch.tensor([[2.0]]), torch.tensor([[-2.0]])], [0, 1]).examples
    omega = importance(model, examples, "mas")
    torch.testing.assert_close(omega["weight"], torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(omega["bias"], torch.tensor([0.0, 1.0]))
    flipped = importance(model, examples, "flipped-mas")
    torch.testing.assert_close(flipped["weight"], torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(flipped["bias"], torch.tensor([1.0, 0.0]))


def test_mas_weighs_utterances_equally() -> None:
    """Three classes, W = (3, -4, 0)^T, x = 1 and x = 3.

    Means of |d||z||/dW| = |x| (0.6, 0.8, 0) are (1.2, 1.6, 0); scaled (0.75, 1, 0).
    """
    model = TinyModel(torch.tensor([[3.0], [-4.0], [0.0]]))
    examples = forget_set([torch.tensor([[1.0]]), torch.tensor([[3.0]])], [0, 1]).examples
    omega = importance(model, examples, "mas")["weight"]
    torch.testing.assert_close(omega, torch.tensor([[0.75], [1.0], [0.0]]))


def test_fisher_is_the_mean_square_of_each_utterances_gradient() -> None:
    """d CE / dW = (softmax(z) - onehot(y)) x^T, written out for every utterance."""
    model, examples = tiny(), speechless(6, frames=1).examples
    with torch.no_grad():
        p = model.classify(examples.features, examples.frames).softmax(1)
        x = model.norm(examples.features[:, 0])
    error = p - torch.nn.functional.one_hot(examples.labels, 4)
    raw = (error[:, :, None] * x[:, None, :]).square().mean(0)
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    torch.testing.assert_close(importance(model, examples, "fisher")["weight"], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 7])
def test_every_omega_is_in_0_to_1_of_its_parameters_shape_and_finite(kind: Importance, count: int) -> None:
    model = tiny()
    omega = importance(model, speechless(count).examples, kind)
    assert {name: v.shape for name, v in omega.items()} == {n: p.shape for n, p in model.named_parameters()}
    for values in omega.values():
        assert values.isfinite().all()
        assert bool(((values >= 0.0) & (values <= 1.0)).all())


@pytest.mark.parametrize(("kind", "value"), [("mas", 0.0), ("fisher", 0.0), ("flipped-mas", 1.0)])
def test_a_constant_tensor_is_scaled_to_zero_and_flipped_to_one(kind: Importance, value: float) -> None:
    """All weights zero: logits zero, so MAS is zero everywhere; two classes: Fisher is equal for both."""
    model = TinyModel(torch.zeros(2, 1))
    omega = importance(model, forget_set([torch.tensor([[1.0]])], [0]).examples, kind)
    for values in omega.values():
        torch.testing.assert_close(values, torch.full_like(values, value))


def test_none_holds_every_weight_alike() -> None:
    for values in importance(tiny(), speechless(3).examples, "none").values():
        torch.testing.assert_close(values, torch.ones_like(values))


@pytest.mark.parametrize("kind", KINDS)
def test_only_trainable_parameters_have_an_omega_and_no_gradient_is_left(kind: Importance) -> None:
    model = tiny()
    model.bias.requires_grad_(False)
    assert set(importance(model, speechless(3).examples, kind)) == {"weight"}
    assert all(p.grad is None for p in model.parameters())


def test_a_parameter_that_the_output_does_not_use_matters_nothing() -> None:
    model = tiny()
    model.register_parameter("spare", torch.nn.Parameter(torch.ones(3)))
    torch.testing.assert_close(importance(model, speechless(3).examples, "mas")["spare"], torch.zeros(3))
