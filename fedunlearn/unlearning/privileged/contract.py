"""Privileged baselines: methods that see more than the forget set, each by the type of its card.

They show how near to the retrained model a procedure comes with data that a ``contract.Method`` may not
have. All are federated procedures of the server with all clients. Four kinds:

- ``RoundsCard`` sees every client's retain set, in rounds of two halves: the requesters step away from their
  forget sets, then every client trains on what it keeps;
- ``HistoryCard`` sees the retain sets and what the server remembers of learning;
- ``RewindCard`` sees the retain sets and an earlier model of learning;
- ``ScratchCard`` sees the retain sets and none of the trained weights.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.random import Generator
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import LocalSettings
from fedunlearn.config.baselines import FineTuneSettings
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.config.work import LocalWork
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import LossFunction, descend_cross_entropy, train
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, unchanged


class ForgetPart(Protocol):
    """A requester's half of a round: away from its forget set. Pure: the model is not changed."""

    def __call__(
        self,
        model: EmotionModel,
        forget_set: ForgetSet,
        settings: UnlearningSettings,
        rng: np.random.Generator,
        scalars: ServerScalars,
        original: EmotionModel | None,
        held_out: Examples | None = None,
    ) -> UnlearnResult:
        """Step away from ``forget_set``.

        Args:
            model: the global model.
            forget_set: of the requester.
            settings: of all methods.
            rng: of this half.
            scalars: that the server sent.
            original: the card's teacher; None where it asks for none.
            held_out: n >= 0 held-out utterances of the requester; None where the card asks for none.

        Raises:
            UnlearnFailed: the loss is not finite; the message names the step.
        """
        ...


class RetainPart(Protocol):
    """A client's half of a round: training on what it keeps."""

    def __call__(
        self,
        model: EmotionModel,
        retain_set: Examples,
        settings: UnlearningSettings,
        local: LocalSettings,
        rng: np.random.Generator,
        original: EmotionModel | None,
    ) -> float:
        """Train ``model`` in place on ``retain_set``, n >= 1; returns the mean loss, as ``train`` does.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """How a procedure of rounds goes.

    Attributes:
        rounds: >= 0.
        forget_rounds: the first so many of them have a forget half.
        forget_share: >= 0, how far the server steps along the forget half's update.
        retain_share: >= 0, how far the server steps along the retain half's update.
    """

    rounds: int
    forget_rounds: int = 0
    forget_share: float = 1.0
    retain_share: float = 1.0


def as_it_came(weights: Mapping[str, Tensor], model: EmotionModel) -> StateDict:
    """The start of most procedures: the global model."""
    return dict(weights)


@dataclass(frozen=True)
class RoundsCard:
    """A procedure of rounds from the global model.

    Attributes:
        name: as tables show it.
        source: the publication it is from.
        plan: its rounds, from the settings.
        retain: every client's half.
        forget: the requesters' half, before it; None = they only leave their forget sets out.
        start: what the server does to the global model first; given a model of its kind.
        teacher: a model that both halves get: the global model as it was before the first round, or one
            trained from scratch without the forget sets.
        held_out: the requesters' half gets their held-out speech.
        orthogonal: the requesters' joint step is made orthogonal to the updates that the other clients would
            make from the same model, and the rounds with a forget half have no retain half; in the others,
            each client's update is made orthogonal to what the model has moved since the first round.
    """

    name: str
    source: str
    plan: Callable[[UnlearningSettings], Plan]
    retain: RetainPart
    forget: ForgetPart | None = None
    start: Callable[[Mapping[str, Tensor], EmotionModel], StateDict] = as_it_came
    teacher: Literal["original", "retrained"] | None = None
    held_out: bool = False
    orthogonal: bool = False
    sees: Literal["retain"] = "retain"


@dataclass(frozen=True)
class HistoryCard:
    """A procedure that repeats ordinary rounds, from the weights that training began with.

    Attributes:
        name: as tables show it.
        source: the publication it is from.
        rounds: settings and the number of ordinary rounds done -> those that are repeated, in order.
        work: settings and an ordinary round's amount of work -> that of a repeated round.
        calibrate: a client's new difference and the sizes that its old one had in that round, tensor by
            tensor -> the difference that is averaged.
    """

    name: str
    source: str
    rounds: Callable[[UnlearningSettings, int], Sequence[int]]
    work: Callable[[UnlearningSettings, LocalWork], LocalWork]
    calibrate: Callable[[Mapping[str, Tensor], Mapping[str, float]], StateDict]
    sees: Literal["history"] = "history"


@dataclass(frozen=True)
class RewindCard:
    """A procedure that goes back to an earlier model of learning and repeats the rounds since then.

    Attributes:
        name: as tables show it.
        source: the publication it is from.
        rounds: settings -> ordinary rounds gone back, counted from the last one of learning.
    """

    name: str
    source: str
    rounds: Callable[[UnlearningSettings], int]
    sees: Literal["history"] = "history"


@dataclass(frozen=True)
class ScratchCard:
    """Training from scratch, from new random weights, without the forget sets."""

    name: str
    source: str
    sees: Literal["retain"] = "retain"


PrivilegedCard = RoundsCard | HistoryCard | RewindCard | ScratchCard

S = TypeVar("S")
R = TypeVar("R", bound=FineTuneSettings)
PrivilegedObjective = Callable[[EmotionModel, ForgetSet, S, Generator, ServerScalars, Any], UnlearnResult]
"""A forget half as a baseline's file writes it: with its own settings, and of one utterance or more."""


def forget_half(
    settings: Callable[[UnlearningSettings], S],
) -> Callable[[PrivilegedObjective[S]], ForgetPart]:
    """Make a requester's half from its objective; an empty forget set returns the model as it came.

    Args:
        settings: the baseline's own settings out of those of all methods.

    The objective's last argument is the teacher, or the held-out speech where the card asks for that.
    """
    choose = settings

    def part(objective: PrivilegedObjective[S]) -> ForgetPart:
        def forget(
            model: EmotionModel,
            forget_set: ForgetSet,
            settings: UnlearningSettings,
            rng: np.random.Generator,
            scalars: ServerScalars,
            original: EmotionModel | None,
            held_out: Examples | None = None,
        ) -> UnlearnResult:
            if len(forget_set) == 0:
                return unchanged(model, "empty forget set")
            more = original if held_out is None else held_out
            return objective(model, forget_set, choose(settings), rng, scalars, more)

        return forget

    return part


def retain_half(
    settings: Callable[[UnlearningSettings], R],
    objective: Callable[[R, EmotionModel], LossFunction] | None = None,
) -> RetainPart:
    """Make a client's half: local training with the baseline's own amount of work and learning rate.

    Args:
        settings: the baseline's own settings out of those of all methods.
        objective: settings and the teacher, a frozen copy of the original -> the loss; None = cross-entropy.
    """
    choose = settings

    def retain(
        model: EmotionModel,
        retain_set: Examples,
        settings: UnlearningSettings,
        local: LocalSettings,
        rng: np.random.Generator,
        original: EmotionModel | None,
    ) -> float:
        chosen = choose(settings)
        loss: LossFunction = descend_cross_entropy
        if objective is not None:
            assert original is not None
            loss = objective(chosen, copy.deepcopy(original).eval())
        return train(model, retain_set, local.with_work(chosen.work), chosen.lr, rng, loss)

    return retain
