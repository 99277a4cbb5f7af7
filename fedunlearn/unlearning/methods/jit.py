"""JiT: make the model flat around the forget set.

Foster et al. 2024, *Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization* (arXiv 2402.01401),
on the forget set alone, as in the paper.

1. Copy each forget utterance x several times with Gaussian noise e.
2. Minimise the mean of |f(x) - f(x + e)| / |e|, an estimate of the local Lipschitz constant; f is the logits.

The paper goes through the forget set once; here the number of steps and the stop are those of every method,
and each step draws its noise anew. Noise and distances are in standard deviations of the model's features.
"""

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.unlearning import JiTSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.copies import noisy_copies
from fedunlearn.unlearning.descent import descend


@method(
    "jit",
    source="JiT, Foster et al. 2024 (arXiv 2402.01401)",
    settings=lambda chosen: chosen.jit,
)
def jit(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: JiTSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Lower the change of the output between each utterance and its noisy copies."""
    examples = forget_set.examples
    (noise,) = rng.spawn(1)

    def loss(working: EmotionModel, index: Tensor) -> Tensor:
        # 1. Noisy copies.
        batch = examples.take(index)
        copies = noisy_copies(working, batch, settings.noise, settings.copies, noise)
        each = torch.arange(len(batch)).repeat_interleave(settings.copies)
        moved = (copies.features - batch.features[each]) / working.unit_at(copies.features).clamp(min=1e-12)
        # 2. How much the output changes with them.
        output = working.classify(batch.features, batch.frames)[each]
        changed = torch.linalg.vector_norm(output - working.classify(copies.features, copies.frames), dim=1)
        slope: Tensor = changed / torch.linalg.vector_norm(moved.flatten(1), dim=1).clamp(min=1e-12)
        return slope.mean()

    return descend(model, examples, loss, settings, rng, scalars)
