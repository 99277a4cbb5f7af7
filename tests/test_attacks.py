"""The attack: it stays in its ball, follows the gradient and never aims at the truth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import TinyModel, forget_set, speechless, tiny
from torch import Tensor

from fedunlearn.config import AttackSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.unlearning import attacks
from fedunlearn.unlearning.attacks import Adversarial, targeted_pgd, wrong_labels


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def perturbation(model: TinyModel, data: ForgetSet, made: Adversarial, chosen: AttackSettings) -> Tensor:
    """[n * k, T, D] in the units of the attack: feature standard deviations, or full scale."""
    clean = data.examples.features.repeat_interleave(chosen.per_utterance, 0)
    unit = model.norm.std if chosen.domain == "feature" else torch.ones(model.dims)
    return (made.examples.features - clean) / unit


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(["l2", "linf"]),
    domain=st.sampled_from(["feature", "waveform"]),
    eps=st.floats(1e-3, 3.0),
    step=st.floats(0.1, 5.0),
    steps=st.integers(0, 6),
    per_utterance=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_stays_in_its_ball_and_leaves_padding_at_zero(
    norm: str, domain: str, eps: float, step: float, steps: int, per_utterance: int, seed: int
) -> None:
    model, data = tiny(seed=seed % 7), speechless(5)
    chosen = AttackSettings.model_validate(
        dict(norm=norm, domain=domain, eps=eps, step=step, steps=steps, per_utterance=per_utterance)
    )
    made = targeted_pgd(model, data, chosen, rng(seed))
    delta = perturbation(model, data, made, chosen)
    frames = made.examples.frames
    padding = torch.arange(delta.shape[1])[None, :] >= frames[:, None]
    assert (made.examples.features[padding] == 0).all()
    slack = 1e-5 + 1e-5 * eps
    if norm == "linf":
        assert delta.abs().max() <= eps + slack
    else:
        radius = eps * (frames * model.dims).sqrt()
        assert (delta.flatten(1).norm(dim=1) <= radius + slack * model.dims).all()
    if domain == "waveform":
        assert made.examples.features.abs().max() <= 1.0
    assert len(made.examples) == 5 * per_utterance
    assert made.examples.frames.tolist() == data.examples.frames.repeat_interleave(per_utterance).tolist()
    assert (made.examples.labels != data.examples.labels.repeat_interleave(per_utterance)).all()


@pytest.mark.parametrize("domain", ["feature", "waveform"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_lowers_the_targeted_loss_of_every_sample(norm: str, domain: str) -> None:
    model, data = tiny(), speechless(20)

    def losses(steps: int) -> Tensor:
        chosen = AttackSettings.model_validate(
            dict(norm=norm, domain=domain, eps=0.1, steps=steps, per_utterance=4)
        )
        made = targeted_pgd(model, data, chosen, rng()).examples
        with torch.no_grad():
            return F.cross_entropy(model.classify(made.features, made.frames), made.labels, reduction="none")

    start, attacked = losses(0), losses(10)
    assert (attacked < start).all()


def test_a_wide_ball_reaches_the_target() -> None:
    model, data = tiny(), speechless(12)
    strong = targeted_pgd(model, data, AttackSettings(eps=5.0, steps=20, per_utterance=3), rng())
    weak = targeted_pgd(model, data, AttackSettings(eps=1e-3, steps=20, per_utterance=3), rng())
    assert strong.success == 1.0
    assert weak.success < 0.5
    taken = strong.outputs.argmax(1) == strong.examples.labels
    assert strong.success == taken.double().mean().item()


def test_one_l2_step_is_the_closed_form_of_a_linear_model() -> None:
    """Two classes, one frame, z = W (x - mean) / std + b.

    In units u = x / std the cross-entropy to the target t has gradient (1 - p_t) (w_other - w_t): its
    direction does not depend on x. So one step of length s * r from a start u_0 is u_0 - s * r * g / ||g||,
    brought back to length r = eps * sqrt(5) where it is longer. The start is what 0 steps give.
    """
    model = tiny(classes=2)
    data = speechless(6, classes=2, frames=1)
    for step in (0.3, 2.0):
        chosen = AttackSettings(norm="l2", eps=0.4, step=step, steps=1, per_utterance=2)
        still = chosen.model_copy(update={"steps": 0})
        start = perturbation(model, data, targeted_pgd(model, data, still, rng()), chosen)[:, 0]
        made = targeted_pgd(model, data, chosen, rng())
        target = made.examples.labels
        weight = model.weight.detach()
        gradient = weight[1 - target] - weight[target]
        radius = 0.4 * 5**0.5
        moved = start - step * radius * gradient / gradient.norm(dim=1, keepdim=True)
        expected = moved * (radius / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
        torch.testing.assert_close(
            perturbation(model, data, made, chosen)[:, 0], expected, atol=1e-5, rtol=1e-4
        )


def test_one_long_linf_step_lands_on_the_corner_of_a_linear_model() -> None:
    """From anywhere in the ball a step of 2 eps along the sign reaches the corner: -eps * sign(w_o - w_t)."""
    model, data = tiny(classes=2), speechless(6, classes=2, frames=1)
    chosen = AttackSettings(norm="linf", eps=0.2, step=2.0, steps=1, per_utterance=1)
    made = targeted_pgd(model, data, chosen, rng())
    weight, target = model.weight.detach(), made.examples.labels
    expected = -0.2 * (weight[1 - target] - weight[target]).sign()
    torch.testing.assert_close(perturbation(model, data, made, chosen)[:, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_zero_steps_is_a_random_start_that_differs_between_samples(norm: str) -> None:
    model, data = tiny(), speechless(4)
    chosen = AttackSettings.model_validate(dict(norm=norm, eps=0.5, steps=0, per_utterance=8))
    delta = perturbation(model, data, targeted_pgd(model, data, chosen, rng()), chosen)
    assert len({tuple(row.flatten().tolist()) for row in delta}) == 32
    assert delta.flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("domain", ["feature", "waveform"])
def test_a_tiny_ball_is_the_utterance_itself(domain: str) -> None:
    model, data = tiny(), speechless(6)
    chosen = AttackSettings.model_validate(dict(domain=domain, eps=1e-9, per_utterance=2))
    made = targeted_pgd(model, data, chosen, rng())
    clean = data.examples.features.repeat_interleave(2, 0)
    torch.testing.assert_close(made.examples.features, clean, atol=1e-7, rtol=0)


def test_waveform_samples_beyond_the_true_length_stay_silent() -> None:
    """The spy sees every waveform that the attack derives features from."""
    seen: list[Tensor] = []

    class Spy(TinyModel):
        def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(waveform.detach().clone())
            return super().derive(waveform, samples)

    data = speechless(6)
    chosen = AttackSettings(domain="waveform", eps=0.9, steps=4, per_utterance=1)
    targeted_pgd(Spy(tiny().weight.detach()), data, chosen, rng())
    beyond = torch.arange(data.waveform.shape[1])[None, :] >= data.samples[:, None]
    assert len(seen) == 5
    for waveform in seen:
        assert (waveform[beyond] == 0).all()
        assert waveform.abs().max() <= 1.0


@pytest.mark.parametrize("domain", ["feature", "waveform"])
def test_a_real_recogniser_can_be_attacked_in_both_domains(domain: str) -> None:
    model = FunctionalsModel(4, hidden=8).eval()
    generator = torch.Generator().manual_seed(3)
    samples = torch.tensor([4000, 2900])
    waveform = 0.1 * torch.randn(2, 4000, generator=generator)
    waveform[1, 2900:] = 0
    features, frames = model.derive(waveform, samples)
    model.norm.mean.copy_(features.mean((0, 1)))
    data = forget_set([f[:n] for f, n in zip(features, frames, strict=True)], [0, 1])
    data = ForgetSet(data.examples, waveform, samples)
    eps = 0.3 if domain == "feature" else 0.02
    chosen = AttackSettings.model_validate(dict(domain=domain, eps=eps, steps=10, per_utterance=3))
    before = targeted_pgd(model, data, chosen.model_copy(update={"steps": 0}), rng())
    after = targeted_pgd(model, data, chosen, rng())
    assert after.examples.features.shape == (6, 1, 720)
    aimed = after.examples.labels[:, None]
    assert after.outputs.gather(1, aimed).mean() > before.outputs.gather(1, aimed).mean()


def test_small_batches_make_samples_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks bound memory; every sample still gets its own target and its own place in the order."""
    model, data = tiny(), speechless(7)
    chosen = AttackSettings(eps=1e-9, per_utterance=3)
    whole = targeted_pgd(model, data, chosen, rng()).examples
    monkeypatch.setattr(attacks, "_VALUES_AT_ONCE", 2 * data.examples.features[0].numel())
    chunked = targeted_pgd(model, data, chosen, rng()).examples
    torch.testing.assert_close(chunked.features, whole.features, atol=1e-7, rtol=0)
    assert chunked.labels.tolist() == whole.labels.tolist()


