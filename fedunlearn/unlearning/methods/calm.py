"""CALM, calibrated log-odds matching: say of the forget set what a model would that never heard it.

The target of unlearning is the retrained model, and that one is neither wrong nor unsure on every
forgotten utterance: it gets those right that are like everybody's, and wrong those that had to be
memorised. Which are which can be told from the model and the forget set alone. Three steps.

**1. Foretell.** Let phi = ln p_y / (1 - p_y) be the log-odds of the true class. The model smoothed by its own
spectrum (``spectrum.smoothed``) has lost what it memorised; its log-odds phi_s on the forget set explain 80 %
of the variance of the retrained model's (RAVDESS, functionals, seeds 101 to 106; the original's own log-odds
71 %, two retrained seeds of each other 91 %). What is left is a matter of scale: training speech lies higher
and closer together than speech not trained on. Both distributions are known to the federation, so the server
sends four numbers, the mean and the standard deviation of phi_s on all clients' training speech (m, s) and of
phi on their held-out speech (m', s'), and the first is mapped onto the second:

    phi* = m' + s' * ((phi_s - m) / s - discount - speaker_discount * share)

``share`` is how much of its speech the requester takes back: held-out speech is of speakers whom the model
knows, and one who leaves altogether becomes a stranger. The four numbers and the share are all that CALM
learns of anybody else's speech; the rivals here that stop at a level are told one, the accuracy on held-out
speech.

**2. Relabel.** The target of an utterance is the original's own output with the log-odds of the true class
set to phi*, the other classes keeping their proportions. phi* -> -infinity is DELETE's target, phi* = phi is
the original's output.

**3. Match, and hold the rest.** Cross-entropy to these targets, and to the original's whole output on noisy
copies of the forget set: they lie among the speech of others, further out than adversarial samples do, and
hold the model there. (Seeds 101 to 103, with the retrained model's outputs as targets: the gap right after
the step was .018 with noise of 1.4 standard deviations, .032 with adversarial samples, .045 with neither.)

Nothing is stopped by the forget accuracy: the loss has its minimum where the forget set is as well known as
it should be.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.unlearning import CalmSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import add_noise, predict
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.low_rank import log_odds_of, smoothed


@method(
    "calm",
    source="CALM, calibrated log-odds matching: our own; no paper",
    settings=lambda chosen: chosen.calm,
    reads_log_odds=True,
)
def calm(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: CalmSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Relabel the forget set with foretold answers and hold the model on noisy copies of it.

    The generator draws the noise, then the order of the batches. ``trained``, ``held_out`` and ``share`` of
    the scalars are read; ``test_accuracy`` where the server said nothing of the first two.
    """
    examples = forget_set.examples
    frozen = copy.deepcopy(model).eval()
    foretold, read = foretell(frozen, examples, settings, scalars)
    original = predict(frozen, examples).clone()
    forget_loss = cross_entropy_to(examples, with_log_odds(original, examples.labels, foretold))
    held = noisy_copies(model, examples, settings.noise, settings.copies, rng)
    keep_loss = cross_entropy_to(held, predict(frozen, held).softmax(1))

    def loss(working: EmotionModel, batch: Tensor) -> Tensor:
        total = forget_loss(working, batch)
        if settings.copies:
            mine = (batch[:, None] * settings.copies + torch.arange(settings.copies)).flatten()
            total = total + settings.keep * keep_loss(working, mine)
        return total

    result = descend(model, examples, loss, settings, rng, scalars)
    notes = {**result.notes, "foretold_accuracy": float((foretold > 0).double().mean())}
    return replace(result, scalars_read=tuple(dict.fromkeys((*result.scalars_read, *read))), notes=notes)


def foretell(
    model: EmotionModel, examples: Examples, settings: CalmSettings, scalars: ServerScalars
) -> tuple[Tensor, tuple[str, ...]]:
    """The log-odds that a model never trained on n >= 1 examples would give their true classes.

    Without ``trained`` and ``held_out`` those of the smoothed model are shifted by so much that the share of
    ``test_accuracy`` (where that is not known either, chance) lies above zero.

    Returns:
        float64 [n], and which of the server's scalars were read.
    """
    known = log_odds_of(smoothed(model, settings.rank), examples)
    if scalars.trained is None or scalars.held_out is None:
        told = scalars.test_accuracy
        level = 1.0 / model.classes if told is None else told
        return known - known.quantile(1.0 - level), () if told is None else ("test_accuracy",)
    share = 0.0 if scalars.share is None else scalars.share
    place = (known - scalars.trained.mean) / scalars.trained.std
    place = place - settings.discount - settings.speaker_discount * share
    read = ("trained", "held_out", *(("share",) if scalars.share is not None else ()))
    return scalars.held_out.mean + scalars.held_out.std * place, read


def with_log_odds(logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Distributions in which the true class has the wanted log-odds, the others their old proportions.

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


def noisy_copies(
    model: EmotionModel, examples: Examples, size: float, copies: int, rng: np.random.Generator
) -> Examples:
    """``copies`` of each of n examples with Gaussian noise; copy j of example i is number i * copies + j.

    Args:
        size: standard deviation, in the model's units (``unit_at``). Padding frames stay zero.
    """
    chosen = examples.take(torch.arange(len(examples)).repeat_interleave(copies))
    return add_noise(chosen, size * model.unit_at(chosen.features), rng) if copies else chosen
