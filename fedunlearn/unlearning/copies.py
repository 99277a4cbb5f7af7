"""Samples made of the forget set on which a method keeps the model's output, and their numbers.

Sample j of utterance i is number i * k + j, k being the samples made of each utterance.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import add_noise
from fedunlearn.unlearning.descent import Loss


def noisy_copies(
    model: EmotionModel, examples: Examples, size: float, copies: int, rng: np.random.Generator
) -> Examples:
    """Copy n examples several times with Gaussian noise.

    With enough noise the copies lie among other people's speech, further out than adversarial samples do.

    Args:
        model: whose units (``unit_at``) the noise is measured in.
        examples: n utterances; padding frames stay zero.
        size: standard deviation of the noise.
        copies: of each example, >= 0.
        rng: draws the noise.
    """
    chosen = examples.take(torch.arange(len(examples)).repeat_interleave(copies))
    return add_noise(chosen, size * model.unit_at(chosen.features), rng) if copies else chosen


def sample_numbers(batch: Tensor, each: int) -> Tensor:
    """List the numbers of the samples made of a batch's utterances.

    Args:
        batch: int64 [b], numbers of utterances.
        each: samples made of one utterance, >= 0.

    Returns:
        int64 [b * each].
    """
    return (batch[:, None] * each + torch.arange(each)).flatten()


def weigh(forget_loss: Loss, keep_loss: Loss, each: int, keep: float | Literal["sizes"]) -> Loss:
    """Return w_f * forget loss + w_a * keep loss.

    Args:
        forget_loss: of a batch of utterances.
        keep_loss: of a batch of the samples made of them.
        each: samples made of one utterance; 0 = the forget loss alone.
        keep: w_a, w_f being 1; "sizes": w_f = n_f / (n_f + n_a) and w_a = n_a / (n_f + n_a), the sizes of a
            step's two batches.
    """
    if each == 0:
        return forget_loss

    def loss(model: EmotionModel, batch: Tensor) -> Tensor:
        mine = sample_numbers(batch, each)
        if keep != "sizes":
            return forget_loss(model, batch) + keep * keep_loss(model, mine)
        w_f = len(batch) / (len(batch) + len(mine))
        return w_f * forget_loss(model, batch) + (1.0 - w_f) * keep_loss(model, mine)

    return loss
