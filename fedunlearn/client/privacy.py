"""Client-side differential privacy of the unlearn update: clipping, Gaussian noise, and the guarantee.

It protects which utterances a request deletes: two runs are neighbours if they differ in the forget set of
one client's request, by any number of its utterances. (The server knows anyway that the client requests a
deletion, and of how many utterances.) A clipped update lies in a ball of radius ``clip``, so that two of them
are at most 2 * clip apart: that is the sensitivity. Epsilon covers this one release only. It covers neither
the ordinary updates that the same utterances influenced before, nor recovery rounds.
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
    """The (epsilon, delta) guarantee of one release.

    Attributes:
        epsilon: >= 0; infinite where no noise was added.
        delta: in (0, 1).
    """

    epsilon: float
    delta: float


def privatize(
    update: Mapping[str, Tensor],
    trained: Collection[str],
    settings: PrivacySettings,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Clip an update and add noise to it, as the settings require before it leaves the device.

    Args:
        update: weights after unlearning minus weights before.
        trained: names of the trained tensors; the others (constants, which no method moves) stay as they are.
        settings: with clip = 0 the update is returned unchanged.
        rng: source of the noise, drawn tensor by tensor in the update's order.
    """
    if not settings.clip:
        return dict(update)
    norm = math.sqrt(sum(float(update[k].double().square().sum()) for k in update if k in trained))
    scale = min(1.0, settings.clip / norm) if norm > 0 else 1.0
    std = settings.noise * settings.clip
    private = dict(update)
    for name, value in update.items():
        if name in trained and (scale < 1.0 or std):
            noise = torch.from_numpy(rng.standard_normal(tuple(value.shape))) * std if std else 0.0
            private[name] = (scale * value.double() + noise).to(value.dtype)
    return private


def redact(result: UnlearnResult, settings: PrivacySettings) -> UnlearnResult:
    """Remove what was measured on the forget set from a result, if noise is to hide the forget set."""
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
    """Compute the guarantee that the noise gives: epsilon at the settings' delta, at sensitivity 2 * clip."""
    if not settings.noise:
        return Guarantee(math.inf, settings.delta)
    return Guarantee(epsilon_of(2.0 / settings.noise, settings.delta), settings.delta)


def delta_of(epsilon: float, ratio: float) -> float:
    """Compute the exact delta of the Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06083, theorem 8).

    delta = Phi(r / 2 - epsilon / r) - e^epsilon Phi(-r / 2 - epsilon / r)

    Args:
        epsilon: >= 0.
        ratio: r > 0, the sensitivity divided by the noise's standard deviation.
    """
    from scipy.special import log_ndtr  # every worker imports this module, and few runs add noise

    first = float(log_ndtr(ratio / 2 - epsilon / ratio))
    second = epsilon + float(log_ndtr(-ratio / 2 - epsilon / ratio))
    # e^first - e^second, both of which may be far below the smallest float's neighbour of 1.
    return -math.exp(first) * math.expm1(min(0.0, second - first))


def epsilon_of(ratio: float, delta: float) -> float:
    """Find the smallest epsilon >= 0 with ``delta_of(epsilon, ratio) <= delta``.

    The result is accurate to a relative 1e-12, rounded up.

    Args:
        ratio: > 0, the sensitivity divided by the noise's standard deviation.
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
