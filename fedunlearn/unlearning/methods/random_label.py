"""Random labels: the forget set is learned again with wrong labels.

Graves et al. 2021, *Amnesiac Machine Learning* (arXiv 2010.10981), without the retained data that they train
on beside it; the same as the first term of L2UL.

1. Every forget utterance gets a label drawn uniformly from the C - 1 wrong ones, once.
2. Fine-tune the model on the forget set with these labels.
"""

import numpy as np

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import MethodCard, ServerScalars, UnlearnResult, unchanged
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.targeted_attack import wrong_labels


def unlearn(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Learn one random wrong label for each utterance.

    Args:
        model: not changed.
        forget_set: n utterances; n = 0 returns the model as it came, ``stopped="empty forget set"``.
        settings: ``settings.random_label`` is read.
        rng: wrong labels, then the order of the batches.
        scalars: ``test_accuracy`` is read by stop = "level".

    Raises:
        UnlearnFailed: the loss or the output is not finite; the message names the step.
    """
    if len(forget_set) == 0:
        return unchanged(model, "empty forget set")
    examples = forget_set.examples
    # 1. A wrong label for each.
    new_labels = wrong_labels(examples.labels, model.classes, rng)
    # 2. Fine-tune.
    loss = cross_entropy_to(examples, new_labels)
    return descend(model, examples, loss, settings.random_label, rng, scalars)


CARD = MethodCard(
    name="random-label",
    sees="forget",
    source="Graves et al. 2021 (arXiv 2010.10981), without retain data",
    unlearn=unlearn,
)
