"""Control: the model as it came. A report that ranks it well does not measure forgetting."""

import copy

import numpy as np

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import (
    MethodCard,
    ServerScalars,
    UnlearnResult,
    forget_accuracy,
    unchanged,
)


def unlearn(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Forget nothing.

    Raises:
        UnlearnFailed: the model's output on the forget set is not finite.
    """
    if len(forget_set) == 0:
        return unchanged(model, "empty forget set")
    accuracy = forget_accuracy(copy.deepcopy(model).eval(), forget_set.examples)
    return unchanged(model, "nothing to do", accuracy)


CARD = MethodCard(name="none", sees="forget", source="control: the model unchanged", unlearn=unlearn)
