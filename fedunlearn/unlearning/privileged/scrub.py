"""SCRUB: a student follows the original on the retain sets and departs from it on the forget sets.

Kurmanji et al. 2023, *Towards Unbounded Machine Unlearning* (arXiv 2302.09880). With the distance
d(x) = KL(p(x; original) || p(x; model)) the paper alternates

1. max-steps, in the first rounds only: raise the mean of d over the forget set;
2. min-steps: lower alpha * mean d + gamma * mean CE over the retain set.

Here 1. are the requesters', whose updates join as those of every method (``unlearning.aggregation``), and
2. every client's, joined by their mean by utterances. At the original itself d is at its minimum and its
gradient is zero, so that the max-steps of a first round move only as far as rounding lets them. They have
the common stop rule; the paper's own remedy against going too far is to rewind to the round whose forget
error is that of held-out data (SCRUB+R), which is what stop = "level" stops at.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.config.unlearning import SCRUBSettings, UnlearningSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import descend
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, train_on_kept


def plan(settings: UnlearningSettings) -> Plan:
    """Max-steps in the first ``max_rounds`` rounds, min-steps in all."""
    return Plan(settings.scrub.rounds, settings.scrub.max_rounds)


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean KL(p_teacher || p_student) in nats, a scalar >= 0, of logits [b, C] each."""
    return F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )


@forget_half(lambda settings: settings.scrub)
def forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: SCRUBSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    original: EmotionModel | None,
) -> UnlearnResult:
    """Max-steps: away from the original's output on the forget set."""
    assert original is not None
    examples = forget_set.examples
    taught = predict(original, examples).clone()

    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        return -distance(taught[index], working.classify(batch.features, batch.frames))

    return descend(model, examples, loss, settings.forget, rng, scalars)


def retain(
    model: EmotionModel,
    retain_set: Examples,
    settings: UnlearningSettings,
    local: LocalSettings,
    rng: np.random.Generator,
    original: EmotionModel | None,
) -> float:
    """Min-steps: close to the original, and correct. With alpha = 0 the teacher is not evaluated."""
    assert original is not None
    chosen, teacher = settings.scrub, copy.deepcopy(original).eval()

    def objective(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
        if not chosen.alpha:
            return chosen.gamma * cross_entropy
        with torch.no_grad():
            taught = teacher.classify(batch.features, batch.frames)
        return chosen.alpha * distance(taught, logits) + chosen.gamma * cross_entropy

    return train_on_kept(model, retain_set, chosen, local, rng, objective)


CARD = RoundsCard(
    name="scrub",
    source="SCRUB, Kurmanji et al. 2023 (arXiv 2302.09880)",
    plan=plan,
    retain=retain,
    forget=forget,
    teacher=True,
)
