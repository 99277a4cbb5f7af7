"""NoT: negate the first layer's weights, then fine-tune on what is kept.

Khalil et al. 2025, *NoT: Federated Unlearning via Weight Negation*, CVPR (arXiv 2503.05657). The negation
breaks what the layers have learned to do together; training on the retain sets builds it again without the
forget set. The weights of one layer change their sign, ``EmotionModel.first_layer``; its bias does not.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, StateDict
from fedunlearn.unlearning.privileged.fine_tune import train_on_kept


def negated(weights: Mapping[str, Tensor], model: EmotionModel) -> StateDict:
    """The weights with the sign of ``model.first_layer`` changed; doing it twice is doing nothing."""
    return {**weights, model.first_layer: -weights[model.first_layer]}


def retain(
    model: EmotionModel,
    retain_set: Examples,
    settings: UnlearningSettings,
    local: LocalSettings,
    rng: np.random.Generator,
    original: EmotionModel | None,
) -> float:
    """Train on what is kept, as "fine-tune". ``settings.not_`` is read."""
    return train_on_kept(model, retain_set, settings.not_, local, rng)


CARD = RoundsCard(
    name="not",
    source="NoT, Khalil et al. 2025 (arXiv 2503.05657)",
    plan=lambda settings: Plan(settings.not_.rounds),
    retain=retain,
    start=negated,
)
