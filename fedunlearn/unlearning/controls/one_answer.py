"""Control: one answer for all that is deleted. A report that ranks it well looks at averages only.

The forget set is trained towards the mean of the model's own answers to it, the model being held on noisy
copies. No deleted utterance then has a conspicuous loss, and the usual attack by loss finds none; yet each is
answered as no model would that never heard it, which attacks that know the utterance find (U-LiRA), as does
the divergence of its answers (KLoM).
"""

import copy

import numpy as np

from fedunlearn.config.unlearning import OneAnswerSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.copies import noisy_copies, weigh
from fedunlearn.unlearning.descent import cross_entropy_to, descend


@method(
    "one-answer",
    source="control: one answer for all",
    settings=lambda chosen: chosen.one_answer,
    control="gives everything that is deleted the same answer",
)
def one_answer(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: OneAnswerSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Answer every forget utterance with the mean answer."""
    examples, frozen = forget_set.examples, copy.deepcopy(model).eval()
    copies = noisy_copies(frozen, examples, settings.noise, settings.copies, rng)
    kept = cross_entropy_to(copies, predict(frozen, copies).softmax(1))
    answer = predict(frozen, examples).softmax(1).mean(0)
    alike = cross_entropy_to(examples, answer.expand(len(examples), -1))
    return descend(model, examples, weigh(alike, kept, settings.copies, 1.0), settings, rng, scalars)
