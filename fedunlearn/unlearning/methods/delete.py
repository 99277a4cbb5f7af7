"""DELETE: distil the original's output on the forget set with the true class left out.

Zhou et al. 2025, *Decoupled Distillation to Erase*, CVPR (arXiv 2503.23751), on the forget set alone, as in
the paper.

1. The target of each forget utterance is the frozen original's softmax with the true class's logit set to
   minus infinity: the wrong classes keep their proportions and share the whole.
2. Minimise the Kullback-Leibler divergence from it to the model's full softmax, summed over classes and
   averaged over utterances. That decouples into forgetting (no probability for the true class) and
   retention (the proportions of the others).
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config.unlearning import DeleteSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import descend
from fedunlearn.unlearning.log_odds import without_true_class


@method("delete", source="DELETE, Zhou et al. 2025 (arXiv 2503.23751)", settings=lambda chosen: chosen.delete)
def delete(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: DeleteSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Train towards the original's output without the true class."""
    examples = forget_set.examples
    # 1. The original's output without the true class.
    target = without_true_class(model, examples)

    # 2. Distil it.
    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        output = working.classify(batch.features, batch.frames).log_softmax(1)
        return F.kl_div(output, target[index], reduction="batchmean")

    return descend(model, examples, loss, settings, rng, scalars)
