"""AMUN without retain data: train on the adversarial examples nearest to the forget set.

Ebrahimpour-Boroojeny et al. 2025, *Not All Wrong is Bad*, ICML (arXiv 2503.00917). The authors' code has
two variants without the retained data: the adversarial set D_A alone ("advonly", our default), and D_A with
D_F, the forget utterances under their *true* labels (forget_set = "true-label"). The second trains on the
data to be forgotten, and so is not the default. D_F under wrong labels is an ablation of theirs.

1. For each forget utterance search the closest adversarial example: PGD-50 in an L2 ball around it, the
   ball doubled until the prediction changes (algorithm 1).
2. D_A is these examples with the labels that the original gives them. An utterance whose prediction held in
   the largest ball has none and is left out.
3. Fine-tune the model on D_A.

On a linear model, or with D_F under its true labels, the accuracy on the forget set may never fall, and a
stop at an accuracy level never happen. The search is in the model's features, not in the waveform.
"""

import copy
from dataclasses import replace

import numpy as np
import torch

from fedunlearn.config.unlearning import AmunForgetSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import (
    ServerScalars,
    UnlearnResult,
    forget_accuracy,
    method,
    unchanged,
)
from fedunlearn.unlearning.descent import cross_entropy_to, descend
from fedunlearn.unlearning.untargeted_attack import closest_adversarial


@method(
    "amun-forget",
    source="AMUN without retain data, Ebrahimpour-Boroojeny et al. 2025 (arXiv 2503.00917)",
    settings=lambda chosen: chosen.amun_forget,
)
def amun_forget(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: AmunForgetSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Train on the closest adversarial example of each utterance with its wrong label.

    Returns:
        ``attack_success`` is the share of utterances with an adversarial example; the note "distance" their
        mean distance from it (L2, in standard deviations of the features).
    """
    examples = forget_set.examples
    # 1. The closest points that the original classifies differently.
    features, predicted, distance = closest_adversarial(
        model, examples, settings.eps, settings.doublings, settings.steps
    )
    # 2. D_A, and with it D_F as it is if so chosen.
    found = predicted != examples.labels
    if not bool(found.any()):
        return unchanged(
            model, "no adversarial samples", forget_accuracy(copy.deepcopy(model).eval(), examples)
        )
    trained = Examples(features[found], examples.frames[found], predicted[found])
    if settings.forget_set == "true-label":
        trained = _both(trained, examples)
    # 3. Fine-tune.
    loss = cross_entropy_to(trained, trained.labels)
    result = descend(model, examples, loss, settings, rng, scalars, samples=len(trained))
    return replace(
        result,
        adversarial=int(found.sum()),
        attack_success=found.double().mean().item(),
        notes={**result.notes, "distance": distance[found].mean().item()},
    )


def _both(one: Examples, other: Examples) -> Examples:
    return Examples(
        torch.cat([one.features, other.features]),
        torch.cat([one.frames, other.frames]),
        torch.cat([one.labels, other.labels]),
    )
