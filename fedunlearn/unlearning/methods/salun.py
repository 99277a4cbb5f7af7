"""SalUn: random labels, but only the weights with large gradients on the forget set move.

Fan et al. 2024, *SalUn*, ICLR (arXiv 2310.12508), without the retained data that the paper also trains on
(its alpha = 0).

1. The saliency of each weight is |d l_f / d theta| at the original, l_f the mean loss of the forget set on
   its true labels (the sign that the paper gives it does not matter here).
2. The mask m_S is 1 where the saliency is at least gamma, its median over all weights (eq. 3).
3. Every forget utterance gets a random wrong label, here once (the authors' code draws every epoch anew).
4. Fine-tune on these labels, moving the weights in m_S only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fedunlearn.config.unlearning import SalUnSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.importance import saliency_mask
from fedunlearn.unlearning.targeted_attack import wrong_labels


@method(
    "salun",
    source="SalUn, Fan et al. 2024 (arXiv 2310.12508), without retain data",
    settings=lambda chosen: chosen.salun,
)
def salun(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: SalUnSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Train on random wrong labels; the note "salient" is the share of trainable weights that may move."""
    examples = forget_set.examples
    # 1. and 2. The mask.
    mask = saliency_mask(model, examples, settings.threshold)
    # 3. A wrong label for each.
    new_labels = wrong_labels(examples.labels, model.classes, rng)

    # 4. Fine-tune what is salient.
    def masked(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        return [gradient * moves for gradient, moves in zip(gradients, mask, strict=True)]

    loss = cross_entropy_to(examples, new_labels)
    result = descend(model, examples, loss, settings, rng, scalars, shape=masked)
    salient = sum(int(moves.sum()) for moves in mask) / sum(moves.numel() for moves in mask)
    return replace(result, notes={**result.notes, "salient": salient})
