"""Log-odds of the true class, phi = ln p_y / (1 - p_y): measured, predicted, and put into an output."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.low_rank import Smoothing, most_directions

RANKS = (1, 2, 4, 8)
"""Ranks of the smoothed models, as multiples of the number of emotions.

With fewer directions than emotions a model confuses some of them; with many it remembers single utterances.
Variance of retrained models' log-odds explained, by one rank (12) and by these four: RAVDESS .84 and .85,
nEMO .69 and .74 (whole clients .50 and .56), generated speech .86 and .88.
"""


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ln(p_y / (1 - p_y)) of the true class: logits [n, C], labels int64 [n] -> [n].

    It is > 0 where p_y > 1/2.

    Raises:
        ValueError: fewer than two classes.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"log-odds need at least 2 classes (got {logits.shape[1]})")
    truth = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(truth, -torch.inf).logsumexp(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def log_odds_of(model: EmotionModel, examples: Examples) -> Tensor:
    """Return the log-odds that a model gives the true class of n examples: float64 [n]."""
    return log_odds(predict(model, examples), examples.labels).double()


def smoothed_log_odds(model: EmotionModel, examples: Examples) -> Tensor:
    """Return the log-odds of the true class of n examples as smoothed models give them: float64 [n].

    The mean over models of ``RANKS`` times as many directions as there are emotions. It foretells a model
    that never trained on the examples better than any one of these models, and no rank has to be chosen.
    """
    return measure_smoothed(model)(examples)


def measure_smoothed(model: EmotionModel) -> Callable[[Examples], Tensor]:
    """Return a function that computes ``smoothed_log_odds`` of examples; the model is smoothed once for all.

    Args:
        model: not changed.
    """
    whole = max(1, most_directions(model))
    ranks = [min(times * model.classes, whole) for times in RANKS]
    smoothing = Smoothing(model, min(ranks))

    def measure(examples: Examples) -> Tensor:
        found = {rank: log_odds_of(smoothing.at(rank), examples) for rank in sorted(set(ranks))}
        return torch.stack([found[rank] for rank in ranks]).mean(0)

    return measure


def predict_log_odds(
    model: EmotionModel, forget_set: ForgetSet, scalars: ServerScalars
) -> tuple[Tensor, tuple[str, ...]]:
    """Predict the log-odds of the true classes under a model that never trained on these examples (CALM).

    Let m and s be mean and standard deviation of ``smoothed_log_odds`` on all clients' training speech, m'
    and s' those of the model's log-odds on their held-out speech, and q the share of its speech that the
    requester deletes. Held-out speech is of speakers whom the model knows; one that deletes everything
    becomes an unknown speaker, whose log-odds are by ``drop`` s' lower and ``spread`` times as wide. So

        phi* = m' - q * drop * s' + s' * (1 + q * (spread - 1)) * (phi_s - m) / s.

    ``drop`` is the mean over people. What the model without this client makes of the forget set
    (``ForgetSet.unknown``) speaks of this very person: with u the mean of these log-odds, and u' that of phi*
    for q = 1, phi* is moved by q (u - u') / 2, so that its level is halfway between the two predictions.
    Where ``scalars.unknown`` was not sent, ``drop`` is 0 and ``spread`` 1; without ``share`` q is 0. Without
    ``trained`` and ``held_out`` the smoothed models' log-odds are shifted by so much that the share of
    ``test_accuracy`` (where that is not known either, chance) lies above zero.

    Args:
        model: not changed.
        forget_set: n >= 1 utterances.
        scalars: the numbers above.

    Returns:
        phi*, float64 [n], and what was read of what the server sent.
    """
    known = smoothed_log_odds(model, forget_set.examples)
    if scalars.trained is None or scalars.held_out is None:
        accuracy = scalars.test_accuracy
        level = 1.0 / model.classes if accuracy is None else accuracy
        return known - known.quantile(1.0 - level), () if accuracy is None else ("test_accuracy",)
    place = (known - scalars.trained.mean) / scalars.trained.std
    mean, std = scalars.held_out.mean, scalars.held_out.std
    as_known, read = mean + std * place, ["trained", "held_out"]
    as_unknown = as_known
    if scalars.share is None or (scalars.unknown is None and forget_set.unknown is None):
        return as_known, tuple(read)
    read.append("share")
    if scalars.unknown is not None:
        as_unknown = mean - scalars.unknown.drop * std + scalars.unknown.spread * std * place
        read.append("unknown")
    if forget_set.unknown is not None:
        as_unknown = as_unknown + (forget_set.unknown.mean() - as_unknown.mean()) / 2
        read.append("left_out")
    return as_known + scalars.share * (as_unknown - as_known), tuple(read)


def with_log_odds(logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Return distributions in which the true class has the wanted log-odds, the others their old proportions.

    Args:
        logits: [n, C >= 2].
        labels: int64 [n].
        wanted: [n], ln p_y / (1 - p_y).

    Returns:
        [n, C], rows sum to 1.
    """
    truth = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(truth, -torch.inf).softmax(1)
    chance = wanted.to(logits.dtype).sigmoid()[:, None]
    return torch.where(truth, chance, (1.0 - chance) * others)


def without_true_class(model: EmotionModel, examples: Examples) -> Tensor:
    """Return the softmax output on each example without its true class, the rest rescaled to sum 1.

    Args:
        model: at least two classes; not changed.
        examples: n utterances.

    Returns:
        [n, C], 0 at the true labels.
    """
    logits = predict(copy.deepcopy(model), examples)
    return logits.scatter(1, examples.labels[:, None], -torch.inf).softmax(1)


def virtual_teacher(logits: Tensor, labels: Tensor, true_logit: Literal["min", "entropy"] | float) -> Tensor:
    """Return logits [n, C >= 2] with that of the true class, int64 [n], replaced.

    Args:
        logits: of the global model.
        labels: true classes.
        true_logit: as of ``FedQUITSettings``. The entropy of the output has no slope where the true class's
            logit is sum_c q_c z_c over the wrong classes, q being their softmax: there it is least certain.
    """
    if true_logit == "min":
        value = logits.amin(1, keepdim=True)
    elif true_logit == "entropy":
        wrong = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)
        value = (wrong * logits).sum(1, keepdim=True)
    else:
        value = torch.full((len(logits), 1), float(true_logit))
    return logits.scatter(1, labels[:, None], value)
