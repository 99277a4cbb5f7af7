"""Oracle matching: copy the outputs of a model that was retrained. An upper bound, and no way to unlearn.

Georgiev et al. 2024, *Attribute-to-Delete: Machine Unlearning via Datamodel Matching* (arXiv 2410.23232), who
use it to show what a method could reach that foretells a retrained model's outputs perfectly.

1. The oracle is trained from scratch without the forget sets, as "retrained", from other weights than the
   judge's.
2. Minimise the squared distance of the model's logits to the oracle's, on the forget sets and on what the
   clients keep.

It costs more than retraining. The two kinds of data lie on different devices: in each round the requesters
match the oracle first, then every client does.
"""

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.baselines import OracleMatchingSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import LossFunction
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import descend, distance_from, squared_distance
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, retain_half


@forget_half(lambda settings: settings.oracle_matching)
def forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: OracleMatchingSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    oracle: EmotionModel,
) -> UnlearnResult:
    """Match the oracle on the forget set."""
    distance = distance_from(oracle, forget_set.examples, squared_distance)
    return descend(model, forget_set.examples, distance, settings.forget, rng, scalars)


def match_kept(settings: OracleMatchingSettings, oracle: EmotionModel) -> LossFunction:
    """Match the oracle on what a client keeps."""

    def loss(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = oracle.classify(batch.features, batch.frames)
        return squared_distance(wanted, logits)

    return loss


CARD = RoundsCard(
    name="oracle-matching",
    source="oracle matching, Georgiev et al. 2024 (arXiv 2410.23232): an upper bound",
    plan=lambda settings: Plan(settings.oracle_matching.rounds, settings.oracle_matching.rounds),
    retain=retain_half(lambda settings: settings.oracle_matching, match_kept),
    forget=forget,
    teacher="retrained",
)
