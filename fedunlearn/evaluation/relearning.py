"""Relearn time: how many gradient steps bring D_f back.

What was only hidden often comes back sooner than what was never known is learned. So compare the number with
that of the retrained model, which never knew D_f.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.results_schema import RelearnTime
from fedunlearn.training import optimiser, predict


def relearn(
    model: EmotionModel,
    state: Mapping[str, Tensor],
    examples: Examples,
    target: float,
    settings: LocalSettings,
    limit: int,
    rngs: Sequence[np.random.Generator],
) -> RelearnTime | None:
    """Train D_f again from some weights until its accuracy is back.

    Plain gradient steps on mini-batches of D_f alone, cross-entropy; the accuracy is measured before the
    first step and after each. No augmentation, label smoothing or schedule; and no momentum: with local
    training's (lr .05, momentum .9, 16 a batch) a trained model oscillates and is seldom right on
    all utterances at once: on RAVDESS random weights had D_f back in 26 steps, the retrained model in more
    than 150. Without momentum they take 38 and 22, the recovered model 16.

    Args:
        model: any of the kind; not changed.
        state: the weights to begin with.
        examples: D_f.
        target: accuracy to be reached, in [0, 1]: the original model's.
        settings: lr, weight decay and batch size of local training.
        limit: steps at most.
        rngs: one for each order of the batches; it seeds dropout, too.

    Returns:
        steps until the target: mean, least and most over the orders, where an order that did not reach it
        counts as ``limit``; 0 where the accuracy is there already. None where D_f is empty, or ``limit`` or
        the number of orders is 0: not measured.
    """
    if not len(examples) or limit <= 0 or not rngs:
        return None
    taken = [_steps(model, state, examples, target, settings, limit, rng) for rng in rngs]
    steps = [limit if n is None else n for n in taken]
    return RelearnTime(
        steps=sum(steps) / len(steps),
        low=min(steps),
        high=max(steps),
        reached=None not in taken,
        target=target,
        limit=limit,
    )


def _steps(
    model: EmotionModel,
    state: Mapping[str, Tensor],
    examples: Examples,
    target: float,
    settings: LocalSettings,
    limit: int,
    rng: np.random.Generator,
) -> int | None:
    """Steps of one order until the target; None = not within the limit, or the loss left all bounds."""
    working = copy.deepcopy(model)
    working.load_state_dict(dict(state))
    working.train()
    weights: list[Tensor] = [p for p in working.parameters() if p.requires_grad]
    take_step = optimiser(weights, settings.optimizer, settings.lr, 0.0, settings.weight_decay)
    order: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        for step in range(limit + 1):
            if _right(working, examples) >= target * len(examples) - 1e-6:
                return step
            if step == limit:
                break
            if not order:
                order = list(
                    torch.split(torch.from_numpy(rng.permutation(len(examples))), settings.batch_size)
                )
            batch = examples.take(order.pop(0))
            loss = F.cross_entropy(working.classify(batch.features, batch.frames), batch.labels)
            if not math.isfinite(loss.item()):
                return None
            gradients = torch.autograd.grad(loss, weights)
            take_step(gradients)
    return None


def _right(model: EmotionModel, examples: Examples) -> int:
    return int((predict(model, examples).argmax(1) == examples.labels).sum())
