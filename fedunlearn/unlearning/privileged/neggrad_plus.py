"""NegGrad+: down the loss of the retain sets and up that of the forget set.

Kurmanji et al. 2023, *Towards Unbounded Machine Unlearning* (arXiv 2302.09880), descend

    alpha * CE(retain) - (1 - alpha) * CE(forget).

In a federation the two terms lie on different devices: a requester may keep nothing, and a mean over all
clients would leave next to nothing of what one says. So the server weighs them. In each round

1. the requesters ascend the loss of their forget sets; their updates join as those of every method
   (``unlearning.aggregation``), and the server goes 1 - alpha of the way;
2. all clients train on what they keep, and the server goes alpha of the way along their mean by utterances.

To first order in the learning rate that is a step down the paper's loss. The ascent has the common stop
rule: the cross-entropy has no upper end, and without one a few more steps leave nothing of the model.
"""

import numpy as np

from fedunlearn.config.baselines import NegGradPlusSettings
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import ascent, descend
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, retain_half


def plan(settings: UnlearningSettings) -> Plan:
    """Both halves in every round; alpha = 1 has no forget half, alpha = 0 no retain half."""
    chosen = settings.neggrad_plus
    ascents = chosen.rounds if chosen.alpha < 1 else 0
    return Plan(chosen.rounds, ascents, forget_share=1 - chosen.alpha, retain_share=chosen.alpha)


@forget_half(lambda settings: settings.neggrad_plus)
def forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: NegGradPlusSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    original: EmotionModel | None,
) -> UnlearnResult:
    """Raise the loss on the true labels, as "gradient-ascent"."""
    examples = forget_set.examples
    return descend(model, examples, ascent(examples), settings.forget, rng, scalars)


CARD = RoundsCard(
    name="neggrad-plus",
    source="NegGrad+, Kurmanji et al. 2023 (arXiv 2302.09880), its two terms weighed by the server",
    plan=plan,
    retain=retain_half(lambda settings: settings.neggrad_plus),
    forget=forget,
)
