"""Importance of each weight for the forget set: the Omega of the elastic term."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel

Importance = Literal["flipped-mas", "mas", "fisher", "none"]


def importance(model: EmotionModel, examples: Examples, kind: Importance) -> dict[str, Tensor]:
    """Return Omega of every trainable parameter, in [0, 1], of the parameter's shape.

    Per utterance x_n with label y_n, and averaged over the n utterances *after* the absolute value or the
    square, so that utterances that pull a weight in opposite directions do not cancel:

    - "mas": mean |d ||logits(x_n)||_2 / d theta| (memory aware synapses, Aljundi et al. 2018, with the
      plain norm of Cha et al. 2024 instead of its square);
    - "flipped-mas": one minus the scaled "mas" (Cha et al. 2024): weights that matter to the forget set are
      free to move, the others are held. The opposite of ordinary elastic weight consolidation;
    - "fisher": mean (d cross-entropy(x_n, y_n) / d theta)^2, the diagonal empirical Fisher information
      (Kirkpatrick et al. 2017);
    - "none": 1 everywhere.

    Each tensor is min-max scaled to [0, 1] on its own. A tensor of equal values is scaled to 0, and so
    flipped to 1 (held).

    Args:
        model: in eval mode; not changed (no ``grad`` is written).
        examples: [n, T, D], n >= 1.
        kind: see above.
    """
    if kind == "none":
        return {name: torch.ones_like(value) for name, value in _trainable(model).items()}
    if kind == "fisher":
        return {name: _scaled(v) for name, v in _accumulate(model, examples, _loss, torch.square).items()}
    mas = {name: _scaled(v) for name, v in _accumulate(model, examples, _size, torch.abs).items()}
    return {name: 1.0 - value for name, value in mas.items()} if kind == "flipped-mas" else mas


def _trainable(model: EmotionModel) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def _size(logits: Tensor, labels: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(logits, dim=1)
    return lengths.mean()


def _accumulate(
    model: EmotionModel,
    examples: Examples,
    score: Callable[[Tensor, Tensor], Tensor],
    shape: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean over utterances of ``shape`` of the gradient of ``score``, one utterance at a time."""
    weights = [value for value in model.parameters() if value.requires_grad]
    total = [torch.zeros_like(value) for value in weights]
    for index in torch.split(torch.arange(len(examples)), 1):
        one = examples.take(index)
        logits = model.classify(one.features, one.frames)
        gradients = torch.autograd.grad(score(logits, one.labels), weights, allow_unused=True)
        for sum_, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                sum_ += shape(gradient)
    return {name: sum_ / len(examples) for name, sum_ in zip(_trainable(model), total, strict=True)}


def _scaled(values: Tensor) -> Tensor:
    low, high = values.aminmax()
    return (values - low) / (high - low) if bool(high > low) else torch.zeros_like(values)
