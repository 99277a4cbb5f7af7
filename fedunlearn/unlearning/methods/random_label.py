"""Random labels: train on the forget set with wrong labels.

Graves et al. 2021, *Amnesiac Machine Learning* (arXiv 2010.10981), without the retained data that they train
on as well; this is the first term of L2UL.

1. Every forget utterance gets a label drawn uniformly from the C - 1 wrong ones, once.
2. Fine-tune the model on the forget set with these labels.
"""

import numpy as np

from fedunlearn.config.unlearning import RandomLabelSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.targeted_attack import wrong_labels


@method(
    "random-label",
    source="Graves et al. 2021 (arXiv 2010.10981), without retain data",
    settings=lambda chosen: chosen.random_label,
)
def random_label(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: RandomLabelSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Learn one random wrong label for each utterance; it is drawn before the order of the batches."""
    examples = forget_set.examples
    # 1. A wrong label for each.
    new_labels = wrong_labels(examples.labels, model.classes, rng)
    # 2. Fine-tune.
    loss = cross_entropy_to(examples, new_labels)
    return descend(model, examples, loss, settings, rng, scalars)
