"""Control: random weights. A report that ranks it well does not measure what is kept."""

import copy
import math

import numpy as np
import torch

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, forget_accuracy, method, snapshot


@method(
    "destroy",
    source="control: random weights",
    settings=lambda chosen: chosen,
    control="puts random weights in its place",
    guarded=False,
)
@torch.no_grad()
def destroy(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Forget everything: draw every trainable parameter again; buffers (Standardise) and frozen ones stay.

    Matrices and kernels are uniform in +-1 / sqrt(fan in), torch's own default for linear layers; vectors
    are 1 where they are the gain of a normalisation layer (named "weight"), else 0.
    """
    working = copy.deepcopy(model).eval()
    before = forget_accuracy(working, forget_set.examples)
    draw_anew(working, rng)
    after = forget_accuracy(working, forget_set.examples)
    return UnlearnResult(snapshot(working), steps=0, stopped="destroyed", forget_accuracy=(before, after))


@torch.no_grad()
def draw_anew(model: EmotionModel, rng: np.random.Generator) -> None:
    """Give a model, in place, random weights in all that is trained."""
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if weight.dim() >= 2:
            bound = 1.0 / math.sqrt(weight[0].numel())
            weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, size=tuple(weight.shape))))
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
