"""Gradient ascent (NegGrad): raise the loss on the forget set.

Golatkar et al. 2020, *Eternal Sunshine of the Spotless Net* (arXiv 1911.04933), who call it negative
gradient; here on the forget set alone.

1. In each step, move the weights along the gradient that raises the cross-entropy to the true labels.
2. Stop by the common rule: the loss has no upper bound, and without a stop the model is destroyed.
"""

import numpy as np

from fedunlearn.config.unlearning import GradientAscentSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import ascent, descend


@method(
    "gradient-ascent",
    source="NegGrad, Golatkar et al. 2020 (arXiv 1911.04933)",
    settings=lambda chosen: chosen.gradient_ascent,
)
def gradient_ascent(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: GradientAscentSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Raise the loss on the true labels."""
    examples = forget_set.examples
    return descend(model, examples, ascent(examples), settings, rng, scalars)
