"""Boundary Shrink: the nearest other class takes the forget set over.

Chen et al. 2023, *Boundary Unlearning*, CVPR (arXiv 2303.11570), on the forget set alone, as in the
paper.

1. Take one FGSM step from each forget utterance, on the frozen original, away from its label.
2. Its new label is the most probable wrong class at the attacked point. Where the step crosses the
   boundary that is the paper's label, the prediction there; where it does not, the prediction is the true
   label, and training on that, as the authors' code does, would not forget.
3. Fine-tune the model on the unchanged utterances with the new labels.

The step is taken in the model's features, not in the waveform.
"""

import copy
from dataclasses import replace

import numpy as np
import torch

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import MethodCard, ServerScalars, UnlearnResult, unchanged
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.untargeted_attack import fgsm


def unlearn(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Learn for each utterance the wrong class that is nearest.

    Args:
        model: not changed.
        forget_set: n utterances; n = 0 returns the model as it came, ``stopped="empty forget set"``.
        settings: ``settings.boundary_shrink`` is read.
        rng: the order of the batches.
        scalars: ``test_accuracy`` is read by stop = "level".

    Returns:
        ``attack_success`` is the share of steps that cross the boundary.

    Raises:
        UnlearnFailed: the loss or the output is not finite; the message names the step.
    """
    chosen, examples = settings.boundary_shrink, forget_set.examples
    if len(forget_set) == 0:
        return unchanged(model, "empty forget set")
    # 1. One step away from the true labels.
    attacked = fgsm(model, examples, chosen.eps)
    # 2. The most probable wrong class there.
    logits = predict(copy.deepcopy(model), Examples(attacked, examples.frames, examples.labels))
    crossed = (logits.argmax(1) != examples.labels).double().mean().item()
    nearest = logits.scatter(1, examples.labels[:, None], -torch.inf).argmax(1)
    # 3. Fine-tune.
    result = descend(model, examples, cross_entropy_to(examples, nearest), chosen, rng, scalars)
    return replace(result, adversarial=len(examples), attack_success=crossed)


CARD = MethodCard(
    name="boundary-shrink",
    sees="forget",
    source="Boundary Shrink, Chen et al. 2023 (arXiv 2303.11570)",
    unlearn=unlearn,
)
