"""The attack: it stays in its ball, follows the gradient and never aims at the truth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import TinyModel, forget_set, speechless, tiny
from torch import Tensor

from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.examples import ForgetSet, pad_features
from fedunlearn.models.cnn import CnnModel
from fedunlearn.models.contract import EmotionModel, MelModel, Standardise
from fedunlearn.models.frontend import frames_of
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.unlearning import targeted_attack as attacks
from fedunlearn.unlearning.contract import UnlearnFailed
from fedunlearn.unlearning.targeted_attack import Adversarial, targeted_pgd, wrong_labels

DOMAINS = ("feature", "log-mel", "waveform")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def perturbation(model: TinyModel, data: ForgetSet, made: Adversarial, chosen: AttackSettings) -> Tensor:
    """[n * k, T, D] in the units of the attack: standard deviations of features or bands, or full scale."""
    clean = data.examples.features.repeat_interleave(chosen.per_utterance, 0)
    real = torch.cat([x[:n] for x, n in zip(data.examples.features, data.examples.frames, strict=True)])
    unit = {
        "feature": model.norm.std,
        "log-mel": (real - real.mean(0)).square().mean(0).sqrt(),
        "waveform": torch.ones(model.dims),
    }
    return (made.examples.features - clean) / unit[chosen.domain]


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(["l2", "linf"]),
    domain=st.sampled_from(["feature", "log-mel", "waveform"]),
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


@pytest.mark.parametrize("domain", DOMAINS)
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


@pytest.mark.parametrize("domain", DOMAINS)
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


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_real_recogniser_can_be_attacked_in_every_domain(domain: str) -> None:
    model, data = model_and_forget_set(FunctionalsModel(4, hidden=8).eval())
    eps = 0.02 if domain == "waveform" else 0.3
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
def test_no_samples_requested_or_nothing_to_attack(count: int) -> None:
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


# ---- log-mel ---------------------------------------------------------------------------------------------


def model_and_forget_set(model: MelModel) -> tuple[MelModel, ForgetSet]:
    """Two utterances of noise with quiet around it, as features of the model, which is calibrated on them."""
    generator = torch.Generator().manual_seed(3)
    samples = torch.tensor([16_000, 12_000])
    waveform = 0.1 * torch.randn(2, 16_000, generator=generator)
    waveform[:, :2000] *= 1e-3
    waveform[0, 14_000:] *= 1e-3
    waveform[1, 12_000:] = 0
    features, frames = model.derive(waveform, samples)
    real = torch.cat([f[:n] for f, n in zip(features, frames, strict=True)])
    model.norm.mean.copy_(real.mean(0))
    model.norm.std.copy_(real.std(0) + 1e-3)
    data = forget_set([f[:n] for f, n in zip(features, frames, strict=True)], [0, 1])
    return model, ForgetSet(data.examples, waveform, samples)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_log_mel_frames_stay_in_their_ball_and_the_cut_is_that_of_the_clean_recording(norm: str) -> None:
    """The spy sees all frames that functionals are made of; the quiet is 2 ln 1000 = 13.8 nats down."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(FunctionalsModel):
        def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((mel.detach().clone(), frames))
            return super().from_mel(mel, frames)

    model, data = model_and_forget_set(Spy(4, hidden=8).eval())
    clean, spans = model.log_mel(data.waveform, data.samples)
    whole = frames_of(data.samples)
    assert bool((spans < whole).all())
    beyond = torch.arange(clean.shape[1])[None, :] >= spans[:, None]
    unit = clean[~beyond].std(0, correction=0)
    seen.clear()
    # 9 standard deviations would move the cut, which looks 5 nats down.
    chosen = AttackSettings.model_validate(dict(domain="log-mel", norm=norm, eps=9.0, per_utterance=2))
    targeted_pgd(model, data, chosen, rng())
    assert len(seen) == chosen.steps + 1
    rows = torch.tensor([0, 0, 1, 1])
    for mel, frames in seen:
        assert frames.tolist() == spans[rows].tolist()
        assert (mel[beyond[rows]] == 0).all()
        delta = (mel - clean[rows]) / unit
        if norm == "linf":
            assert delta.abs().max() <= 9.0 + 1e-4
        else:
            radius = 9.0 * (spans[rows] * 40).sqrt()
            assert (delta.flatten(1).norm(dim=1) <= radius * 1.0001).all()
            assert (delta.flatten(1).norm(dim=1) > 0.01 * radius).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_tiny_ball_gives_back_the_functionals_that_the_device_holds(domain: str) -> None:
    model, data = model_and_forget_set(FunctionalsModel(4, hidden=8).eval())
    chosen = AttackSettings.model_validate(dict(domain=domain, eps=1e-7, per_utterance=1))
    made = targeted_pgd(model, data, chosen, rng()).examples.features
    torch.testing.assert_close(made, data.examples.features, atol=2e-3, rtol=1e-3)


