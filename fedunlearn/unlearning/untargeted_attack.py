"""Untargeted attacks: from an utterance towards another class.

Both work on the model's derived features, in units of their standard deviation, on a frozen copy of the
model in eval mode, and leave padding frames at zero. They draw nothing at random.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.frontend import frame_mask

_AT_ONCE = 64
"""utterances attacked in one batch: bounds memory"""


def fgsm(model: EmotionModel, examples: Examples, eps: float) -> Tensor:
    """Take one step of the fast gradient sign method (Goodfellow et al. 2015), away from the true labels.

    Args:
        model: attacked as it stands, not changed.
        examples: n >= 1 utterances.
        eps: > 0, how far each true value moves, in standard deviations of its feature.

    Returns:
        features [n, T, D] in the model's own units.
    """
    frozen, made = _frozen(model), []
    for x, frames, labels, real in _batches(examples):
        loss, where = _loss_at(frozen, x, torch.zeros_like(x), frames, labels)[1:]
        (gradient,) = torch.autograd.grad(loss, where)
        made.append(x + eps * gradient.sign() * real * frozen.unit_at(x))
    return torch.cat(made)


def closest_adversarial(
    model: EmotionModel, examples: Examples, eps: float, doublings: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Find for each utterance the first point of another class, in ever larger L2 balls.

    Untargeted L2-PGD without a random start (Madry et al. 2018) in the form of AMUN's own code: in a ball
    of radius eps * sqrt(d), d being the number of true values, up to ``steps`` steps of a tenth of the
    radius; then the radius doubles and the search goes on from where it is. An utterance stops at the first
    step at which its prediction is wrong; one that is wrong already stays where it is.

    Args:
        model: attacked as it stands, not changed.
        examples: n >= 1 utterances.
        eps: as of ``AmunForgetSettings``.
        doublings: as of ``AmunForgetSettings``.
        steps: as of ``AmunForgetSettings``.

    Returns:
        features [n, T, D] in the model's own units; int64 [n], the model's prediction there, equal to the
        true label where nothing was found; float [n], how far the features moved (L2, in standard
        deviations).
    """
    frozen = _frozen(model)
    features, predicted, distance = [], [], []
    for x, frames, labels, real in _batches(examples):
        delta, still = torch.zeros_like(x), torch.arange(len(x))
        size = (frames * x.shape[2]).to(x.dtype).sqrt()[:, None, None]
        for step in range((doublings + 1) * steps):
            logits, loss, where = _loss_at(frozen, x[still], delta[still], frames[still], labels[still])
            holds = logits.argmax(1) == labels[still]
            if not bool(holds.any()):
                break
            (gradient,) = torch.autograd.grad(loss, where)
            still, gradient = still[holds], gradient[holds]
            radius = eps * 2.0 ** (step // steps) * size[still]
            moved = delta[still] + radius / 10 * _unit(gradient * real[still])
            delta[still] = moved * (radius / _length(moved).clamp(min=_tiny(x))).clamp(max=1.0)
        with torch.no_grad():
            features.append(x + delta * frozen.unit_at(x))
            predicted.append(frozen.classify(features[-1], frames).argmax(1))
            distance.append(_length(delta).flatten())
    return torch.cat(features), torch.cat(predicted), torch.cat(distance)


def _frozen(model: EmotionModel) -> EmotionModel:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _batches(examples: Examples) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Features, all of the full width, frames, labels, and where the features are real: [b, T, 1]."""
    for index in torch.split(torch.arange(len(examples)), _AT_ONCE):
        x, frames = examples.features[index], examples.frames[index]
        yield x, frames, examples.labels[index], frame_mask(frames, x.shape[1])[:, :, None]


def _loss_at(
    model: EmotionModel, x: Tensor, delta: Tensor, frames: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the sum of the losses, and the perturbation to take gradients at."""
    where = delta.clone().requires_grad_(True)
    logits = model.classify(x + where * model.unit_at(x), frames)
    return logits, F.cross_entropy(logits, labels, reduction="sum"), where


def _length(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(1).norm(dim=1)
    return lengths[:, None, None]


def _unit(values: Tensor) -> Tensor:
    return values / _length(values).clamp(min=_tiny(values))


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
