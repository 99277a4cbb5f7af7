"""Local training and prediction: what one client does with a model and its own examples.

There is no federation here. All randomness comes from the generator that is passed in; torch's global
generator, from which dropout draws, is seeded from it during the call and then restored.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config import LocalSettings, TrainingSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.explicit import ExplicitGradients
from fedunlearn.models.frontend import frame_mask

MEAN_STEP = 0.5
"""In standard deviations: means are rounded to multiples of it, standard deviations to powers of sqrt(2)."""
_VARIANCE_FLOOR = 1e-6

LossFunction = Callable[[Examples, Tensor, Tensor], Tensor]
"""Maps an augmented batch, its logits [b, C] and its cross-entropy to the loss to minimise, a scalar."""


def descend_cross_entropy(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
    """Return the cross-entropy: the objective of ordinary training."""
    return cross_entropy


class TrainingDiverged(Exception):
    """The loss is not finite; the message names the step."""


def round_lr(settings: TrainingSettings, round: int) -> float:
    """Return the local learning rate of an ordinary round.

    "cosine" (Loshchilov & Hutter 2017, without restarts) is lr * (1 + cos(pi * (round - 1) / rounds)) / 2:
    the full lr in round 1, half of it in the middle, just above zero in the last round.

    Args:
        settings: settings of ordinary training.
        round: number of the round, 1 ... settings.rounds.

    Raises:
        ValueError: the schedule has no such round.
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
    objective: LossFunction = descend_cross_entropy,
    noted: Tensor | None = None,
) -> float:
    """Train a model in place by SGD with momentum, or AdamW; the optimiser's state starts at zero.

    Args:
        model: the model, changed in place; its training flag is restored.
        examples: the client's own examples.
        settings: amount of work, batch size, momentum, gradient clipping and augmentation. ``settings.lr`` is
            not read.
        lr: learning rate, to which the round's schedule was applied (``round_lr``).
        rng: source of the order of examples, of augmentation and of dropout.
        objective: the loss to minimise on each batch.
        noted: [n, ``model.ticket_size``] float32 zeros, into which each example's part in what training takes
            from the weights is added up; None = nothing is noted. With "sgd" and the cross-entropy alone. (Of
            weights that also decay, what decays is not noted.)

    Returns:
        Mean loss per example, in nats, over the last steps: as many as a pass over the examples has, or all
        if there were fewer.

    Raises:
        TrainingDiverged: the loss is not finite; the model is then unusable.
        ValueError: there are no examples, frame-wise augmentation is set for a model with one frame for each
            utterance, or what is to be noted cannot be.
    """
    if len(examples) == 0:
        raise ValueError("nothing to train on: the set of examples is empty")
    if noted is not None and (settings.optimizer != "sgd" or objective is not descend_cross_entropy):
        raise ValueError("parts in an update are noted of SGD on the cross-entropy alone")
    _refuse_misplaced(model, settings)
    steps = settings.work.steps_on(len(examples), settings.batch_size)
    was_training, losses = model.training, list[tuple[float, int]]()
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        found = _gradients(model, examples, settings, rng, objective)
        take_step = optimiser(found.weights, settings.optimizer, lr, settings.momentum, settings.weight_decay)
        for step, index in enumerate(islice(_batches(len(examples), settings.batch_size, rng), steps), 1):
            value = found.loss(index)
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"training: the loss is {value} at step {step} (lr {lr:g}): lower the learning rate"
                )
            gradients = found.gradients()
            clip = clip_factor(gradients, settings.gradient_clip)
            take_step([g * clip for g in gradients] if clip < 1.0 else gradients)
            if noted is not None:
                effect = clip * _effect(lr, settings.momentum, steps - step)
                for position, share in found.mixture.shares(index):
                    noted.index_add_(0, position, found.parts(), alpha=effect * share)
            losses.append((value, len(index)))
        found.finish()
    model.train(was_training)
    last = losses[-math.ceil(len(examples) / settings.batch_size) :]
    return sum(value * size for value, size in last) / sum(size for _, size in last) if last else math.nan