def test_log_mel_equals_feature_for_the_cnn_but_for_the_unit() -> None:
    """Its features are log-mel frames: with std set to that of the forget set's frames, bit for bit."""
    model, data = model_and_forget_set(CnnModel(4).eval())
    examples = data.examples
    real = torch.cat([x[:n] for x, n in zip(examples.features, examples.frames, strict=True)])
    model.norm.std.copy_(real.std(0, correction=0))
    made = [
        targeted_pgd(model, data, AttackSettings.model_validate(dict(domain=d, per_utterance=2)), rng())
        for d in ("feature", "log-mel")
    ]
    torch.testing.assert_close(made[0].examples.features, made[1].examples.features, atol=1e-4, rtol=1e-4)
    assert made[0].examples.labels.tolist() == made[1].examples.labels.tolist()


def test_one_log_mel_step_is_the_closed_form_where_features_are_linear_in_the_frames() -> None:
    """Two classes, one frame m, features x = m A, logits W (x - mean) / std + b.

    In units u = m / s, s the bands' standard deviation, the gradient of the cross-entropy to t is along
    s * (A ((w_o - w_t) / std)), wherever it is taken: the step is the one of the linear model above.
    """
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(5, 5, generator=generator)

    class Mixed(TinyModel):
        def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return mel @ mixing, frames

    model = Mixed(tiny(classes=2).weight.detach())
    model.norm.std.copy_(0.5 + torch.rand(5, generator=generator))
    frames = speechless(6, classes=2, frames=1)
    data = ForgetSet(
        pad_features(list(frames.examples.features @ mixing), frames.examples.labels.tolist()),
        frames.waveform,
        frames.samples,
    )
    unit = frames.examples.features[:, 0].std(0, correction=0)
    chosen = AttackSettings(domain="log-mel", eps=0.4, step=0.7, steps=1, per_utterance=2)

    def perturbed(steps: int) -> tuple[Tensor, Tensor]:
        made = targeted_pgd(model, data, chosen.model_copy(update={"steps": steps}), rng()).examples
        mel = made.features[:, 0] @ torch.linalg.inv(mixing)
        return (mel - frames.examples.features[:, 0].repeat_interleave(2, 0)) / unit, made.labels

    (start, _), (found, target) = perturbed(0), perturbed(1)
    weight = model.weight.detach() / model.norm.std
    gradient = unit * ((weight[1 - target] - weight[target]) @ mixing.T)
    radius = 0.4 * 5**0.5
    moved = start - 0.7 * radius * gradient / gradient.norm(dim=1, keepdim=True)
    expected = moved * (radius / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_band_that_never_changes_is_left_alone() -> None:
    """Its standard deviation, and so its unit, is 0."""
    data = speechless(4)
    for x, n in zip(data.examples.features, data.examples.frames, strict=True):
        x[:n, 2] = 0.5
    data = ForgetSet(data.examples, data.examples.features.flatten(1), data.samples)
    made = targeted_pgd(tiny(), data, AttackSettings(domain="log-mel", eps=2.0, per_utterance=1), rng())
    assert torch.equal(made.examples.features[:, :, 2], data.examples.features[:, :, 2])
    assert made.examples.features.isfinite().all()


def test_a_model_without_log_mel_frames_says_so() -> None:
    class Bare(EmotionModel):
        feature_name, dims, classes = "bare", 5, 4
        derive = TinyModel.log_mel  # type: ignore[assignment]
        classify = TinyModel.classify  # type: ignore[assignment]

        def __init__(self) -> None:
            super().__init__()
            self.norm = Standardise(5)

    with pytest.raises(UnlearnFailed, match='features bare are not made of log-mel frames; take "feature"'):
        targeted_pgd(Bare(), speechless(2), AttackSettings(domain="log-mel"), rng())
