"""What an update reveals about the data it was made from: controls in which the answer is known."""

import copy

import numpy as np
import pytest
import torch
from tiny_model import TinyModel, separable, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedunlearn.evaluation.request_privacy import (
    label_mixes,
    mix_of,
    request_privacy,
    total_variation,
)
from fedunlearn.examples import Examples
from fedunlearn.results_schema import RequestPrivacy

CORPUS = np.array([0, 0, 0, 1, 1, 2, 3, 3])


def parts(per_part: int = 20) -> tuple[TinyModel, Examples, Examples, Examples]:
    """A model, and three sets of the same four classes around the same centres."""
    model, whole = separable(3 * per_part)
    numbers = torch.arange(3 * per_part)
    return model, *(whole.examples.take(numbers[i * per_part : (i + 1) * per_part]) for i in range(3))


def ascent(model: TinyModel, examples: Examples, lr: float = 1.0) -> dict[str, Tensor]:
    """One step up the loss of these examples; constants stand still."""
    model = copy.deepcopy(model)
    loss = cross_entropy(model.classify(examples.features, examples.frames), examples.labels)
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()))
    update = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    return update | {name: lr * g for name, g in zip(weights, gradients, strict=True)}


def measured(
    model: TinyModel, update: dict[str, Tensor], forget: Examples, kept: Examples, held_out: Examples
) -> RequestPrivacy:
    rng = np.random.Generator(np.random.PCG64(1))
    return request_privacy(model, model.state_dict(), update, forget, kept, held_out, CORPUS, 200, rng)


def zeros(model: TinyModel) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in model.state_dict().items()}


def of_class(examples: Examples, *classes: int) -> Examples:
    here = torch.isin(examples.labels, torch.tensor(classes))
    return examples.take(here.nonzero().flatten())


def test_an_update_of_zeros_tells_nothing() -> None:
    """Every loss rises by 0, which is a tie; and the guess is that all classes are alike."""
    model, forget, kept, held_out = parts()
    found = measured(model, zeros(model), forget, kept, held_out)
    attack, mix = found.membership, found.label_mix
    assert attack and mix
    assert [attack.auc, attack.low, attack.high] == pytest.approx([0.5] * 3) and attack.against == "kept"
    assert mix.tv == mix.uniform == 0.0
    # The corpus has 3, 2, 1, 2 of 8; the forget set a quarter of each: (1/8 + 0 + 1/8 + 0) / 2.
    assert mix.corpus == 0.125


@pytest.mark.parametrize("label", range(4))
def test_an_update_made_of_one_class_gives_it_away(label: int) -> None:
    """The bias moves by p - y: down for that class alone. All alike would be 3/4 off."""
    model, forget, kept, held_out = parts()
    alone = of_class(forget, label)
    mix = measured(model, ascent(model, alone), alone, kept, held_out).label_mix
    assert mix
    assert mix.tv == pytest.approx(0.0, abs=1e-6) and mix.uniform == 0.75


def test_shares_of_two_classes_are_read_off_the_bias() -> None:
    """An untrained model has p = 1/4: two of class 0 and one of 1 give 1/4 - 2/3 and 1/4 - 1/3, 5 to 1."""
    _, forget, _, _ = parts()
    chosen = torch.cat([(forget.labels == 0).nonzero()[:2], (forget.labels == 1).nonzero()[:1]]).flatten()
    alone = forget.take(chosen)
    model = TinyModel(torch.zeros(4, 4))
    guess = label_mixes(model, ascent(model, alone))["bias"]
    assert guess == pytest.approx(np.array([5 / 6, 1 / 6, 0, 0]), abs=1e-6)
    # The truth is 2/3, 1/3: a sixth is on the wrong class.
    assert total_variation(guess, mix_of(alone.labels.numpy(), 4)) == pytest.approx(1 / 6, abs=1e-6)


def test_ascent_on_one_half_is_distinguished_from_the_other() -> None:
    """The model knows all alike; what it was driven away from stands out by rise and by direction."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(40, 1, 60, generator=generator)
    labels = torch.arange(40) % 2
    everything = Examples(features, torch.ones(40, dtype=torch.int64), labels)
    model = TinyModel(torch.zeros(4, 60))
    forget, kept = everything.take(torch.arange(20)), everything.take(torch.arange(20, 40))
    attack = measured(model, ascent(model, forget), forget, kept, kept).membership
    assert attack and attack.auc > 0.9 and attack.low > 0.8
    # The other way round: an update that learned the forget set better hides it behind all others.
    down = measured(model, ascent(model, forget, lr=-1.0), forget, kept, kept).membership
    assert down and down.auc < 0.1


def test_of_two_sets_drawn_alike_an_unrelated_update_tells_nothing() -> None:
    model, forget, kept, held_out = parts(100)
    generator = torch.Generator().manual_seed(9)
    noise = {n: 0.01 * torch.randn(v.shape, generator=generator) for n, v in model.named_parameters()}
    attack = measured(model, zeros(model) | noise, forget, kept, held_out).membership
    assert attack and attack.low < 0.5 < attack.high + 0.05


def test_without_kept_utterances_those_held_out_are_the_others() -> None:
    model, forget, _, held_out = parts()
    nothing = forget.take(torch.arange(0))
    found = measured(model, ascent(model, forget), forget, nothing, held_out)
    assert found.membership and found.membership.against == "held-out"
    assert found.membership == found.membership_held_out


def test_where_nothing_can_be_compared_nothing_is_reported() -> None:
    model, forget, kept, held_out = parts()
    nothing = forget.take(torch.arange(0))
    update = ascent(model, forget)
    assert measured(model, update, forget, nothing, nothing).to_json()["membership"] is None
    empty = measured(model, update, nothing, kept, held_out)
    assert empty.to_json()["label_mix"] is None and not empty.membership
    # No other utterance of the deleted emotion: a rare emotion is not taken for membership.
    apart = measured(model, update, of_class(forget, 1), of_class(kept, 0, 2, 3), nothing)
    assert not apart.membership and apart.label_mix


def test_the_model_that_comes_in_is_not_changed() -> None:
    model, forget, kept, held_out = parts()
    other = tiny(dims=4)
    before = copy.deepcopy(other.state_dict())
    rng = np.random.Generator(np.random.PCG64(1))
    update = ascent(model, forget)
    request_privacy(other, model.state_dict(), update, forget, kept, held_out, CORPUS, 200, rng)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_an_update_so_long_that_outputs_overflow_is_not_measured_by_them() -> None:
    model, forget, kept, held_out = parts()
    weights = model.state_dict()
    update = zeros(model) | {"weight": torch.full_like(weights["weight"], 3e38)}
    found = measured(model, update, forget, kept, held_out)
    for attack in (found.membership, found.membership_held_out):
        assert not attack or attack.attack == "gradient alignment"
