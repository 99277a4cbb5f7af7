"""Control: the model as it came. A report that ranks it well does not measure forgetting."""

import copy

import numpy as np

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, forget_accuracy, method, unchanged


@method(
    "none",
    source="control: the model unchanged",
    settings=lambda chosen: chosen,
    control="leaves the model as it is",
)
def none(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Forget nothing."""
    accuracy = forget_accuracy(copy.deepcopy(model).eval(), forget_set.examples)
    return unchanged(model, "nothing to do", accuracy)
