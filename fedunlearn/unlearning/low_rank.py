"""Low-rank smoothing: a model whose weight matrices keep only their leading singular directions.

Training stores what many utterances share in the leading singular directions of a weight matrix, and
what distinguishes a single one from its neighbours in the long tail. Without the tail a model recognises
unseen speech nearly as well as before, but no longer every utterance that it was trained on
(RAVDESS, functionals, first layer cut to 12 of 128 directions: held-out accuracy .60 of .62, training
accuracy .89 of 1.00). So the smoothed model's output on a training utterance predicts that of a model that
was never trained on it. Compressed networks fail on atypical training examples first: Hooker et
al. 2019 (arXiv 1911.05248); memorised examples are these: Feldman & Zhang 2020 (arXiv 2008.03703).
"""

import copy

import torch
from torch import Tensor

from fedunlearn.models.contract import EmotionModel

_Decomposed = tuple[Tensor, Tensor | float, Tensor, Tensor, Tensor, Tensor]
"""a matrix, its values before training, a copy of it, and U, S and V^T of its difference from them"""


def smoothed(model: EmotionModel, rank: int) -> EmotionModel:
    """Return a frozen copy, in eval mode, whose dense layers keep their ``rank`` leading singular directions.

    Trainable matrices [outputs, inputs] are smoothed; biases, gains and the kernels of convolutions stay as
    they are, and so does a matrix that has no more than ``rank`` directions. Of a pre-trained encoder it is
    the difference from the checkpoint that is smoothed (``EmotionModel.smoothable``).

    Args:
        model: not changed.
        rank: >= 1; large enough, it is the model itself.
    """
    return Smoothing(model, rank).at(rank)


class Smoothing:
    """A model whose matrices are decomposed once, to be smoothed at several ranks.

    Args:
        model: not changed.
        lowest: >= 1, the smallest of these ranks.
    """

    def __init__(self, model: EmotionModel, lowest: int) -> None:
        self._frozen, self._parts = copy.deepcopy(model).eval(), list[_Decomposed]()
        with torch.no_grad():
            for weight, start in self._frozen.smoothable():
                if min(weight.shape) > lowest:
                    decomposed = torch.linalg.svd(weight - start, full_matrices=False)
                    self._parts.append((weight, start, weight.detach().clone(), *decomposed))
        self._frozen.requires_grad_(False)

    def at(self, rank: int) -> EmotionModel:
        """Return the model smoothed at a rank, as of ``smoothed``: the same copy each time, changed in place.

        Args:
            rank: >= ``lowest``.
        """
        for weight, start, whole, left, sizes, right in self._parts:
            if len(sizes) > rank:
                weight.copy_(start + torch.mm(left[:, :rank] * sizes[:rank], right[:rank]))
            else:
                weight.copy_(whole)
        return self._frozen


def most_directions(model: EmotionModel) -> int:
    """Return the rank from which on a smoothed model is the model itself, >= 0."""
    return max((min(weight.shape) for weight, _ in model.smoothable()), default=0)
