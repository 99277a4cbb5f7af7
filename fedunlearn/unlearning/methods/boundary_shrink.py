"""Boundary Shrink: relabel the forget set with the nearest wrong class.

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

from fedunlearn.config.unlearning import BoundaryShrinkSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.untargeted_attack import fgsm


@method(
    "boundary-shrink",
    source="Boundary Shrink, Chen et al. 2023 (arXiv 2303.11570)",
    settings=lambda chosen: chosen.boundary_shrink,
)
def boundary_shrink(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: BoundaryShrinkSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Train each utterance towards the nearest wrong class.

    Returns:
        ``attack_success`` is the share of steps that cross the boundary.
    """
    examples = forget_set.examples
    # 1. One step away from the true labels.
    attacked = fgsm(model, examples, settings.eps)
    # 2. The most probable wrong class there.
    logits = predict(copy.deepcopy(model), Examples(attacked, examples.frames, examples.labels))
    crossed = (logits.argmax(1) != examples.labels).double().mean().item()
    nearest = logits.scatter(1, examples.labels[:, None], -torch.inf).argmax(1)
    # 3. Fine-tune.
    result = descend(model, examples, cross_entropy_to(examples, nearest), settings, rng, scalars)
    return replace(result, adversarial=len(examples), attack_success=crossed)
