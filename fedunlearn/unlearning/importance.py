"""How much each weight matters to the forget set: the Omega of the elastic term, and the saliency mask."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.descent import Loss, cross_entropy_to

_AT_ONCE = 256
"""utterances in one backward pass: bounds memory"""

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


def add_elastic_term(
    loss: Loss, model: EmotionModel, examples: Examples, kind: Importance, strength: float
) -> Loss:
    """Add strength / 2 * sum_i Omega_i (theta_i - theta0_i)^2 to a loss, Omega computed once in eval mode.

    Args:
        loss: of a batch.
        model: whose weights are theta0; not changed.
        examples: n >= 1 utterances, on which Omega is computed.
        kind: of Omega, as of ``importance``.
        strength: lambda; 0 = no term, and Omega is not computed.
    """
    if strength == 0:
        return loss
    theta0 = {name: value.detach() for name, value in model.named_parameters()}
    omega = importance(copy.deepcopy(model).eval(), examples, kind)

    def penalised(working: EmotionModel, batch: Tensor) -> Tensor:
        total, weights = loss(working, batch), dict(working.named_parameters())
        for name, held in omega.items():
            total = total + strength / 2 * (held * (weights[name] - theta0[name]).square()).sum()
        return total

    return penalised


def saliency_mask(model: EmotionModel, examples: Examples, threshold: float) -> list[Tensor]:
    """Mark the weights whose |d mean cross-entropy / d theta| is at least its ``threshold`` quantile.

    The quantile is over all trainable weights together, the next value above where it falls between two.
    Weights that equal it move, so that 0 masks none.

    Args:
        model: not changed.
        examples: n >= 1 utterances.
        threshold: in [0, 1].

    Returns:
        one bool tensor for each trainable parameter, of its shape, in ``parameters()`` order.
    """
    frozen = copy.deepcopy(model).eval()
    weights = [value for value in frozen.parameters() if value.requires_grad]
    loss, total = cross_entropy_to(examples, examples.labels), [torch.zeros_like(w) for w in weights]
    for index in torch.split(torch.arange(len(examples)), _AT_ONCE):
        part = loss(frozen, index) * (len(index) / len(examples))
        for sum_, gradient in zip(total, torch.autograd.grad(part, weights), strict=True):
            sum_ += gradient
    saliency = [value.abs() for value in total]
    ordered = torch.cat([value.flatten().cpu() for value in saliency]).sort().values
    gamma = ordered[min(int(threshold * len(ordered)), len(ordered) - 1)]
    return [value >= gamma for value in saliency]


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
