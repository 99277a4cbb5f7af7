"""L2UL-style unlearning, after Ren et al. 2025 (arXiv 2510.04251), on the forget set alone.

Built on Cha et al. 2024, *Learning to Unlearn* (arXiv 2301.11578). The papers' hyper-parameters for speech
are not public; ours are ``L2ULSettings``. The loss of one step is

    w_f * L_forget(x_f) + w_a * CE(f(x_adv), y_adv) + lambda / 2 * sum_i Omega_i (theta_i - theta0_i)^2

with w_f = n_f / (n_f + n_a) and w_a = n_a / (n_f + n_a) from the sizes of the step's two batches.
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config import L2ULSettings, UnlearningSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import sgd_step
from fedunlearn.unlearning.attacks import Adversarial, targeted_pgd, wrong_labels
from fedunlearn.unlearning.contract import (
    MethodCard,
    ServerScalars,
    UnlearnFailed,
    UnlearnResult,
    forget_accuracy,
    snapshot,
    unchanged,
)
from fedunlearn.unlearning.importance import importance


def unlearn(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: UnlearningSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Relabel the forget set, hold the model at adversarial samples of it, keep the other weights elastic.

    All in eval mode (dropout off, running statistics still), so that the loss is a function of the weights
    alone and the attack, Omega and the accuracy speak of the same function. Only trainable parameters
    (``requires_grad``) move or are held; buffers, and so the Standardise constants, never do.

    Args:
        model: not changed.
        forget_set: n utterances; n = 0 returns the model as it came, ``stopped="empty forget set"``.
        settings: ``settings.l2ul`` is read.
        rng: wrong labels, then the attack, then the order of the batches.
        scalars: ``test_accuracy`` is read by stop = "level"; where the server said nothing, the level is
            chance, 1 / C.

    Raises:
        UnlearnFailed: the loss or the output is not finite; the message names the step.
    """
    chosen = settings.l2ul
    if len(forget_set) == 0:
        return unchanged(model, "empty forget set")
    examples = forget_set.examples
    working = copy.deepcopy(model).eval()
    weights = {name: value for name, value in working.named_parameters() if value.requires_grad}
    before = forget_accuracy(working, examples)

    level, read = _stop_level(chosen, working.classes, scalars)

    # 1. Adversarial samples and their labels, once, from the frozen original.
    new_labels = wrong_labels(examples.labels, working.classes, rng)
    attacked = targeted_pgd(model, forget_set, chosen.attack, rng)
    keep = attacked.outputs if chosen.keep_target == "soft" else attacked.examples.labels

    # 2. Omega, once, on the forget set.
    theta0 = {name: value.detach().clone() for name, value in weights.items()}
    omega = importance(working, examples, chosen.importance) if chosen.elasticity > 0 else {}

    # 3. Descend until the forget set is as badly known as the stop rule says.
    moving = list(weights.values())
    velocities = [torch.zeros_like(value) for value in moving]
    order: list[Tensor] = []
    after, steps = before, 0
    while steps < chosen.max_steps and not after <= level:
        order = order or list(
            torch.split(torch.from_numpy(rng.permutation(len(examples))), chosen.batch_size)
        )
        batch = order.pop()
        loss = _forget_loss(working, examples.take(batch), new_labels[batch], chosen)
        if chosen.attack.per_utterance > 0:
            mine = batch[:, None] * chosen.attack.per_utterance + torch.arange(chosen.attack.per_utterance)
            loss_a = _keep_loss(working, attacked, keep, mine.flatten())
            w_f = len(batch) / (len(batch) + mine.numel())
            loss = w_f * loss + (1.0 - w_f) * loss_a
        for name, held in omega.items():
            loss = loss + chosen.elasticity / 2 * (held * (weights[name] - theta0[name]).square()).sum()
        steps += 1
        if not math.isfinite(loss.item()):
            raise UnlearnFailed(f"step {steps}: the unlearning loss is not finite")
        sgd_step(moving, velocities, torch.autograd.grad(loss, moving), chosen.lr, chosen.momentum)
        after = forget_accuracy(working, examples, steps)

    moved = sum(float((weights[name] - old).detach().square().sum()) for name, old in theta0.items())
    return UnlearnResult(
        state=snapshot(working),
        steps=steps,
        stopped=chosen.stop if after <= level else "steps",
        forget_accuracy=(before, after),
        adversarial=len(attacked.examples),
        attack_success=attacked.success,
        scalars_read=read,
        notes={"level": level, "moved": math.sqrt(moved)},
    )


def _stop_level(chosen: L2ULSettings, classes: int, scalars: ServerScalars) -> tuple[float, tuple[str, ...]]:
    """The forget accuracy at which to stop, and which of the server's scalars it comes from."""
    if chosen.stop == "steps":
        return -math.inf, ()
    if chosen.stop == "zero":
        return 0.0, ()
    if scalars.test_accuracy is None:
        return 1.0 / classes, ()
    return scalars.test_accuracy, ("test_accuracy",)


def _forget_loss(model: EmotionModel, batch: Examples, new_labels: Tensor, chosen: L2ULSettings) -> Tensor:
    logits = model.classify(batch.features, batch.frames)
    if chosen.objective == "misclassify":
        return -F.cross_entropy(logits, batch.labels)
    return F.cross_entropy(logits, new_labels)


def _keep_loss(model: EmotionModel, attacked: Adversarial, keep: Tensor, index: Tensor) -> Tensor:
    batch = attacked.examples.take(index)
    return F.cross_entropy(model.classify(batch.features, batch.frames), keep[index])


CARD = MethodCard(
    name="l2ul",
    sees="forget",
    source="L2UL-style, after Ren et al. 2025 (arXiv 2510.04251) and Cha et al. 2024 (arXiv 2301.11578)",
    unlearn=unlearn,
)
