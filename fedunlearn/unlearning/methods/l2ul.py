"""L2UL-style unlearning, after Ren et al. 2025 (arXiv 2510.04251), on the forget set alone.

Built on Cha et al. 2024, *Learning to Unlearn* (arXiv 2301.11578). The papers' hyper-parameters for speech
are not public; ours are ``L2ULSettings``. The loss of one step is

    w_f * L_forget(x_f) + w_a * CE(f(x_adv), y_adv) + lambda / 2 * sum_i Omega_i (theta_i - theta0_i)^2

with w_f = n_f / (n_f + n_a) and w_a = n_a / (n_f + n_a) from the sizes of the step's two batches. L_forget is
the cross-entropy to a random wrong label ("relabel", the papers'), minus that to the true one
("misclassify") or the cross-entropy to the original's own output without the true class ("masked", the
target of DELETE).
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.unlearning import L2ULSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.importance import importance
from fedunlearn.unlearning.methods.delete import without_true_class
from fedunlearn.unlearning.methods.gradient_ascent import ascent
from fedunlearn.unlearning.targeted_attack import targeted_pgd, wrong_labels


@method(
    "l2ul",
    source="L2UL-style, after Ren et al. 2025 (arXiv 2510.04251) and Cha et al. 2024 (arXiv 2301.11578)",
    settings=lambda chosen: chosen.l2ul,
    title="L2UL-style, after Ren et al. 2025",
    needs_waveform=lambda chosen: chosen.l2ul.attack.domain != "feature",
)
def l2ul(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: L2ULSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Mislabel the forget set, preserve the output on adversarial samples, penalise other weights' changes.

    All in eval mode, so that the attack, Omega, the loss and the accuracy refer to the same function. The
    generator draws wrong labels (whatever the objective, so that all are attacked alike), then the attack,
    then the order of the batches.
    """
    examples = forget_set.examples

    # 1. Adversarial samples and their labels, once, from the frozen original.
    new_labels = wrong_labels(examples.labels, model.classes, rng)
    attacked = targeted_pgd(model, forget_set, settings.attack, rng)
    each = settings.attack.per_utterance

    # 2. Omega, once, on the forget set.
    theta0 = {name: value.detach() for name, value in model.named_parameters()}
    omega = (
        importance(copy.deepcopy(model).eval(), examples, settings.importance)
        if settings.elasticity > 0
        else {}
    )

    # 3. Descend until the forget set is as badly known as the stop rule says.
    if settings.objective == "misclassify":
        forget_loss = ascent(examples)
    elif settings.objective == "masked":
        forget_loss = cross_entropy_to(examples, without_true_class(model, examples))
    else:
        forget_loss = cross_entropy_to(examples, new_labels)
    keep = attacked.outputs if settings.keep_target == "soft" else attacked.examples.labels
    keep_loss = cross_entropy_to(attacked.examples, keep)

    def loss(working: EmotionModel, batch: Tensor) -> Tensor:
        total = forget_loss(working, batch)
        if each > 0:
            mine = (batch[:, None] * each + torch.arange(each)).flatten()
            w_f = len(batch) / (len(batch) + len(mine))
            total = w_f * total + (1.0 - w_f) * keep_loss(working, mine)
        weights = dict(working.named_parameters())
        for name, held in omega.items():
            total = total + settings.elasticity / 2 * (held * (weights[name] - theta0[name]).square()).sum()
        return total

    result = descend(model, examples, loss, settings, rng, scalars)
    return replace(result, adversarial=len(attacked.examples), attack_success=attacked.success)
