"""Log-odds of the true class, phi = ln p_y / (1 - p_y): measured, predicted, and put into an output."""

import copy

import torch
from torch import Tensor

from fedunlearn.config.unlearning import CalmSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.low_rank import smoothed


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


def predict_log_odds(
    model: EmotionModel, examples: Examples, settings: CalmSettings, scalars: ServerScalars
) -> tuple[Tensor, tuple[str, ...]]:
    """Predict the log-odds of the true classes under a model that never trained on these examples (CALM).

    Let m and s be mean and standard deviation of the smoothed model's log-odds on all clients' training
    speech, m' and s' those of the model's on their held-out speech. Then

        phi* = m' + s' * ((phi_s - m) / s - discount - speaker_discount * share).

    Without ``trained`` and ``held_out`` those of the smoothed model are shifted by so much that the share of
    ``test_accuracy`` (where that is not known either, chance) lies above zero.

    Args:
        model: not changed.
        examples: n >= 1.
        settings: rank of the smoothed model and both discounts.
        scalars: the numbers above and ``share``, the share of its speech that the requester deletes.

    Returns:
        phi*, float64 [n], and which of the server's scalars were read.
    """
    known = log_odds_of(smoothed(model, settings.rank), examples)
    if scalars.trained is None or scalars.held_out is None:
        accuracy = scalars.test_accuracy
        level = 1.0 / model.classes if accuracy is None else accuracy
        return known - known.quantile(1.0 - level), () if accuracy is None else ("test_accuracy",)
    share = 0.0 if scalars.share is None else scalars.share
    place = (known - scalars.trained.mean) / scalars.trained.std
    place = place - settings.discount - settings.speaker_discount * share
    read = ("trained", "held_out", *(("share",) if scalars.share is not None else ()))
    return scalars.held_out.mean + scalars.held_out.std * place, read


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