def _effect(lr: float, momentum: float, left: int) -> float:
    """How far a gradient of 1 moves the weights in its own step and in as many further ones as are left."""
    return lr * (1 - momentum ** (left + 1)) / (1 - momentum)


class _Gradients(Protocol):
    """Loss and gradients, a batch at a time.

    Attributes:
        weights: to be changed in place.
        mixture: of the last batch.
    """

    weights: list[Tensor]
    mixture: "_Mixture"

    def loss(self, index: Tensor) -> float:
        """Compute the loss of a batch, positions [b]."""
        ...

    def gradients(self) -> Sequence[Tensor]:
        """Return the gradients of the last batch, one for each of ``weights``."""
        ...

    def parts(self) -> Tensor:
        """Return the part [b, K] of each row of the last batch in its gradient."""
        ...

    def finish(self) -> None:
        """Make sure that the model has the weights."""
        ...


def _gradients(
    model: EmotionModel,
    examples: Examples,
    settings: LocalSettings,
    rng: np.random.Generator,
    objective: LossFunction,
) -> _Gradients:
    if objective is descend_cross_entropy:
        # AdamW scales each coordinate for itself, so that it depends on the basis.
        plain = settings.optimizer == "sgd" and not settings.feature_noise and not settings.weight_decay
        uses = settings.work.steps_on(len(examples), settings.batch_size) * settings.batch_size
        in_span = plain and uses >= len(examples)
        explicit = model.explicit_gradients(examples, torch.default_generator, in_span)
        if explicit is not None:
            return _Explicit(explicit, examples.labels, model.classes, settings, rng)
    return _ByAutograd(model, examples, settings, rng, objective)


@dataclass(frozen=True)
class _Mixture:
    """Of which examples the rows of a batch are mixtures.

    Attributes:
        share: of each row's own example, in [0, 1].
        partner: [b] place in the batch of the other one; None = each row is its own example.
    """

    share: float = 1.0
    partner: Tensor | None = None

    @classmethod
    def draw(cls, size: int, mixup: float, rng: np.random.Generator) -> "_Mixture":
        if not mixup or size < 2:
            return cls()
        partner = torch.from_numpy(rng.permutation(size))
        return cls(rng.beta(mixup, mixup), partner)

    def shares(self, index: Tensor) -> list[tuple[Tensor, float]]:
        """Positions [b] of examples, and their share of each row."""
        if self.partner is None:
            return [(index, 1.0)]
        return [(index, self.share), (index[self.partner], 1.0 - self.share)]

    def mix(self, values: Tensor) -> Tensor:
        """Mix values [b, ...] of the rows' own examples."""
        if self.partner is None:
            return values
        return self.share * values + (1 - self.share) * values[self.partner]


class _ByAutograd:
    def __init__(
        self,
        model: EmotionModel,
        examples: Examples,
        settings: LocalSettings,
        rng: np.random.Generator,
        objective: LossFunction,
    ) -> None:
        self._model, self._examples, self._settings = model, examples, settings
        self._rng, self._objective = rng, objective
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def loss(self, index: Tensor) -> float:
        found = _classified(self._model, self._examples, index, self._settings, self._rng)
        batch, self._logits, cross_entropy, self.mixture = found
        self._labels = batch.labels
        self._loss = self._objective(batch, self._logits, cross_entropy)
        return self._loss.item()

    def gradients(self) -> Sequence[Tensor]:
        return torch.autograd.grad(self._loss, self.weights)

    def parts(self) -> Tensor:
        smoothing, logits = self._settings.label_smoothing, self._logits.detach()
        targets = self.mixture.mix(_targets(self._labels, logits.shape[1], smoothing))
        return (logits.softmax(1) - targets) / len(targets)

    def finish(self) -> None:
        pass


