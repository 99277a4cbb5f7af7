"""Clients that lie when they are asked to unlearn: what the guard is tested against.

A lie stands in the place of an honest unlearn update and has its form; the server is told nothing. Only
unlearn messages are answered with lies: in every other respect an attacker is an ordinary client.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedunlearn.blockwise import difference
from fedunlearn.config import LocalSettings
from fedunlearn.config.guard import AttackerSettings
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import train

StateDict = dict[str, Tensor]
Lie = Callable[["Adversary"], StateDict]


class Adversary:
    """What an attacker has to work with.

    Attributes:
        model: with the global weights; not changed.
        honest: the update that it ought to send.
        own: all its training speech that it still holds, D_f included.
        local: how it trains in ordinary rounds.
        target: class number; one that the corpus lacks counts on from the first again.
        rng: of its randomness.
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


def scaled(liar: Adversary) -> StateDict:
    """The honest update."""
    return liar.honest


def flipped(liar: Adversary) -> StateDict:
    """The honest update backwards: remember it better, and undo what others unlearn."""
    return {name: -value for name, value in liar.honest.items()}


def targeted(liar: Adversary) -> StateDict:
    """An ordinary round in which every utterance of the target class is said to be of the next one.

    Label flipping, after Tolpegin et al. 2020 (arXiv 2007.08432).
    """
    own, model = liar.own, copy.deepcopy(liar.model)
    labels = torch.where(own.labels == liar.target, (liar.target + 1) % model.classes, own.labels)
    train(model, replace(own, labels=labels), liar.local, liar.local.lr, liar.rng)
    return difference(model.state_dict(), liar.model.state_dict())


def random_direction(liar: Adversary) -> StateDict:
    """Gaussian noise on the trained tensors, as long as the honest update."""
    noise = {
        name: torch.from_numpy(liar.rng.standard_normal(tuple(value.shape)))
        if name in liar.trained
        else torch.zeros_like(value, dtype=torch.float64)
        for name, value in liar.honest.items()
    }
    shorter = _length(liar.honest) / _length(noise)
    return {name: (shorter * value).to(liar.honest[name].dtype) for name, value in noise.items()}


BEHAVIOURS: dict[str, Lie] = {
    "scaled": scaled,
    "flipped": flipped,
    "targeted": targeted,
    "random": random_direction,
}


def craft_update(settings: AttackerSettings, liar: Adversary) -> StateDict:
    """What this attacker sends instead of its honest update: the same keys, shapes and types, and finite."""
    return {name: settings.factor * value for name, value in BEHAVIOURS[settings.kind](liar).items()}


def _length(update: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))
