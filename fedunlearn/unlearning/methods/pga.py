"""Projected gradient ascent: raise the loss, but stay in a ball around a reference model.

Halimi et al. 2022, *Federated Unlearning: How to Efficiently Erase a Client in FL?* (arXiv 2207.05521).

1. The paper's reference is the mean of the *other* clients' models, w_ref = (N w - w_i) / (N - 1), of the
   global model w and the requester's own last local model w_i. Neither N nor w_i is the forget set's, and
   (w - w_i) / (N - 1) is a small part of one local update; so here w_ref = w, the model as it came.
2. The ball's radius is a share (the paper's: a third) of the mean Euclidean distance from w_ref to ten
   models of random weights.
3. Ascend the loss on the true labels, the gradient clipped; after each step project onto the ball.
4. Stop early by the common rule (the paper's: when the validation accuracy falls to a threshold).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fedunlearn.config.unlearning import PGASettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.controls.destroy import draw_anew
from fedunlearn.unlearning.descent import descend
from fedunlearn.unlearning.methods.gradient_ascent import ascent

_RANDOM_MODELS = 10


@method(
    "pga",
    source="Halimi et al. 2022 (arXiv 2207.05521), around the model as it came",
    settings=lambda chosen: chosen.pga,
)
def pga(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: PGASettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Raise the loss on the true labels without leaving the neighbourhood of the model.

    Returns:
        the note "radius" is the ball's.
    """
    # 1. The reference.
    reference = [value.detach() for value in model.parameters() if value.requires_grad]
    # 2. The radius.
    (fresh,) = rng.spawn(1)
    random, distances = copy.deepcopy(model), []
    drawn = [value for value in random.parameters() if value.requires_grad]
    for _ in range(_RANDOM_MODELS):
        draw_anew(random, fresh)
        distances.append(_length([a.detach() - b for a, b in zip(drawn, reference, strict=True)]))
    radius = settings.radius * sum(distances) / len(distances)

    # 3. and 4. Ascend, clip, project; stop.
    def clipped(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        length = _length(gradients)
        if not 0 < settings.clip < length:
            return gradients
        return [gradient * (settings.clip / length) for gradient in gradients]

    def project(weights: Sequence[Tensor]) -> None:
        away = [weight - centre for weight, centre in zip(weights, reference, strict=True)]
        length = _length(away)
        if length > radius:
            for weight, centre, step in zip(weights, reference, away, strict=True):
                weight.copy_(centre + step * (radius / length))

    loss = ascent(forget_set.examples)
    result = descend(model, forget_set.examples, loss, settings, rng, scalars, shape=clipped, project=project)
    return replace(result, notes={**result.notes, "radius": radius})


def _length(values: Sequence[Tensor]) -> float:
    """L2 of all together, in float64: squares of large weights do not overflow."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))
