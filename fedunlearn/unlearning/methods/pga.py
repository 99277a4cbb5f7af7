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

from dataclasses import replace

import numpy as np

from fedunlearn.config.unlearning import PGASettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.ball import clip_to, project_onto, share_of_distance, trainable
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import ascent, descend

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
    """Raise the loss without leaving the neighbourhood of the model; the note "radius" is the ball's."""
    # 1. and 2. The ball.
    (fresh,) = rng.spawn(1)
    radius = share_of_distance(settings.radius, model, _RANDOM_MODELS, fresh)
    project = project_onto(trainable(model), radius)
    # 3. and 4. Ascend, clip, project; stop.
    examples, clip = forget_set.examples, clip_to(settings.clip)
    result = descend(model, examples, ascent(examples), settings, rng, scalars, shape=clip, project=project)
    return replace(result, notes={**result.notes, "radius": radius})
