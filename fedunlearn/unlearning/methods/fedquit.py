"""FedQUIT: distil a virtual teacher, the global model with the true class made improbable.

Mora et al. 2024, *FedQUIT: On-Device Federated Unlearning via a Quasi-Competent Virtual Teacher* (arXiv
2408.07587), on the requester's device and on the forget set alone, as in the paper.

1. The teacher's output on a forget utterance is the global model's with one logit changed, that of the true
   class: to the lowest of all, to the value that makes the output least certain, or to a number. The other
   classes keep their proportions.
2. Minimise the Kullback-Leibler divergence from it to the model's output.

The paper trains for as long as in an ordinary round; here the common rule says when to stop.
"""

import copy

import numpy as np
from torch import Tensor

from fedunlearn.config.unlearning import FedQUITSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import descend, divergence
from fedunlearn.unlearning.log_odds import virtual_teacher


@method(
    "fedquit",
    source="FedQUIT, Mora et al. 2024 (arXiv 2408.07587)",
    settings=lambda chosen: chosen.fedquit,
)
def fedquit(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: FedQUITSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Train towards the original's output with the true class made improbable."""
    examples = forget_set.examples
    # 1. The virtual teacher.
    teacher = virtual_teacher(predict(copy.deepcopy(model), examples), examples.labels, settings.true_logit)

    # 2. Distil it.
    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        return divergence(teacher[index], working.classify(batch.features, batch.frames))

    return descend(model, examples, loss, settings, rng, scalars)
