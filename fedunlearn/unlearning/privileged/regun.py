"""ReGUn: answer the forget set as held-out speech of the same emotions is answered.

Mirlach, Vogt & Laguna 2026, *Reference-Guided Machine Unlearning* (arXiv 2603.11210).

1. The reference of a batch of forget utterances is the original model's mean output on held-out ones with
   the batch's distribution of labels.
2. Minimise the divergence from it to the model's output on the batch, and the loss of the retain sets.

Held-out utterances are more than the forget set, so that this is no ``contract.Method``. 1. uses all of the
requester's own, weighted by the batch's labels, where the paper draws some of a common set; and the global
model of the round in the original's place.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config.baselines import ReGUnSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, unchanged
from fedunlearn.unlearning.descent import descend
from fedunlearn.unlearning.label_means import mean_outputs
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, retain_half


@forget_half(lambda settings: settings.regun)
def forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: ReGUnSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    held_out: Examples,
) -> UnlearnResult:
    """Train towards the mean output on held-out speech of the same labels (1. and 2.)."""
    examples = forget_set.examples
    if len(held_out) == 0:
        return unchanged(model, "no held-out speech", examples)
    reference = mean_outputs(model, held_out)

    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        target = reference[batch.labels]
        if settings.reference == "batch":
            target = target.mean(0).expand_as(target)
        output = working.classify(batch.features, batch.frames).log_softmax(1)
        return F.kl_div(output, target, reduction="batchmean")

    return descend(model, examples, loss, settings.forget, rng, scalars)


CARD = RoundsCard(
    name="regun",
    source="ReGUn, Mirlach et al. 2026 (arXiv 2603.11210), with the requester's held-out speech",
    plan=lambda settings: Plan(settings.regun.rounds, settings.regun.rounds),
    retain=retain_half(lambda settings: settings.regun),
    forget=forget,
    held_out=True,
)
