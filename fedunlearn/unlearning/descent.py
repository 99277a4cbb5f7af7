"""The gradient descent that all methods share: batches, the stop rule, the usual losses."""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config.descent import DescentSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import optimiser, predict
from fedunlearn.unlearning.contract import (
    ServerScalars,
    UnlearnFailed,
    UnlearnResult,
    forget_accuracy,
    snapshot,
)

Loss = Callable[[EmotionModel, Tensor], Tensor]
"""The working model and a batch, int64 [b] numbers of samples -> the loss of that batch, a scalar."""


def descend(
    model: EmotionModel,
    examples: Examples,
    loss: Loss,
    settings: DescentSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
    samples: int | None = None,
    shape: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda gradients: gradients,
    project: Callable[[Sequence[Tensor]], None] = lambda weights: None,
) -> UnlearnResult:
    """Descend until the forget accuracy is as low as the stop rule says, or max_steps are done.

    All in eval mode (dropout off, running statistics still), so that the loss is a function of the weights
    alone. Only trainable parameters (``requires_grad``) move; buffers, and so the Standardise constants,
    never do. The accuracy on the forget set is taken before the first step and after each.

    Args:
        model: not changed; a copy of it is.
        examples: the n >= 1 forget utterances, on which the stop rule looks.
        loss: called once a step.
        settings: length and number of the steps, batches, stop rule.
        rng: the order of the batches; an epoch is one permutation.
        scalars: ``test_accuracy`` is read by stop = "level"; where the server did not send it, the level
            is chance, 1 / C.
        samples: number of samples that the loss takes batches of, numbered 0 ...; None: n.
        shape: maps the loss's gradients, one for each trainable parameter, to those of the step.
        project: changes the trainable parameters in place after each step, without gradients.

    Returns:
        ``notes`` hold the level and how far the weights moved (L2 of all together).

    Raises:
        UnlearnFailed: the loss or the output is not finite; the message names the step.
    """
    working = copy.deepcopy(model).eval()
    moving = [value for value in working.parameters() if value.requires_grad]
    start = [value.detach().clone() for value in moving]
    take_step = optimiser(moving, settings.optimizer, settings.lr, settings.momentum)
    before = forget_accuracy(working, examples)
    level, read = _stop_level(settings, working.classes, scalars)

    count = len(examples) if samples is None else samples
    order: list[Tensor] = []
    after, steps = before, 0
    while steps < settings.max_steps and not after <= level:
        order = order or list(torch.split(torch.from_numpy(rng.permutation(count)), settings.batch_size))
        value = loss(working, order.pop())
        steps += 1
        if not math.isfinite(value.item()):
            raise UnlearnFailed(f"step {steps}: the unlearning loss is not finite")
        take_step(shape(torch.autograd.grad(value, moving)))
        with torch.no_grad():
            project(moving)
        after = forget_accuracy(working, examples, steps)

    moved = sum(
        float((weight - old).detach().square().sum()) for weight, old in zip(moving, start, strict=True)
    )
    return UnlearnResult(
        state=snapshot(working),
        steps=steps,
        stopped=settings.stop if after <= level else "steps",
        forget_accuracy=(before, after),
        scalars_read=read,
        notes={"level": level, "moved": math.sqrt(moved)},
    )


def cross_entropy_to(examples: Examples, target: Tensor) -> Loss:
    """Return the mean cross-entropy of a batch of examples to a target.

    Args:
        examples: n samples.
        target: int64 [n] classes in 0 ... C-1, or float [n, C] distributions.
    """

    def loss(model: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        return F.cross_entropy(model.classify(batch.features, batch.frames), target[index])

    return loss


def ascent(examples: Examples) -> Loss:
    """Return minus the mean cross-entropy to the true labels: descending it is ascending the usual loss."""
    learned = cross_entropy_to(examples, examples.labels)

    def loss(model: EmotionModel, index: Tensor) -> Tensor:
        return -learned(model, index)

    return loss


def unlearning_cross_entropy(examples: Examples) -> Loss:
    """Return the mean of -ln(1 - p_y / 2) of a batch of examples, which is between 0 and ln 2.

    The unlearning cross-entropy of FedOSD (Pan et al. 2025, arXiv 2412.20200): descending it lowers the
    probability of the true class, and unlike ``ascent`` it is bounded.

    Args:
        examples: n samples.
    """

    def loss(model: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        output = model.classify(batch.features, batch.frames).softmax(1)
        return -(1.0 - output.gather(1, batch.labels[:, None]) / 2.0).log().mean()

    return loss


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute the mean KL(p_teacher || p_student) in nats, a scalar >= 0, of logits [b, C] each."""
    return F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )


def squared_distance(wanted: Tensor, logits: Tensor) -> Tensor:
    """Compute the mean over utterances of the squared distance of logits [b, C] each, a scalar >= 0."""
    return (logits - wanted).square().sum(1).mean()


def distance_from(
    teacher: EmotionModel, examples: Examples, distance: Callable[[Tensor, Tensor], Tensor]
) -> Loss:
    """Return the distance of the model's output on a batch of examples from the teacher's.

    Args:
        teacher: not changed.
        examples: n samples.
        distance: of the teacher's and the model's logits [b, C] each, such as ``divergence``; a scalar.
    """
    taught = predict(teacher, examples).clone()

    def loss(model: EmotionModel, index: Tensor) -> Tensor:
        batch = examples.take(index)
        return distance(taught[index], model.classify(batch.features, batch.frames))

    return loss


def _stop_level(
    settings: DescentSettings, classes: int, scalars: ServerScalars
) -> tuple[float, tuple[str, ...]]:
    """The forget accuracy at which to stop, and which of the server's scalars it comes from."""
    if settings.stop == "steps":
        return -math.inf, ()
    if settings.stop == "zero":
        return 0.0, ()
    if scalars.test_accuracy is None:
        return 1.0 / classes, ()
    return scalars.test_accuracy, ("test_accuracy",)
