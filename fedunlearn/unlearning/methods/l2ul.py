"""L2UL-style unlearning, after Ren et al. 2025 (arXiv 2510.04251), on the forget set alone.

Built on Cha et al. 2024, *Learning to Unlearn* (arXiv 2301.11578). The papers' hyper-parameters for speech
are not public; ours are ``L2ULSettings``. One step's loss, w_f and w_a being the batches' shares, is

    w_f * L_forget(x_f) + w_a * CE(f(x_adv), y_adv) + lambda / 2 * sum_i Omega_i (theta_i - theta0_i)^2

L_forget: cross-entropy to a random wrong label ("relabel", the papers'), minus that to the true one
("misclassify"), or that to the original's output without the true class ("masked", as DELETE).
"""

from dataclasses import replace

import numpy as np

from fedunlearn.config.unlearning import L2ULSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method
from fedunlearn.unlearning.copies import weigh_by_size
from fedunlearn.unlearning.descent import ascent, cross_entropy_to, descend
from fedunlearn.unlearning.importance import add_elastic_term
from fedunlearn.unlearning.log_odds import without_true_class
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
    """Mislabel the forget set, preserve the output on adversarial samples, hold the other weights."""
    examples = forget_set.examples
    # 1. Wrong labels and adversarial samples, once, from the original; the same ones for every objective.
    new_labels = wrong_labels(examples.labels, model.classes, rng)
    attacked = targeted_pgd(model, forget_set, settings.attack, rng)
    # 2. The loss: L_forget, the cross-entropy on the adversarial samples, the elastic term.
    if settings.objective == "misclassify":
        forget_loss = ascent(examples)
    else:
        masked = settings.objective == "masked"
        target = without_true_class(model, examples) if masked else new_labels
        forget_loss = cross_entropy_to(examples, target)
    keep = attacked.outputs if settings.keep_target == "soft" else attacked.examples.labels
    keep_loss = cross_entropy_to(attacked.examples, keep)
    loss = weigh_by_size(forget_loss, keep_loss, settings.attack.per_utterance)
    loss = add_elastic_term(loss, model, examples, settings.importance, settings.elasticity)
    # 3. Descend until the forget set is as badly known as the stop rule says.
    result = descend(model, examples, loss, settings, rng, scalars)
    return replace(result, adversarial=len(attacked.examples), attack_success=attacked.success)
