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
from collections.abc import Iterable, Iterator

import torch

from fedunlearn.models.contract import EmotionModel


def smoothed(model: EmotionModel, rank: int) -> EmotionModel:
    """Return a frozen copy, in eval mode, whose dense layers keep their ``rank`` leading singular directions.

    Trainable matrices [outputs, inputs] are smoothed; biases, gains and the kernels of convolutions stay as
    they are, and so does a matrix that has no more than ``rank`` directions. Of a pre-trained encoder it is
    the difference from the checkpoint that is smoothed (``EmotionModel.smoothable``).

    Args:
        model: not changed.
        rank: >= 1; large enough, it is the model itself.
    """
    return next(smoothed_at(model, (rank,)))


def smoothed_at(model: EmotionModel, ranks: Iterable[int]) -> Iterator[EmotionModel]:
    """Yield a model smoothed at each of some ranks, whose matrices are decomposed once.

    Args:
        model: not changed.
        ranks: each >= 1.

    Yields:
        As of ``smoothed``: the same copy each time, changed in place.
    """
    frozen, ranks = copy.deepcopy(model).eval(), tuple(ranks)
    with torch.no_grad():
        parts = []
        for weight, start in frozen.smoothable():
            if min(weight.shape) <= min(ranks):
                continue
            left, sizes, right = torch.linalg.svd(weight - start, full_matrices=False)
            parts.append((weight, start, weight.detach().clone(), left, sizes, right))
    frozen.requires_grad_(False)
    for rank in ranks:
        for weight, start, whole, left, sizes, right in parts:
            if len(sizes) > rank:
                weight.copy_(start + torch.mm(left[:, :rank] * sizes[:rank], right[:rank]))
            else:
                weight.copy_(whole)
        yield frozen


def most_directions(model: EmotionModel) -> int:
    """Return the rank from which on a smoothed model is the model itself, >= 0."""
    return max((min(weight.shape) for weight, _ in model.smoothable()), default=0)
