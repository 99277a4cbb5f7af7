"""Local training and prediction: what one device does with one model and its own examples.

There is no federation in here. Whatever is random comes from the generator that is passed in; torch's
global generator (which dropout draws from) is seeded from it for the time of the call and then put back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config import LocalSettings, TrainingSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.frontend import frame_mask

MEAN_STEP = 0.5
"""of a standard deviation: means are rounded to multiples of it; standard deviations to powers of sqrt(2)"""
_VARIANCE_FLOOR = 1e-6

Objective = Callable[[Examples, Tensor, Tensor], Tensor]
"""A batch as it was augmented, its logits [b, C] and its cross-entropy -> the loss to descend, a scalar."""


def descend_cross_entropy(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
    """The ordinary objective."""
    return cross_entropy


class TrainingDiverged(Exception):
    """A loss that is not finite; the message names the step."""


def round_lr(settings: TrainingSettings, round: int) -> float:
    """The local learning rate of an ordinary round.

    "cosine" (Loshchilov & Hutter 2017, without restarts) is lr * (1 + cos(pi * (round - 1) / rounds)) / 2:
    the whole lr in round 1, half of it at the middle, just above zero in the last round.

    Args:
        settings: of training.
        round: 1 ... settings.rounds.

    Raises:
        ValueError: a round that the schedule does not have.
    """
    if not 1 <= round <= settings.rounds:
        raise ValueError(f"round must be in 1 ... {settings.rounds} (got {round})")
    if settings.local.lr_schedule == "constant":
        return settings.local.lr
    return settings.local.lr * (1 + math.cos(math.pi * (round - 1) / settings.rounds)) / 2


def train(
    model: EmotionModel,
    examples: Examples,
    settings: LocalSettings,
    lr: float,
    rng: np.random.Generator,
    objective: Objective = descend_cross_entropy,
) -> float:
    """Train in place: SGD with momentum (starting at rest), on cross-entropy unless told otherwise.

    Args:
        model: changed in place; its training flag is put back.
        examples: this client's own.
        settings: epochs, batch size, momentum, augmentation. ``settings.lr`` is not read:
        lr: the caller has applied the round's schedule (``round_lr``).
        rng: shuffles, augments and seeds dropout.
        objective: makes of each batch the loss to descend.

    Returns:
        mean loss per example over the last epoch, in nats.

    Raises:
        TrainingDiverged: the loss is not finite; the model is then of no use.
        ValueError: no examples, or frame-wise augmentation of a model whose utterances are one frame.
    """
    if len(examples) == 0:
        raise ValueError("nothing to train on: the set of examples is empty")
    _refuse_misplaced(model, settings)
    weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    velocities = [torch.zeros_like(w) for w in weights]
    was_training, step, mean_loss = model.training, 0, math.nan
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        for _ in range(settings.epochs):
            order, total = torch.from_numpy(rng.permutation(len(examples))), 0.0
            for index in torch.split(order, settings.batch_size):
                step += 1
                loss = objective(*_classified(model, examples, index, settings, rng))
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainingDiverged(
                        f"training: the loss is {value} at step {step} (lr {lr:g}): lower the learning rate"
                    )
                gradients = torch.autograd.grad(loss, weights)
                sgd_step(weights, velocities, gradients, lr, settings.momentum, settings.weight_decay)
                total += value * len(index)
            mean_loss = total / len(examples)
    model.train(was_training)
    return mean_loss


@torch.inference_mode()
def predict(model: EmotionModel, examples: Examples, batch_size: int = 256) -> Tensor:
    """Logits [n, C] in evaluation mode; n = 0 gives [0, C]. The model's training flag is put back."""
    was_training = model.training
    model.eval()
    logits = [torch.zeros(0, model.classes)]
    for start in range(0, len(examples), batch_size):
        batch = examples.take(torch.arange(start, min(start + batch_size, len(examples))))
        logits.append(model.classify(batch.features, batch.frames))
    model.train(was_training)
    return torch.cat(logits)


@dataclass(frozen=True)
class Moments:
    """What a client tells of its features before round 1, so that all can standardise alike.

    Attributes:
        mean, mean_square: [D] float64, over all the client's calibration rows (real frames, unless the model
            says otherwise); zeros where it has none.
        frames: how many rows, >= 0: the client's weight in the server's average.
    """

    mean: Tensor
    mean_square: Tensor
    frames: int


def calibrate(model: EmotionModel, examples: Examples) -> Moments:
    """One client's part of the calibration round.

    Averages of the clients' moments, weighted by their frames, are exactly those of the pooled frames.
    """
    if len(examples) == 0:
        nothing = torch.zeros_like(model.norm.mean, dtype=torch.float64)
        return Moments(nothing, nothing.clone(), 0)
    real = model.calibration_rows(examples.features, examples.frames).double()
    return Moments(real.mean(0), real.square().mean(0), len(real))


def set_calibration(model: EmotionModel, mean: Tensor, mean_square: Tensor) -> None:
    """Set the model's standardisation constants, rounded coarsely, from the server's averages.

    Exact constants give single utterances away: two averages of sets that differ by one utterance, or one
    average beside all other features, are that utterance's features. Rounding makes the constants a function
    of the average that hardly ever changes when a few utterances go, and whose error, times the number of
    utterances, is larger than any of their features. Standardisation does not need more.

    Args:
        model: changed in place.
        mean: [D], average of the features.
        mean_square: [D], average of their squares. The variance is mean_square - mean ** 2, not below zero,
            plus 1e-6: a feature that is constant in training is not blown up by a small deviation later.
    """
    mean, mean_square = mean.double(), mean_square.double()
    variance = (mean_square - mean.square()).clamp(min=0.0)
    std = 2.0 ** ((2.0 * (variance + _VARIANCE_FLOOR).sqrt().log2()).round() / 2.0)
    step = std * MEAN_STEP
    model.norm.mean.copy_((mean / step).round() * step + 0.0)  # no negative zero
    model.norm.std.copy_(std)


