"""CALM, calibrated log-odds matching: match the output of a model that never trained on the forget set.

The target of unlearning is the retrained model, which is neither wrong nor unsure on every forgotten
utterance: it recognises those that resemble other people's speech, and fails on those that had to be
memorised. The model and the forget set are enough to tell the two apart. CALM has three steps.

**1. Predict.** Let phi = ln p_y / (1 - p_y) be the log-odds of the true class. The low-rank
model (``low_rank.smoothed``) has lost what it memorised; its log-odds phi_s on the forget set explain 80 % of
the variance of the retrained model's (RAVDESS, functionals, seeds 101 to 106; the original's own log-odds
explain 71 %, those of another retrained seed 91 %). The rest is a matter of scale: on training speech the
log-odds are higher and less spread than on other speech. The federation knows both distributions, so the
server sends four numbers, the mean and the standard deviation of phi_s on all clients' training speech (m, s)
and of phi on their held-out speech (m', s'), and the first distribution is mapped onto the second:

    phi* = m' + s' * ((phi_s - m) / s - discount - speaker_discount * share)

``share`` is the share of its speech that the requester deletes: held-out speech comes from speakers whom the
model has trained on, whereas a speaker who deletes everything becomes an unseen one. The four numbers and the
share are all that CALM learns about other people's speech; a method that stops at an accuracy level gets one
number, the accuracy on held-out speech.

**2. Relabel.** The target of an utterance is the original's own output with the log-odds of the true class
set to phi*, the other classes keeping their proportions. phi* -> -infinity is DELETE's target, phi* = phi is
the original's output.

**3. Match, and preserve the rest.** The loss is the cross-entropy to these targets, plus that to the
original's output on noisy copies of the forget set. These lie among other people's speech, further out than
adversarial samples do, and keep the model's output there. (Seeds 101 to 103, with the retrained model's
outputs as targets: the gap right after the step was .018 with noise of 1.4 standard deviations, .032 with
adversarial samples, .045 with neither.)

The descent does not stop at a forget accuracy: the loss has its minimum where the forget set is recognised as
well as it should be.
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
    """Relabel the forget set with predicted outputs and preserve the model on noisy copies of it.

    The generator draws the noise, then the order of the batches. ``trained``, ``held_out`` and ``share`` of
    the scalars are read; ``test_accuracy`` where the server did not send the first two.
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
    """Predict the log-odds of the true classes under a model that never trained on these n >= 1 examples.

    Without ``trained`` and ``held_out`` those of the smoothed model are shifted by so much that the share of
    ``test_accuracy`` (where that is not known either, chance) lies above zero.

    Returns:
        float64 [n], and which of the server's scalars were read.
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


def noisy_copies(
    model: EmotionModel, examples: Examples, size: float, copies: int, rng: np.random.Generator
) -> Examples:
    """Copy n examples several times with Gaussian noise; copy j of example i is number i * copies + j.

    Args:
        model: whose units (``unit_at``) the noise is measured in.
        examples: n utterances; padding frames stay zero.
        size: standard deviation of the noise.
        copies: of each example, >= 0.
        rng: draws the noise.
    """
    chosen = examples.take(torch.arange(len(examples)).repeat_interleave(copies))
    return add_noise(chosen, size * model.unit_at(chosen.features), rng) if copies else chosen
