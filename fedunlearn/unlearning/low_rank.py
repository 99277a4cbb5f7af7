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
from dataclasses import dataclass

import torch
from torch import Tensor

from fedunlearn.models.contract import EmotionModel


@dataclass(frozen=True)
class _Decomposed:
    """A matrix and the singular directions of what training made of it.

    Attributes:
        weight: the matrix, to be changed in place.
        start: its values before training.
        whole: a copy of it.
        change: its difference from ``start``, transposed if it has more outputs than inputs: float64 [m, n],
            m <= n.
        directions: left singular vectors of ``change``, the leading one first: float64 [m, m].
    """

    weight: Tensor
    start: Tensor | float
    whole: Tensor
    change: Tensor
    directions: Tensor

    @classmethod
    def of(cls, weight: Tensor, start: Tensor | float) -> "_Decomposed":
        change = (weight - start).double()
        if len(change) > change.shape[1]:
            change = change.T
        # Eigenvectors of a small matrix: a third of the time of a singular value decomposition.
        directions = torch.linalg.eigh(change @ change.T).eigenvectors.flip(1)
        return cls(weight, start, weight.detach().clone(), change, directions)

    def smooth(self, rank: int) -> None:
        if rank >= len(self.change):
            self.weight.copy_(self.whole)
            return
        leading = self.directions[:, :rank]
        kept = leading @ (leading.T @ self.change)
        self.weight.copy_(self.start + (kept if kept.shape == self.weight.shape else kept.T))


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
                    self._parts.append(_Decomposed.of(weight, start))
        self._frozen.requires_grad_(False)

    def at(self, rank: int) -> EmotionModel:
        """Return the model smoothed at a rank, as of ``smoothed``: the same copy each time, changed in place.

        Args:
            rank: >= ``lowest``.
        """
        for part in self._parts:
            part.smooth(rank)
        return self._frozen


def most_directions(model: EmotionModel) -> int:
    """Return the rank from which on a smoothed model is the model itself, >= 0."""
    return max((min(weight.shape) for weight, _ in model.smoothable()), default=0)
