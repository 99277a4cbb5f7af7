"""Malicious clients that send a forged unlearn update: what the server's guard is tested against.

A forged update replaces the honest one and has its form; the server does not know. Only unlearn messages are
answered with forged updates: in every other respect a malicious client behaves like an honest one.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.config import LocalSettings
from fedunlearn.config.guard import AttackerSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import train

Behaviour = Callable[["Adversary"], StateDict]
"""adversary -> the update that it sends, at factor 1"""


class Adversary:
    """What a malicious client knows when it forges an update.

    Attributes:
        model: with the global weights; not changed.
        honest: the update that an honest client would send.
        own: all training examples that the client still holds, D_f included.
        local: settings of its local training in ordinary rounds.
        target: class number, taken modulo the number of classes.
        rng: source of its randomness.
    """

    def __init__(
        self,
        model: EmotionModel,
        honest: Mapping[str, Tensor],
        own: Examples,
        local: LocalSettings,
        target: int,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.honest, self.own = model, dict(honest), own
        self.local, self.target, self.rng = local, target % model.classes, rng

    @property
    def trained(self) -> Collection[str]:
        """Names of the tensors that training moves."""
        return {name for name, p in self.model.named_parameters() if p.requires_grad}


def send_honest_update(adversary: Adversary) -> StateDict:
    """Return the honest update, which ``craft_update`` scales."""
    return adversary.honest


def reverse_update(adversary: Adversary) -> StateDict:
    """Negate the honest update: it reinforces the forget set and undoes what other clients unlearn."""
    return {name: -value for name, value in adversary.honest.items()}


def flip_labels(adversary: Adversary) -> StateDict:
    """Train an ordinary round in which every utterance of the target class is labelled as the next class.

    Label flipping, after Tolpegin et al. 2020 (arXiv 2007.08432).
    """
    own, model = adversary.own, copy.deepcopy(adversary.model)
    labels = torch.where(own.labels == adversary.target, (adversary.target + 1) % model.classes, own.labels)
    train(model, replace(own, labels=labels), adversary.local, adversary.local.lr, adversary.rng)
    return difference(model.state_dict(), adversary.model.state_dict())


def draw_random_direction(adversary: Adversary) -> StateDict:
    """Draw Gaussian noise on the trained tensors, of the same L2 norm as the honest update."""
    noise = {
        name: torch.from_numpy(adversary.rng.standard_normal(tuple(value.shape)))
        if name in adversary.trained
        else torch.zeros_like(value, dtype=torch.float64)
        for name, value in adversary.honest.items()
    }
    scale = _norm(adversary.honest) / _norm(noise)
    return {name: (scale * value).to(adversary.honest[name].dtype) for name, value in noise.items()}


BEHAVIOURS: dict[str, Behaviour] = {
    "scaled": send_honest_update,
    "flipped": reverse_update,
    "targeted": flip_labels,
    "random": draw_random_direction,
}
"""``attackers.kind`` -> what such a client does"""


def craft_update(settings: AttackerSettings, adversary: Adversary) -> StateDict:
    """Forge an update: finite, with the keys, shapes and types of the honest one.

    Args:
        settings: kind of behaviour and its factor.
        adversary: what the client knows.
    """
    behaviour = BEHAVIOURS[settings.kind]
    return {name: settings.factor * value for name, value in behaviour(adversary).items()}


def _norm(update: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))
