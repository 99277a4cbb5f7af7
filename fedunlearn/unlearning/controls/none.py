"""Control: the model as it came. A report that ranks it well does not measure forgetting."""

import numpy as np

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method, unchanged


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
    return unchanged(model, "nothing to do", forget_set.examples)
