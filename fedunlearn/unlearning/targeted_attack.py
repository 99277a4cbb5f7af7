"""Targeted projected gradient descent: samples near the forget set classified as other emotions.

In L2UL they stand in for the retained data: they lie where the model's boundaries to the other classes are,
and fine-tuning that keeps the model's answers on them keeps those boundaries (Cha et al. 2024, section 4).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.examples import Examples, ForgetSet, pad_features
from fedunlearn.models.contract import EmotionModel, MelModel
from fedunlearn.models.frontend import frame_mask
from fedunlearn.unlearning.contract import UnlearnFailed

_VALUES_AT_ONCE = 2**21
"""Values perturbed in one batch: bounds memory at any number of utterances."""


@dataclass(frozen=True)
class Adversarial:
    """Samples made by an attack on n utterances, k each; sample j of utterance i is number i * k + j.

    Attributes:
        examples: [n * k, T, D] in the model's own (unstandardised) feature units, zero on padding frames;
            the labels are the attack's targets, never the true label.
        outputs: [n * k, C] softmax output of the attacked model on them.
        success: share of them that the attacked model classifies as the target; NaN if there are none.
    """

    examples: Examples
    outputs: Tensor
    success: float


def wrong_labels(labels: Tensor, classes: int, rng: np.random.Generator) -> Tensor:
    """Draw for each label in 0 ... C-1, int64 [n], one of the C-1 others, all equally likely.

    Raises:
        ValueError: fewer than two classes, so that there is no wrong label.
    """
    if classes < 2:
        raise ValueError(f"a wrong label needs at least 2 classes (got {classes})")
    shift = torch.from_numpy(rng.integers(1, classes, size=len(labels))).to(labels.device)
    return (labels + shift) % classes


@dataclass(frozen=True)
class _Domain:
    """What an attack on n utterances perturbs, and the way from there to the model's features.

    Attributes:
        clean: [n, ...] unperturbed values.
        lengths: [n], how many of their second axis are real.
        real: bool [n, ...], False on padding, broadcast against the values.
        unit: what a perturbation of 1 is: for each utterance [n, ...], or the same for all, broadcast against
            an utterance's values.
        limit: greatest absolute value.
        device: where it is perturbed.
        features: values [b, ...] of utterances int64 [b] -> (features [b, T, D], frames [b]).
    """

    clean: Tensor
    lengths: Tensor
    real: Tensor
    unit: Tensor
    limit: float
    device: str
    features: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def targeted_pgd(
    model: EmotionModel, forget_set: ForgetSet, settings: AttackSettings, rng: np.random.Generator
) -> Adversarial:
    """Move copies of the forget set, inside a small ball, towards wrong labels (Madry et al. 2018).

    The amplitude eps is per value: the ball has radius eps for "linf", eps * sqrt(d) for "l2", d being the
    number of true values (padding left out), in units of the model's feature standard deviation (domains
    "feature", "hidden" and "embedding"), of each mel band's standard deviation over the forget set's frames
    ("log-mel") or of full scale ("waveform"). Steps are step * radius / steps long, along the sign ("linf")
    or the normalised gradient ("l2") of the cross-entropy to the target. The start is random: for "linf"
    uniform in the ball, for "l2" of uniform direction and uniform radius.

    In "log-mel" the frames are those that the model listens to in the clean recording: where it cuts the
    quiet off both ends, the cut stays as it was.

    The model is attacked as it stands, in eval mode, on a frozen copy: only inputs get gradients.

    Args:
        model: attacked, not changed.
        forget_set: n utterances; k = ``settings.per_utterance`` samples are made of each.
        settings: ball, steps and domain.
        rng: targets, then random starts.

    Raises:
        UnlearnFailed: domain "log-mel" of a model whose features are not made of log-mel frames.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    examples = forget_set.examples
    source = torch.arange(len(forget_set)).repeat_interleave(settings.per_utterance)
    if len(source) == 0:
        return Adversarial(pad_features([], []), torch.zeros(0, 0), math.nan)
    targets = wrong_labels(examples.labels[source], frozen.classes, rng)

    domain = _domain(frozen, forget_set, settings.domain)
    size = max(1, _VALUES_AT_ONCE // domain.clean[0].numel())
    made, outputs = [], []
    for index, target in zip(torch.split(source, size), torch.split(targets, size), strict=True):
        features = _attack(frozen, domain, index, target, settings, rng)
        made.append(features)
        outputs.append(frozen.classify(features, examples.frames[index]).softmax(1))
    probabilities = torch.cat(outputs)
    success = (probabilities.argmax(1) == targets).double().mean().item()
    return Adversarial(Examples(torch.cat(made), examples.frames[source], targets), probabilities, success)


def _domain(
    model: EmotionModel,
    forget_set: ForgetSet,
    name: Literal["feature", "log-mel", "waveform", "hidden", "embedding"],
) -> _Domain:
    if name in ("feature", "hidden", "embedding"):  # what an encoder keeps: the config sees to it
        x, frames = forget_set.examples.features, forget_set.examples.frames
        real = frame_mask(frames, x.shape[1])[:, :, None]
        unit = model.unit_at(x)
        return _Domain(x, frames, real, unit, math.inf, "cpu", lambda values, index: (values, frames[index]))
    if name == "waveform":
        x, samples = forget_set.waveform, forget_set.samples
        real = frame_mask(samples, x.shape[1])

        def derived(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            return model.derive(values, samples[index])

        return _Domain(x, samples, real, x.new_ones(1), 1.0, model.device, derived)
    if not isinstance(model, MelModel):
        raise UnlearnFailed(
            f"attack.domain log-mel: the features {model.feature_name} are not made of log-mel frames; "
            'take "feature" or "waveform"'
        )
    mel = model
    x, frames = _log_mel(mel, forget_set)
    real = frame_mask(frames, x.shape[1])
    unit = x[real].std(0, correction=0)

    def from_mel(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return mel.from_mel(values, frames[index])

    return _Domain(x, frames, real[:, :, None], unit, math.inf, "cpu", from_mel)


def _log_mel(model: MelModel, forget_set: ForgetSet) -> tuple[Tensor, Tensor]:
    """Log-mel frames [n, T, M] and their numbers [n], made of one utterance at a time to bound memory."""
    made = [
        model.log_mel(waveform[None, :length], length[None])
        for waveform, length in zip(forget_set.waveform, forget_set.samples, strict=True)
    ]
    mel = torch.nn.utils.rnn.pad_sequence([mel[0] for mel, _ in made], batch_first=True)
    return mel, torch.cat([frames for _, frames in made])


def _attack(
    model: EmotionModel,
    domain: _Domain,
    index: Tensor,
    targets: Tensor,
    settings: AttackSettings,
    rng: np.random.Generator,
) -> Tensor:
    """Features [b, T, D] of the attacked utterances ``index``."""
    x = domain.clean[index].to(domain.device)
    real = domain.real[index].expand_as(x).to(domain.device)
    unit = (
        (domain.unit[index] if domain.unit.dim() == x.dim() else domain.unit).to(domain.device).expand_as(x)
    )
    pieces = model.pieces(domain.lengths[index])

    def moved(delta: Tensor) -> Tensor:
        return x + delta * unit

    def clip(delta: Tensor) -> Tensor:
        if math.isinf(domain.limit):
            return delta
        return (moved(delta).clamp(-domain.limit, domain.limit) - x) / unit

    def gradient(delta: Tensor) -> Tensor:
        found = torch.empty_like(delta)
        for piece in pieces:
            part = delta[piece].requires_grad_(True)
            features = domain.features(x[piece] + part * unit[piece], index[piece])
            loss = F.cross_entropy(model.classify(*features), targets[piece], reduction="sum")
            (found[piece],) = torch.autograd.grad(loss, part)
        return found

    delta = _search(gradient, real, settings, rng, clip)
    return domain.features(moved(delta).clamp(-domain.limit, domain.limit), index)[0].cpu()


def _search(
    gradient: Callable[[Tensor], Tensor],
    real: Tensor,
    settings: AttackSettings,
    rng: np.random.Generator,
    clip: Callable[[Tensor], Tensor],
) -> Tensor:
    """The perturbation: zero where ``real`` is False, in the ball, with the targeted loss brought down."""
    count = _spread(real.flatten(1).sum(1).to(torch.float32), real)
    radius = settings.eps * (count.sqrt() if settings.norm == "l2" else torch.ones_like(count))
    delta = clip(_random_start(real, radius, settings.norm, rng))
    for _ in range(settings.steps):
        stride = settings.step * radius / settings.steps
        delta = delta - stride * _direction(gradient(delta) * real, settings.norm)
        delta = clip(_project(delta, radius, settings.norm))
    return delta


def _random_start(real: Tensor, radius: Tensor, norm: str, rng: np.random.Generator) -> Tensor:
    def drawn(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(real.device)

    if norm == "linf":
        return (2.0 * drawn(rng.random(real.shape, dtype=np.float32)) - 1.0) * radius * real
    noise = drawn(rng.standard_normal(real.shape, dtype=np.float32)) * real
    share = drawn(rng.random(len(real), dtype=np.float32))
    return _direction(noise, norm) * radius * _spread(share, real)


def _direction(gradient: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    return gradient / _length(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def _project(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, radius), -radius)
    return delta * (radius / _length(delta).clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1.0)


def _length(values: Tensor) -> Tensor:
    return _spread(values.flatten(1).norm(dim=1), values)


def _spread(per_sample: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...], to be broadcast against ``like``."""
    return per_sample.view(-1, *([1] * (like.dim() - 1)))
