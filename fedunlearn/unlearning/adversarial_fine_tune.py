"""The adversarial fine-tune on the forget set alone, with its switches: the objective of "calm" and "l2ul".

After Ren et al. 2025 (arXiv 2510.04251), built on Cha et al. 2024, *Learning to Unlearn* (arXiv 2301.11578).
The original model is attacked once; its adversarial samples stand in for the retained data. A step's loss is

    w_f * L_forget(x_f) + w_a * CE(f(x_adv), y_adv) + lambda / 2 * sum_i Omega_i (theta_i - theta0_i)^2

w_f and w_a being the shares of the step's two batches, or 1 and ``keep``.
"""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fedunlearn.config.unlearning import FineTuneSwitches
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import predict
from fedunlearn.unlearning.ball import clip_to
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult
from fedunlearn.unlearning.copies import noisy_copies, weigh
from fedunlearn.unlearning.descent import Loss, ascent, cross_entropy_to, descend
from fedunlearn.unlearning.importance import add_elastic_term
from fedunlearn.unlearning.log_odds import predict_log_odds, with_log_odds, without_true_class
from fedunlearn.unlearning.targeted_attack import targeted_pgd, wrong_labels


@dataclass(frozen=True)
class HeldSamples:
    """Samples on which the model is held.

    Attributes:
        examples: k for each forget utterance; sample j of utterance i is number i * k + j.
        target: int64 [n * k] classes, or float [n * k, C] distributions.
        adversarial: how many the attack made.
        success: share of these that the original classifies as the attack wants; NaN if there are none.
    """

    examples: Examples
    target: Tensor
    adversarial: int = 0
    success: float = math.nan


def adversarial_fine_tune(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: FineTuneSwitches,
    rng: np.random.Generator,
    scalars: ServerScalars,
    wanted: Tensor | None = None,
) -> UnlearnResult:
    """Train the forget set towards new outputs, holding the model on samples made of the forget set.

    Args:
        model: not changed.
        forget_set: n >= 1 utterances.
        settings: the switches.
        rng: wrong labels (whatever the objective, so that all are attacked alike), then the samples, then
            the order of the batches.
        scalars: read by objective = "calibrated" and by the stop rule.
        wanted: log-odds [n] of the true class, in nats, that objective = "calibrated" trains towards; None =
            predicted. Other objectives have no such targets.

    Raises:
        UnlearnFailed: the loss or the output is not finite.
    """
    examples, frozen = forget_set.examples, copy.deepcopy(model).eval()
    new_labels, read, notes = wrong_labels(examples.labels, model.classes, rng), tuple[str, ...](), {}
    held = _held_samples(frozen, forget_set, settings, rng)
    forget_loss: Loss
    targets: Tensor | None = None
    if settings.objective == "misclassify":
        forget_loss = ascent(examples)
    elif settings.objective == "masked":
        forget_loss = cross_entropy_to(examples, without_true_class(model, examples))
    elif settings.objective == "calibrated":
        if wanted is None:
            targets, read = predict_log_odds(frozen, forget_set, scalars)
        else:
            targets = wanted
        notes = {"predicted_accuracy": float((targets > 0).double().mean())}
        target = with_log_odds(predict(frozen, examples).clone(), examples.labels, targets)
        forget_loss = cross_entropy_to(examples, target)
    else:
        forget_loss = cross_entropy_to(examples, new_labels)
    each = len(held.examples) // len(examples)
    loss = weigh(forget_loss, cross_entropy_to(held.examples, held.target), each, settings.keep)
    loss = add_elastic_term(loss, model, examples, settings.importance, settings.elasticity)
    clip = clip_to(settings.gradient_clip)
    result = descend(model, examples, loss, settings, rng, scalars, shape=clip)
    return replace(
        result,
        adversarial=held.adversarial,
        attack_success=held.success,
        scalars_read=tuple(dict.fromkeys((*result.scalars_read, *read))),
        notes={**result.notes, **notes},
        targets=targets,
    )


def _held_samples(
    frozen: EmotionModel, forget_set: ForgetSet, settings: FineTuneSwitches, rng: np.random.Generator
) -> HeldSamples:
    soft = settings.keep_target == "soft"
    if settings.hold == "adversarial":
        attacked = targeted_pgd(frozen, forget_set, settings.attack, rng)
        target = attacked.outputs if soft else attacked.examples.labels
        return HeldSamples(attacked.examples, target, len(attacked.examples), attacked.success)
    each = settings.attack.per_utterance if settings.hold == "noisy" else 0
    copies = noisy_copies(frozen, forget_set.examples, settings.noise, each, rng)
    logits = predict(frozen, copies)
    return HeldSamples(copies, logits.softmax(1) if soft else logits.argmax(1))