class _Explicit:
    """The same up to rounding, with the same draws of random numbers."""

    def __init__(
        self,
        explicit: ExplicitGradients,
        labels: Tensor,
        classes: int,
        settings: LocalSettings,
        rng: np.random.Generator,
    ) -> None:
        self._explicit, self._settings, self._rng = explicit, settings, rng
        self.weights = [explicit.weights]
        self._targets = _targets(labels, classes, settings.label_smoothing)

    def loss(self, index: Tensor) -> float:
        inputs, targets = self._explicit.inputs.index_select(0, index), self._targets.index_select(0, index)
        settings, rng = self._settings, self._rng
        self.mixture = _Mixture.draw(len(index), settings.mixup, rng)
        inputs, targets = self.mixture.mix(inputs), self.mixture.mix(targets)
        if settings.feature_noise:
            drawn = torch.from_numpy(rng.standard_normal(inputs.shape, dtype=np.float32))
            inputs.add_(drawn, alpha=settings.feature_noise)
        return self._explicit.loss(inputs, targets)

    def gradients(self) -> Sequence[Tensor]:
        return [self._explicit.gradient]

    def parts(self) -> Tensor:
        return self._explicit.parts()

    def finish(self) -> None:
        self._explicit.finish()


@torch.inference_mode()
def predict(model: EmotionModel, examples: Examples, batch_size: int = 256) -> Tensor:
    """Return the model's logits in evaluation mode.

    Args:
        model: the model; its training flag is restored.
        examples: n examples, possibly none.
        batch_size: examples in one forward pass.

    Returns:
        Logits [n, C].
    """
    was_training = model.training
    if was_training:
        model.eval()
    logits = [torch.zeros(0, model.classes)]
    for start in range(0, len(examples), batch_size):
        batch = examples.take(torch.arange(start, min(start + batch_size, len(examples))))
        logits.append(model.classify(batch.features, batch.frames))
    if was_training:
        model.train()
    return torch.cat(logits)


@dataclass(frozen=True)
class Moments:
    """Moments of a client's features, sent once before round 1 for a common standardisation.

    Attributes:
        mean: [D] float64, mean over the client's calibration rows (its unpadded frames, unless the model
            says otherwise); zeros if it has none.
        mean_square: [D] float64, mean of their squares; zeros if it has none.
        frames: number of rows, >= 0: the client's weight in the server's average.
    """

    mean: Tensor
    mean_square: Tensor
    frames: int


def calibrate(model: EmotionModel, examples: Examples) -> Moments:
    """Compute one client's moments for the calibration round.

    The averages of the clients' moments, weighted by their frames, are exactly those of the pooled frames.

    Args:
        model: the model, which says which rows are used.
        examples: the client's examples, possibly none.
    """
    if len(examples) == 0:
        nothing = torch.zeros_like(model.norm.mean, dtype=torch.float64)
        return Moments(nothing, nothing.clone(), 0)
    real = model.calibration_rows(examples.features, examples.frames).double()
    return Moments(real.mean(0), real.square().mean(0), len(real))


