"""Client-side differential privacy of the unlearn update: clip it, add Gaussian noise, say what it is worth.

What is protected is which utterances a request takes back: two runs are neighbours if they differ in the
forget set of one client's request, by any number of its utterances. (That the client asks, and for how many,
the server knows anyway.) A clipped update lies in a ball of radius ``clip``, so that two of them are at most
2 * clip apart: that is the sensitivity. Epsilon is that of this one release alone. It says nothing of the
ordinary updates that the same utterances shaped while they were there, nor of recovery rounds.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.guard import PrivacySettings
from fedunlearn.unlearning.contract import UnlearnResult


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta) of one release; infinite where nothing was added."""

    epsilon: float
    delta: float


def released(
    update: Mapping[str, Tensor],
    trained: Collection[str],
    settings: PrivacySettings,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """An update as it may leave the device.

    Args:
        update: weights after less weights before.
        trained: names of the trained tensors; the others (constants, which no method moves) stay as they are.
        settings: with clip = 0 the update comes back as it is.
        rng: of the noise, drawn tensor by tensor in the update's order.
    """
    if not settings.clip:
        return dict(update)
    length = math.sqrt(sum(float(update[k].double().square().sum()) for k in update if k in trained))
    shorter = min(1.0, settings.clip / length) if length > 0 else 1.0
    std = settings.noise * settings.clip
    sent = dict(update)
    for name, value in update.items():
        if name in trained and (shorter < 1.0 or std):
            noise = torch.from_numpy(rng.standard_normal(tuple(value.shape))) * std if std else 0.0
            sent[name] = (shorter * value.double() + noise).to(value.dtype)
    return sent


def told(result: UnlearnResult, settings: PrivacySettings) -> UnlearnResult:
    """The result without what was measured on the forget set, where noise is to hide that."""
    if not settings.noise:
        return result
    return replace(
        result,
        steps=0,
        stopped="not told",
        forget_accuracy=(math.nan, math.nan),
        adversarial=0,
        attack_success=math.nan,
        notes={},
    )


def guarantee(settings: PrivacySettings) -> Guarantee:
    """What the noise is worth: epsilon at the settings' delta, of sensitivity 2 * clip."""
    if not settings.noise:
        return Guarantee(math.inf, settings.delta)
    return Guarantee(epsilon_of(2.0 / settings.noise, settings.delta), settings.delta)


def delta_of(epsilon: float, ratio: float) -> float:
    """The exact delta of the Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06083, theorem 8).

    delta = Phi(r / 2 - epsilon / r) - e^epsilon Phi(-r / 2 - epsilon / r)

    Args:
        epsilon: >= 0.
        ratio: r > 0, sensitivity over the noise's standard deviation.
    """
    from scipy.special import log_ndtr  # every worker imports this module, and few runs add noise

    first = float(log_ndtr(ratio / 2 - epsilon / ratio))
    second = epsilon + float(log_ndtr(-ratio / 2 - epsilon / ratio))
    # e^first - e^second, both of which may be far below the smallest float's neighbour of 1.
    return -math.exp(first) * math.expm1(min(0.0, second - first))


def epsilon_of(ratio: float, delta: float) -> float:
    """The smallest epsilon >= 0 with ``delta_of(epsilon, ratio) <= delta``, to a relative 1e-12, rounded up.

    Args:
        ratio: > 0, sensitivity over the noise's standard deviation.
        delta: in (0, 1).
    """
    if delta_of(0.0, ratio) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, ratio) > delta:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, ratio) > delta else (low, middle)
    return high
