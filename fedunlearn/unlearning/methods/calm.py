"""CALM, calibrated log-odds matching: match the output of a model that never trained on the forget set.

This project's own; docs/methods.md has the derivation and what was measured. With phi = ln p_y / (1 - p_y):

1. Predict phi* of the retrained model from the low-rank model's phi, which has lost what was memorised, by
   mapping its distribution on training speech onto the model's on held-out speech (``predict_log_odds``).
2. The target of an utterance is the original's output with the true class at phi*, the other classes
   keeping their proportions. phi* -> -infinity is DELETE's target, phi* = phi the original's output.
3. Minimise the cross-entropy to the targets plus that to the original's output on noisy copies of the
   forget set. It is lowest where the forget set is known as well as it should be: no stop at an accuracy.
"""

import copy
from dataclasses import replace

import numpy as np
from torch import Tensor

from fedunlearn.config.unlearning import CalmSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.copies import noisy_copies, sample_numbers
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.log_odds import predict_log_odds, with_log_odds


@method(
    "calm",
    source="CALM, calibrated log-odds matching: our own; no paper",
    settings=lambda chosen: chosen.calm,
    reads_log_odds=True,
)
def calm(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: CalmSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Relabel the forget set with predicted outputs and preserve the model on noisy copies of it."""
    examples, frozen = forget_set.examples, copy.deepcopy(model).eval()
    wanted, read = predict_log_odds(frozen, examples, settings, scalars)
    target = with_log_odds(predict(frozen, examples).clone(), examples.labels, wanted)
    copies = noisy_copies(model, examples, settings.noise, settings.copies, rng)
    forget_loss = cross_entropy_to(examples, target)
    keep_loss = cross_entropy_to(copies, predict(frozen, copies).softmax(1))

    def loss(working: EmotionModel, batch: Tensor) -> Tensor:
        total = forget_loss(working, batch)
        if settings.copies:
            total = total + settings.keep * keep_loss(working, sample_numbers(batch, settings.copies))
        return total

    result = descend(model, examples, loss, settings, rng, scalars)
    notes = {**result.notes, "predicted_accuracy": float((wanted > 0).double().mean())}
    return replace(result, scalars_read=tuple(dict.fromkeys((*result.scalars_read, *read))), notes=notes)
