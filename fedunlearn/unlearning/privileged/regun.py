"""ReGUn: answer the forget set as held-out speech of the same emotions is answered.

Mirlach, Vogt & Laguna 2026, *Reference-Guided Machine Unlearning* (arXiv 2603.11210).

1. The reference of a batch of forget utterances is the mean output of the original model on held-out
   utterances with the batch's distribution of labels.
2. Minimise the divergence from the reference to the model's output on the batch, and the loss of the retain
   sets.

The held-out utterances are more than the forget set, so that this is no ``contract.Method``. The requester
has some of its own: 1. uses these, all that have the label, weighted by the batch's labels, where the paper
draws as many as the batch has from a common held-out set. The model that is sent, the global one of the
round, takes the original's place. In 2. the requesters' half comes first, as in every baseline of rounds.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config.unlearning import ReGUnSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, unchanged
from fedunlearn.unlearning.descent import descend
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
    """Train towards the mean output on held-out speech of the same labels."""
    examples = forget_set.examples
    if len(held_out) == 0:
        return unchanged(model, "no held-out speech", examples)
    # 1. The reference of each label.
    reference = reference_of_labels(model, held_out)

    # 2. The divergence from it; the retain sets follow in the other half.
    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        target = reference[batch.labels]
        if settings.reference == "batch":
            target = target.mean(0).expand_as(target)
        output = working.classify(batch.features, batch.frames).log_softmax(1)
        return F.kl_div(output, target, reduction="batchmean")

    return descend(model, examples, loss, settings.forget, rng, scalars)


def reference_of_labels(model: EmotionModel, held_out: Examples) -> Tensor:
    """Return the model's mean output on held-out speech of each label, [C, C], rows sum to 1.

    Args:
        model: not changed.
        held_out: n >= 1 utterances. A label that none of them has gets the mean over all of them.
    """
    output = predict(copy.deepcopy(model), held_out).softmax(1)
    rows = [output[held_out.labels == label] for label in range(model.classes)]
    return torch.stack([(row if len(row) else output).mean(0) for row in rows])


CARD = RoundsCard(
    name="regun",
    source="ReGUn, Mirlach et al. 2026 (arXiv 2603.11210), with the requester's held-out speech",
    plan=lambda settings: Plan(settings.regun.rounds, settings.regun.rounds),
    retain=retain_half(lambda settings: settings.regun),
    forget=forget,
    held_out=True,
)