def set_calibration(model: EmotionModel, mean: Tensor, mean_square: Tensor) -> None:
    """Set the model's standardisation constants, rounded coarsely, from the server's averages.

    Exact constants reveal single utterances: two averages over sets that differ by one utterance, or one
    average together with all other features, give that utterance's features. Rounded constants hardly ever
    change when a few utterances are removed, and their error, times the number of utterances, is larger than
    any utterance's features. Standardisation does not need more precision.

    Args:
        model: the model, changed in place.
        mean: [D], average of the features.
        mean_square: [D], average of their squares. The variance is mean_square - mean ** 2, at least zero,
            plus 1e-6, so that a feature that is constant in training does not amplify a small deviation
            later.
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
    """Take one step of SGD in place, with the arithmetic of torch.optim.SGD in the same order.

    An optimiser object would cost more than a small model's step, and the first one seconds of imports.

    Args:
        weights: the parameters.
        velocities: their momentum buffers, of the same shapes.
        gradients: their gradients.
        lr: learning rate.
        momentum: momentum, in [0, 1).
        weight_decay: L2 penalty, >= 0.
    """
    with torch.no_grad():
        for device in dict.fromkeys(weight.device for weight in weights):
            # A GPU computes all of its tensors in a few kernels; a CPU one after another.
            here = [i for i, weight in enumerate(weights) if weight.device == device]
            weight, velocity, gradient = ([of[i] for i in here] for of in (weights, velocities, gradients))
            torch._foreach_mul_(velocity, momentum)
            torch._foreach_add_(velocity, gradient)
            if weight_decay:
                torch._foreach_add_(velocity, weight, alpha=weight_decay)
            torch._foreach_add_(weight, velocity, alpha=-lr)


def optimiser(
    weights: Sequence[Tensor],
    kind: Literal["sgd", "adamw"],
    lr: float,
    momentum: float,
    weight_decay: float = 0.0,
) -> Callable[[Sequence[Tensor]], None]:
    """Return what takes one step on the weights, in place, given their gradients.

    Args:
        weights: the parameters.
        kind: "adamw" is that of Loshchilov & Hutter 2019 (arXiv 1711.05101), with beta_2 = .999.
        lr: learning rate.
        momentum: momentum of "sgd", beta_1 of "adamw"; in [0, 1).
        weight_decay: L2 penalty of "sgd", decoupled from the gradient in "adamw"; >= 0.
    """
    if kind == "sgd":
        velocities = [torch.zeros_like(w) for w in weights]
        return lambda gradients: sgd_step(weights, velocities, gradients, lr, momentum, weight_decay)
    from torch.optim.adamw import adamw  # the module takes seconds to load, and most runs do without it

    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    counts = [torch.zeros(()) for _ in weights]

    def take_step(gradients: Sequence[Tensor]) -> None:
        with torch.no_grad():
            adamw(
                list(weights),
                list(gradients),
                means,
                squares,
                [],
                counts,
                amsgrad=False,
                beta1=momentum,
                beta2=0.999,
                lr=lr,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )

    return take_step


def clip_gradients(gradients: Sequence[Tensor], largest: float) -> Sequence[Tensor]:
    """Scale a gradient down to a largest L2 norm, over all of its tensors (Pascanu et al. 2013).

    Args:
        gradients: one for each parameter.
        largest: largest norm; 0 = any. A gradient that is not longer comes back as it is.
    """
    factor = clip_factor(gradients, largest)
    return [g * factor for g in gradients] if factor < 1.0 else gradients


def clip_factor(gradients: Sequence[Tensor], largest: float) -> float:
    """Return by what a gradient is multiplied to be no longer than ``largest``, see ``clip_gradients``."""
    if not largest:
        return 1.0
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
    norm = math.hypot(*map(float, norms))  # read when all are under way
    return largest / norm if norm > largest else 1.0


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Positions of examples in batches without end, in one random order after another."""
    while True:
        yield from torch.split(torch.from_numpy(rng.permutation(count)), size)


def _classified(
    model: EmotionModel, examples: Examples, index: Tensor, settings: LocalSettings, rng: np.random.Generator
) -> tuple[Examples, Tensor, Tensor, _Mixture]:
    batch = crop(examples, index, _crop_frames(model, settings), rng, model.summary_rows)
    mixture = _Mixture.draw(len(index), settings.mixup, rng)
    share, partner = mixture.share, mixture.partner
    if partner is not None:
        batch = mix(batch, partner, share)
    if settings.time_mask or settings.band_mask:
        shares = (settings.time_mask, settings.band_mask)
        batch = mask_spans(batch, *shares, model.feature_mean, rng, model.summary_rows)
    if settings.feature_noise:
        batch = add_noise(batch, settings.feature_noise * model.unit_at(batch.features), rng)
    logits = model.classify(batch.features, batch.frames)
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=settings.label_smoothing)
    if partner is not None:
        other = F.cross_entropy(logits, batch.labels[partner], label_smoothing=settings.label_smoothing)
        loss = share * loss + (1 - share) * other
    return batch, logits, loss, mixture


def _targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """The distribution [b, C] towards which each utterance is trained."""
    rest = smoothing / classes
    return torch.full((len(labels), classes), rest).scatter_(1, labels[:, None], 1 - smoothing + rest)


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


