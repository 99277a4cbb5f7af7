"""NoT: negate the first layer's weights, then fine-tune on what is kept.

Khalil et al. 2025, *NoT: Federated Unlearning via Weight Negation*, CVPR (arXiv 2503.05657). The negation
breaks what the layers have learned to do together; training on the retain sets builds it again without the
forget set. The weights of one layer change their sign, ``EmotionModel.first_layer``; its bias does not.
"""

from collections.abc import Mapping

from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, retain_half


def negated(weights: Mapping[str, Tensor], model: EmotionModel) -> StateDict:
    """The weights with the sign of ``model.first_layer`` changed; doing it twice is doing nothing."""
    return {**weights, model.first_layer: -weights[model.first_layer]}


CARD = RoundsCard(
    name="not",
    source="NoT, Khalil et al. 2025 (arXiv 2503.05657)",
    plan=lambda settings: Plan(settings.not_.rounds),
    retain=retain_half(lambda settings: settings.not_),
    start=negated,
)
