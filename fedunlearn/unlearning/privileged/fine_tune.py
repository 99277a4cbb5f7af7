"""Fine-tuning on the retain sets: ordinary local training without the forget sets.

The plainest upper reference (Golatkar et al. 2020, arXiv 1911.04933, compare with it): it forgets only what
training on the rest happens to overwrite. With few rounds it is the recovery that follows every method.
"""

import numpy as np

from fedunlearn.config import LocalSettings
from fedunlearn.config.unlearning import FineTuneSettings, UnlearningSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import Objective, descend_cross_entropy, train
from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard


def train_on_kept(
    model: EmotionModel,
    retain_set: Examples,
    chosen: FineTuneSettings,
    local: LocalSettings,
    rng: np.random.Generator,
    objective: Objective = descend_cross_entropy,
) -> float:
    """``training.train`` with a reference's own epochs and learning rate; the mean loss of the last epoch."""
    shorter = local.model_copy(update={"epochs": chosen.epochs})
    return train(model, retain_set, shorter, chosen.lr, rng, objective)


def retain(
    model: EmotionModel,
    retain_set: Examples,
    settings: UnlearningSettings,
    local: LocalSettings,
    rng: np.random.Generator,
    original: EmotionModel | None,
) -> float:
    """Train on what is kept. ``settings.fine_tune`` is read."""
    return train_on_kept(model, retain_set, settings.fine_tune, local, rng)


CARD = RoundsCard(
    name="fine-tune",
    source="fine-tuning on retained data, as in Golatkar et al. 2020 (arXiv 1911.04933)",
    plan=lambda settings: Plan(settings.fine_tune.rounds),
    retain=retain,
)