def crop(
    examples: Examples, index: Tensor, length: int, rng: np.random.Generator, summary_rows: int = 0
) -> Examples:
    """Select examples and crop each of them to ``length`` frames at a random place.

    Args:
        examples: all examples of a client.
        index: [b] positions of the selected ones.
        length: length of a crop in frames; 0 = no cropping. A shorter example stays whole.
        rng: source of the places.
        summary_rows: leading rows that describe a whole utterance: they are kept, and are not counted.
    """
    if length == 0:
        return examples.take(index)
    frames = examples.frames[index] - summary_rows
    short = frames.clamp(max=length)
    start = torch.from_numpy(rng.integers(0, (frames - short + 1).numpy()))
    in_crop = summary_rows + start[:, None] + torch.arange(int(short.max()))
    in_crop = in_crop.clamp(max=examples.features.shape[1] - 1)
    position = torch.cat([torch.arange(summary_rows).expand(len(index), -1), in_crop], 1)
    features, kept = examples.features[index[:, None], position], summary_rows + short
    if int(kept.min()) < position.shape[1]:
        features = features * frame_mask(kept, position.shape[1])[:, :, None]
    return Examples(features, kept, examples.labels[index])


def mix(batch: Examples, partner: Tensor, share: float) -> Examples:
    """Apply mixup (Zhang et al. 2018): share * x + (1 - share) * x[partner], over the frames that both have.

    The labels stay those of x; the caller's loss weighs both.

    Args:
        batch: b examples.
        partner: [b] position of each example's partner in the batch.
        share: weight of the example itself, in [0, 1].
    """
    frames = torch.minimum(batch.frames, batch.frames[partner])
    width = int(frames.max())
    features = batch.features[:, :width]
    mixed = share * features + (1 - share) * features[partner]
    return Examples(mixed * frame_mask(frames, width)[:, :, None], frames, batch.labels)


def mask_spans(
    batch: Examples,
    time_share: float,
    band_share: float,
    fill: Tensor,
    rng: np.random.Generator,
    summary_rows: int = 0,
) -> Examples:
    """Apply SpecAugment (Park et al. 2019) without warping: mask one span of frames and one of bands.

    Args:
        batch: examples with features [b, T, D].
        time_share: largest share of an example's frames that is masked, in [0, 1).
        band_share: largest share of its bands that is masked, in [0, 1).
        fill: [D], the mean that replaces masked values.
        rng: source of the lengths and places.
        summary_rows: leading rows that describe a whole utterance and have no place in time.
    """
    width, dims = batch.features.shape[1:]
    spans = _random_spans(batch.frames - summary_rows, width - summary_rows, time_share, rng)
    in_time = F.pad(spans, (summary_rows, 0))[:, :, None]
    in_bands = _random_spans(torch.full_like(batch.frames, dims), dims, band_share, rng)[:, None, :]
    hidden = (in_time | in_bands) & frame_mask(batch.frames, width)[:, :, None]
    return Examples(torch.where(hidden, fill, batch.features), batch.frames, batch.labels)


def _random_spans(lengths: Tensor, width: int, share: float, rng: np.random.Generator) -> Tensor:
    """bool [b, width]: for each example a span of up to share * length positions within its length."""
    whole = lengths.numpy()
    span = rng.integers(0, np.floor(share * whole).astype(np.int64) + 1)
    start = rng.integers(0, whole - span + 1)
    position = np.arange(width)
    inside = (position >= start[:, None]) & (position < (start + span)[:, None])
    return torch.from_numpy(inside)


def add_noise(batch: Examples, std: Tensor, rng: np.random.Generator) -> Examples:
    """Add Gaussian noise to the unpadded frames.

    Args:
        batch: examples with features [b, T, D].
        std: standard deviation, [D] or [b, T, D].
        rng: source of the noise.
    """
    shape = batch.features.shape
    noise = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)) * std
    real = frame_mask(batch.frames, shape[1])[:, :, None]
    return Examples(batch.features + noise * real, batch.frames, batch.labels)
