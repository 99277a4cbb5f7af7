"""How a model answers speech of each label on average."""

import copy

import torch
from torch import Tensor

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict


def mean_outputs(model: EmotionModel, held_out: Examples) -> Tensor:
    """Return the model's mean output on speech of each label, [C, C], rows sum to 1.

    Args:
        model: not changed.
        held_out: n >= 1 utterances. A label that none of them has gets the mean over all of them.
    """
    output = predict(copy.deepcopy(model), held_out).softmax(1)
    rows = [output[held_out.labels == label] for label in range(model.classes)]
    return torch.stack([(row if len(row) else output).mean(0) for row in rows])