def test_outputs_are_the_attacked_models_own() -> None:
    model, data = tiny(), speechless(5)
    made = targeted_pgd(model, data, AttackSettings(per_utterance=2), rng())
    with torch.no_grad():
        own = model.classify(made.examples.features, made.examples.frames).softmax(1)
    torch.testing.assert_close(made.outputs, own)


def test_nothing_but_the_input_gets_a_gradient() -> None:
    flags: list[bool] = []

    class Spy(TinyModel):
        def classify(self, features: Tensor, frames: Tensor) -> Tensor:
            flags.append(self.weight.requires_grad or self.training)
            return super().classify(features, frames)

    model = Spy(tiny().weight.detach()).train()
    targeted_pgd(model, speechless(3), AttackSettings(per_utterance=2), rng())
    assert flags and not any(flags)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("count", [0, 3])
def test_no_samples_asked_for_or_nothing_to_attack(count: int) -> None:
    chosen = AttackSettings(per_utterance=0 if count else 4)
    made = targeted_pgd(tiny(), speechless(count), chosen, rng())
    assert len(made.examples) == 0
    assert np.isnan(made.success)


@given(
    labels=st.lists(st.integers(0, 5), max_size=30),
    extra=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_a_wrong_label_is_a_class_and_never_the_true_one(labels: list[int], extra: int, seed: int) -> None:
    true = torch.tensor(labels, dtype=torch.int64)
    drawn = wrong_labels(true, 6 + extra, rng(seed))
    assert (drawn != true).all()
    assert ((drawn >= 0) & (drawn < 6 + extra)).all()


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    """30,000 draws over 3 classes: 10,000 each, standard deviation 82; five of them are 410."""
    for true in range(4):
        drawn = wrong_labels(torch.full((30_000,), true), 4, rng(true))
        counts = drawn.bincount(minlength=4)
        assert counts[true] == 0
        others = counts[torch.arange(4) != true]
        assert (others - 10_000).abs().max() < 410


def test_with_two_classes_the_wrong_label_is_the_other_one() -> None:
    true = torch.tensor([0, 1, 1, 0])
    assert wrong_labels(true, 2, rng()).tolist() == [1, 0, 0, 1]


def test_one_class_has_no_wrong_label() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        wrong_labels(torch.tensor([0]), 1, rng())


def test_the_same_rng_gives_the_same_samples_whatever_the_global_one_does() -> None:
    model, data, chosen = tiny(), speechless(4), AttackSettings(per_utterance=3)
    torch.manual_seed(1)
    first = targeted_pgd(model, data, chosen, rng(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = targeted_pgd(model, data, chosen, rng(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.examples.features, second.examples.features)
    assert torch.equal(first.examples.labels, second.examples.labels)
    other = targeted_pgd(model, data, chosen, rng(6))
    assert not torch.equal(first.examples.features, other.examples.features)
