"""Retract: take back what training on the forget set has contributed to the model.

This project's own; docs/methods.md has the derivation and what was measured. Amnesiac unlearning (Graves et
al. 2021, arXiv 2010.10981) stores whole updates and subtracts those with deleted data; here each device
stores, beside each of its utterances, the utterance's own part in its updates, and lets it fade. Let c_r be
the part of the forget set in the step of the global model in round r. A model that never heard it departs
from the global model by

    e_r = (1 - f_r) (e_(r-1) - c_r),  e_0 = 0,

if training on everything else pulls it back at rate f_r, as it does with any departure. The tickets of the
forget set add up to e. Recovery rounds on the data that stays correct what one rate for all directions gets
wrong.
"""

import copy

import numpy as np
import torch

from fedunlearn.config.unlearning import RetractSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel, trained_tensors
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, forget_accuracy, method, snapshot


@method(
    "retract",
    source="retract, parts in learning taken back: our own, after Graves et al. 2021",
    settings=lambda chosen: chosen.retract,
    sees="forget + ticket",
)
def retract(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: RetractSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Add to the weights what learning the forget set has taken from them."""
    assert forget_set.tickets is not None
    working = copy.deepcopy(model).eval()
    before = forget_accuracy(working, forget_set.examples)
    taken = working.contribution(forget_set.examples, forget_set.tickets)
    with torch.no_grad():
        for name, weight in trained_tensors(working).items():
            weight.add_(taken[name], alpha=settings.strength)
    after = forget_accuracy(working, forget_set.examples)
    return UnlearnResult(snapshot(working), steps=0, stopped="taken back", forget_accuracy=(before, after))
