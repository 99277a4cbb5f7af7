"""A ball around a reference model that the weights may not leave, and clipped gradients.

Weights and gradients are one tensor for each trainable parameter, in ``parameters()`` order; lengths are L2
of all together.
"""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.controls.destroy import draw_anew


def trainable(model: EmotionModel) -> list[Tensor]:
    """List the weights that move, detached."""
    return [value.detach() for value in model.parameters() if value.requires_grad]


def share_of_distance(share: float, model: EmotionModel, count: int, rng: np.random.Generator) -> float:
    """Compute a share of the mean distance of a model to models of random weights.

    Args:
        share: > 0.
        model: not changed.
        count: of random models, >= 1.
        rng: draws their weights.
    """
    random, distances = copy.deepcopy(model), []
    for _ in range(count):
        draw_anew(random, rng)
        distances.append(_length(_differences(trainable(random), trainable(model))))
    return share * sum(distances) / len(distances)


def clip_to(limit: float) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Return a function that shortens gradients to a length; 0 = it leaves them as they are."""

    def clip(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        length = _length(gradients)
        if not 0 < limit < length:
            return gradients
        return [gradient * (limit / length) for gradient in gradients]

    return clip


def project_onto(reference: Sequence[Tensor], radius: float) -> Callable[[Sequence[Tensor]], None]:
    """Return a function that moves weights outside the ball, in place, to the nearest point of it.

    Args:
        reference: centre of the ball.
        radius: > 0.
    """

    def project(weights: Sequence[Tensor]) -> None:
        away = _differences(weights, reference)
        length = _length(away)
        if length > radius:
            for weight, centre, step in zip(weights, reference, away, strict=True):
                weight.copy_(centre + step * (radius / length))

    return project


def _differences(weights: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
    return [weight - centre for weight, centre in zip(weights, reference, strict=True)]


def _length(values: Sequence[Tensor]) -> float:
    """In float64: squares of large weights do not overflow."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))
