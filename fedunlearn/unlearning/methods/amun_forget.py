"""AMUN without retain data: train on the adversarial examples nearest to the forget set.

Ebrahimpour-Boroojeny et al. 2025, *Not All Wrong is Bad*, ICML (arXiv 2503.00917). Of the authors' two
variants without retained data ours is "advonly"; docs/methods.md says why.

1. For each forget utterance search the closest adversarial example (algorithm 1: PGD-50 in a growing ball).
2. D_A is these examples with the labels that the original gives them, where there is one.
3. Fine-tune the model on D_A; the forget accuracy may never fall to the stop rule's level.
"""

from dataclasses import replace

import numpy as np

from fedunlearn.config.unlearning import AmunForgetSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method, unchanged
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
    """Train on the closest adversarial examples; the note "distance" is their mean distance (L2)."""
    examples = forget_set.examples
    # 1. The closest points that the original classifies differently.
    features, predicted, distance = closest_adversarial(
        model, examples, settings.eps, settings.doublings, settings.steps
    )
    # 2. D_A, and with it D_F as it is if so chosen.
    found = predicted != examples.labels
    if not bool(found.any()):
        return unchanged(model, "no adversarial samples", examples)
    trained = Examples(features[found], examples.frames[found], predicted[found])
    if settings.forget_set == "true-label":
        trained = trained.followed_by(examples)
    # 3. Fine-tune.
    loss = cross_entropy_to(trained, trained.labels)
    result = descend(model, examples, loss, settings, rng, scalars, samples=len(trained))
    count, success = int(found.sum()), found.double().mean().item()
    notes = {**result.notes, "distance": distance[found].mean().item()}
    return replace(result, adversarial=count, attack_success=success, notes=notes)
