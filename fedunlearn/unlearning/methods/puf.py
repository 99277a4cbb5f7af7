"""PUF: train on the forget set as usual, and take the update back several times over.

Mora, Mazzocca, Montanari & Bellavista 2025, *Federated Unlearning Made Practical: Seamless Integration via
Negated Pseudo-Gradients* (arXiv 2504.05822).

1. The requester trains the global model w on its forget set with the true labels: w'.
2. The pseudo-gradient w' - w, negated and scaled, moves the global model: w - eta_u (w' - w).

In the paper the server negates the update; here the requester does, and it joins as those of every method
(``unlearning.aggregation``), in the variant in which the requesters alone take part in the unlearning round.
It trains on the forget set alone, with dropout off. Nothing says when enough was forgotten: there is no stop.
"""

import copy

import numpy as np
import torch

from fedunlearn.config.descent import DescentSettings
from fedunlearn.config.unlearning import PUFSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel, trained_tensors
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, forget_accuracy, method, snapshot
from fedunlearn.unlearning.descent import cross_entropy_to, descend


@method(
    "puf",
    source="PUF, Mora et al. 2025 (arXiv 2504.05822), on the forget set alone",
    settings=lambda chosen: chosen.puf,
)
def puf(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: PUFSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Negate what training on the forget set would do; the note "trained" is the length of that update."""
    examples = forget_set.examples
    # 1. Train on the forget set.
    steps = settings.work.steps_on(len(examples), settings.batch_size)
    chosen = settings.model_dump(include={"lr", "momentum", "batch_size"})
    training = DescentSettings(**chosen, max_steps=steps, stop="steps")
    loss = cross_entropy_to(examples, examples.labels)
    trained = descend(model, examples, loss, training, rng, scalars)
    # 2. Negate and scale the update.
    negated = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in trained_tensors(negated).items():
            weight.sub_(trained.state[name] - weight, alpha=settings.scale)
    after = forget_accuracy(negated, examples, trained.steps)
    return UnlearnResult(
        state=snapshot(negated),
        steps=trained.steps,
        stopped="steps",
        forget_accuracy=(trained.forget_accuracy[0], after),
        notes={"trained": trained.notes["moved"]},
    )
