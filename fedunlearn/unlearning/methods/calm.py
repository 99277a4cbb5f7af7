"""CALM, calibrated adversarial log-odds matching: fine-tune towards what a retrained model would answer.

This project's own; docs/methods.md has the derivation and what was measured. It is the adversarial fine-tune
of Ren et al. 2025 with another target. With phi = ln p_y / (1 - p_y):

1. Predict phi* of the retrained model from smoothed models' phi, which have lost what was memorised, by
   mapping its distribution on training speech onto the model's on held-out speech (``predict_log_odds``).
2. The target of an utterance is the original's output with the true class at phi*, the other classes
   keeping their proportions. phi* -> -infinity is DELETE's target, phi* = phi the original's output.
3. Minimise the cross-entropy to the targets plus that to the original's output on adversarial samples of the
   forget set. It is lowest where the forget set is known as well as it should be: no stop at an accuracy.
"""

import numpy as np

from fedunlearn.config.unlearning import CalmSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.adversarial_fine_tune import adversarial_fine_tune
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method


@method(
    "calm",
    source="CALM, calibrated adversarial log-odds matching: our own, after Ren et al. 2025",
    settings=lambda chosen: chosen.calm,
    reads_log_odds=True,
    needs_waveform=lambda chosen: chosen.calm.reads_waveform,
)
def calm(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: CalmSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Relabel the forget set with predicted outputs and hold the model on adversarial samples of it."""
    return adversarial_fine_tune(model, forget_set, settings, rng, scalars)
