"""FedOSD: unlearn in the direction nearest to the requesters' that is orthogonal to training on the rest.

Pan et al. 2025, *Federated Unlearning with Gradient Descent and Conflict Mitigation*, AAAI (arXiv
2412.20200): orthogonal steepest descent.

1. The requesters descend the unlearning cross-entropy, -ln(1 - p_y / 2), which is bounded where the ascent of
   the usual one is not.
2. All clients train on what they keep, from the same model, and send their updates; these do not join.
3. The server takes the requesters' joint step without its components along these updates, at its old length.
   These three are repeated.
4. Then all clients train on what they keep, and of each update the component along what the model has moved
   since 1. is removed, at its old length.

The paper takes the mean of the requesters, here they join as those of every method
(``unlearning.aggregation``). Its clients send gradients of one pass, here the differences of a few steps,
and 1. has the common stop rule. 4. is part of the baseline; the recovery of every method follows it.
"""

import numpy as np

from fedunlearn.config.baselines import FedOSDSettings
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import descend, unlearning_cross_entropy
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, retain_half


@forget_half(lambda settings: settings.fedosd)
def forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: FedOSDSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    original: EmotionModel | None,
) -> UnlearnResult:
    """Descend the unlearning cross-entropy."""
    examples = forget_set.examples
    return descend(model, examples, unlearning_cross_entropy(examples), settings.forget, rng, scalars)


def plan(settings: UnlearningSettings) -> Plan:
    """The first rounds unlearn, the others train."""
    return Plan(settings.fedosd.rounds, min(settings.fedosd.forget_rounds, settings.fedosd.rounds))


CARD = RoundsCard(
    name="fedosd",
    source="FedOSD, Pan et al. 2025 (arXiv 2412.20200)",
    plan=plan,
    retain=retain_half(lambda settings: settings.fedosd),
    forget=forget,
    orthogonal=True,
)
