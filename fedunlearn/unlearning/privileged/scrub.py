"""SCRUB: a student follows the original on the retain sets and departs from it on the forget sets.

Kurmanji et al. 2023, *Towards Unbounded Machine Unlearning* (arXiv 2302.09880). With the distance
d(x) = KL(p(x; original) || p(x; model)) the paper alternates
1. max-steps, in the first rounds only: raise the mean of d over the forget set;
2. min-steps: lower alpha * mean d + gamma * mean CE over the retain set.

Here 1. are the requesters', 2. every client's; docs/methods.md says how they join and when 1. stops.
"""

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.baselines import SCRUBSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import LossFunction, descend_cross_entropy
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.descent import descend, distance_from, divergence
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, forget_half, retain_half


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
    distance = distance_from(original, forget_set.examples, divergence)
    return descend(model, forget_set.examples, lambda *step: -distance(*step), settings.forget, rng, scalars)


def min_step(settings: SCRUBSettings, teacher: EmotionModel) -> LossFunction:
    """Min-steps: close to the original, and correct. With alpha = 0 and gamma = 1 there is no teacher."""
    if settings.alpha == 0 and settings.gamma == 1:
        return descend_cross_entropy  # whose gradients some models write out: the bits of fine-tuning

    def loss(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher.classify(batch.features, batch.frames)
        return settings.alpha * divergence(taught, logits) + settings.gamma * cross_entropy

    return loss


CARD = RoundsCard(
    name="scrub",
    source="SCRUB, Kurmanji et al. 2023 (arXiv 2302.09880)",
    plan=lambda settings: Plan(settings.scrub.rounds, settings.scrub.max_rounds),
    retain=retain_half(lambda settings: settings.scrub, min_step),
    forget=forget,
    teacher="original",
)