def sgd_step(
    weights: Sequence[Tensor],
    velocities: Sequence[Tensor],
    gradients: Sequence[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float = 0.0,
) -> None:
    """One step in place, in the order of torch.optim.SGD.

    An optimiser object costs more than a small model's step, and its first one seconds of imports.
    """
    with torch.no_grad():
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            velocity.mul_(momentum).add_(gradient)
            if weight_decay:
                velocity.add_(weight, alpha=weight_decay)
            weight.add_(velocity, alpha=-lr)


def _classified(
    model: EmotionModel, examples: Examples, index: Tensor, settings: LocalSettings, rng: np.random.Generator
) -> tuple[Examples, Tensor, Tensor]:
    batch = crop(examples, index, _crop_frames(model, settings), rng)
    partner, share = None, 1.0
    if settings.mixup and len(index) > 1:
        partner = torch.from_numpy(rng.permutation(len(index)))
        share = rng.beta(settings.mixup, settings.mixup)
        batch = mix(batch, partner, share)
    if settings.time_mask or settings.band_mask:
        batch = mask_spans(batch, settings.time_mask, settings.band_mask, model.feature_mean, rng)
    if settings.feature_noise:
        batch = add_noise(batch, settings.feature_noise * model.unit_at(batch.features), rng)
    logits = model.classify(batch.features, batch.frames)
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=settings.label_smoothing)
    if partner is not None:
        other = F.cross_entropy(logits, batch.labels[partner], label_smoothing=settings.label_smoothing)
        loss = share * loss + (1 - share) * other
    return batch, logits, loss


def _crop_frames(model: EmotionModel, settings: LocalSettings) -> int:
    if not settings.crop_seconds or model.frame_seconds is None:
        return 0
    return max(1, round(settings.crop_seconds / model.frame_seconds))


def _refuse_misplaced(model: EmotionModel, settings: LocalSettings) -> None:
    frame_wise = (settings.crop_seconds, settings.time_mask, settings.band_mask)
    if model.frame_seconds is None and any(frame_wise):
        raise ValueError(
            "crop_seconds, time_mask and band_mask need frame-wise features; "
            f"the model has one frame an utterance ({model.feature_name})"
        )


def crop(examples: Examples, index: Tensor, length: int, rng: np.random.Generator) -> Examples:
    """These examples, each cut to ``length`` frames at a random place.

    Args:
        examples: all of a client's.
        index: [b] positions.
        length: in frames; 0 = whole. A shorter example stays whole.
        rng: where to cut.
    """
    if length == 0:
        return examples.take(index)
    frames = examples.frames[index]
    short = frames.clamp(max=length)
    start = torch.from_numpy(rng.integers(0, (frames - short + 1).numpy()))
    width = int(short.max())
    position = (start[:, None] + torch.arange(width)).clamp(max=examples.features.shape[1] - 1)
    features = examples.features[index[:, None], position]
    if int(short.min()) < width:
        features = features * frame_mask(short, width)[:, :, None]
    return Examples(features, short, examples.labels[index])


def mix(batch: Examples, partner: Tensor, share: float) -> Examples:
    """Mixup (Zhang et al. 2018): share * x + (1 - share) * x[partner], over the frames that both have.

    The labels stay those of x; the loss weighs both.
    """
    frames = torch.minimum(batch.frames, batch.frames[partner])
    width = int(frames.max())
    features = batch.features[:, :width]
    mixed = share * features + (1 - share) * features[partner]
    return Examples(mixed * frame_mask(frames, width)[:, :, None], frames, batch.labels)


def mask_spans(
    batch: Examples, time_share: float, band_share: float, fill: Tensor, rng: np.random.Generator
) -> Examples:
    """SpecAugment (Park et al. 2019) without warping: one span of frames, one of bands, set to the mean.

    Args:
        batch: features [b, T, D].
        time_share, band_share: greatest share of an example's frames / of its bands, in [0, 1).
        fill: [D].
        rng: how long and where.
    """
    width, dims = batch.features.shape[1:]
    in_time = _random_spans(batch.frames, width, time_share, rng)[:, :, None]
    in_bands = _random_spans(torch.full_like(batch.frames, dims), dims, band_share, rng)[:, None, :]
    hidden = (in_time | in_bands) & frame_mask(batch.frames, width)[:, :, None]
    return Examples(torch.where(hidden, fill, batch.features), batch.frames, batch.labels)


def _random_spans(lengths: Tensor, width: int, share: float, rng: np.random.Generator) -> Tensor:
    """bool [b, width]: a span of up to share * length positions, all of it within the length."""
    whole = lengths.numpy()
    span = rng.integers(0, np.floor(share * whole).astype(np.int64) + 1)
    start = rng.integers(0, whole - span + 1)
    position = np.arange(width)
    inside = (position >= start[:, None]) & (position < (start + span)[:, None])
    return torch.from_numpy(inside)


def add_noise(batch: Examples, std: Tensor, rng: np.random.Generator) -> Examples:
    """Gaussian noise on the real frames, of standard deviation std [D] or [b, T, D]."""
    shape = batch.features.shape
    noise = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)) * std
    real = frame_mask(batch.frames, shape[1])[:, :, None]
    return Examples(batch.features + noise * real, batch.frames, batch.labels)
