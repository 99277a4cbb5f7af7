"""The type of an unlearning method: it takes the forget set, and can take no other data.

A method gets the model, the forget set, its own settings, a random generator and a few scalars that the
server may send. There is no parameter through which retain data could come (DESIGN, promise 1).
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel

_CHUNK = 256
"""utterances classified at a time"""


@dataclass(frozen=True)
class LogOdds:
    """Mean and standard deviation (> 0) of the true class's log-odds over the speech of all clients."""

    mean: float
    std: float


@dataclass(frozen=True)
class UnknownSpeakers:
    """How much worse the model recognises speakers that it never heard than those that it trains on.

    Measured in learning, before the last clients have joined it (``training.late_clients``): the model's
    log-odds on all speech of these clients against those on the held-out speech of the others.

    Attributes:
        drop: (mean of the known speakers - mean of the unknown ones) / standard deviation of the known ones;
            > 0 where unknown speakers are recognised worse.
        spread: standard deviation of the unknown speakers / that of the known ones, > 0.
    """

    drop: float
    spread: float


@dataclass(frozen=True)
class ServerScalars:
    """The only numbers that the server may send to a method. None: the server did not send it.

    Attributes:
        test_accuracy: of the global model on the clients' held-out speech, in [0, 1]; the level down to
            which a method may let the forget accuracy fall.
        share: of the requester's training utterances that it deletes, in (0, 1].
        trained: log-odds that the smoothed global model gives the clients' training speech.
        held_out: log-odds that the global model gives their held-out speech.
        unknown: how much worse the model recognised unknown speakers than known ones, early in learning.
    """

    test_accuracy: float | None = None
    share: float | None = None
    trained: LogOdds | None = None
    held_out: LogOdds | None = None
    unknown: UnknownSpeakers | None = None


@dataclass(frozen=True)
class UnlearnResult:
    """The result of a method.

    Attributes:
        state: the model's new state dict (same keys and shapes as it came in).
        steps: gradient steps taken.
        stopped: why it stopped, such as "level", "zero", "steps", "empty forget set".
        forget_accuracy: on the forget set before and after, in [0, 1]; NaN for an empty set.
        adversarial: samples made by the attack.
        attack_success: share of them that the original model classifies as the target; NaN if none.
        scalars_read: which of the server's scalars the method used.
        notes: further numbers by name.
        targets: log-odds of the true class, float64 [n], that each forget utterance was trained towards;
            None where the method has no such targets. They never leave the device.
    """

    state: dict[str, Tensor]
    steps: int
    stopped: str
    forget_accuracy: tuple[float, float]
    adversarial: int = 0
    attack_success: float = float("nan")
    scalars_read: tuple[str, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
    targets: Tensor | None = None


def snapshot(model: EmotionModel) -> dict[str, Tensor]:
    """Copy the model's state dict; the copy shares no memory with it."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def unchanged(model: EmotionModel, stopped: str, examples: Examples | None = None) -> UnlearnResult:
    """Return the result of doing nothing.

    Args:
        model: not changed.
        stopped: why nothing was done.
        examples: the forget set, on which the accuracy is taken; None = it is empty.
    """
    accuracy = math.nan if examples is None else forget_accuracy(copy.deepcopy(model).eval(), examples)
    return UnlearnResult(snapshot(model), steps=0, stopped=stopped, forget_accuracy=(accuracy, accuracy))


@torch.no_grad()
def forget_accuracy(model: EmotionModel, examples: Examples, step: int = 0) -> float:
    """Return the share of examples [n, T, D] that the model (in eval mode) classifies correctly.

    It is in [0, 1]; NaN if n = 0.

    Raises:
        UnlearnFailed: a logit is not finite after ``step`` steps.
    """
    right = 0
    for index in torch.split(torch.arange(len(examples)), _CHUNK):
        part = examples.take(index)
        logits = model.classify(part.features, part.frames)
        if not bool(logits.isfinite().all()):
            raise UnlearnFailed(f"step {step}: the model's output on the forget set is not finite")
        right += int((logits.argmax(1) == part.labels).sum())
    return right / len(examples) if len(examples) else math.nan


class UnlearnFailed(Exception):
    """A loss is not finite, at the step that the message names. The model that came in is untouched."""


class Method(Protocol):
    """An unlearning method as the client calls it, with the settings of all. The model is not changed."""

    def __call__(
        self,
        model: EmotionModel,
        forget_set: ForgetSet,
        settings: UnlearningSettings,
        rng: np.random.Generator,
        scalars: ServerScalars,
    ) -> UnlearnResult:
        """Forget ``forget_set``.

        Raises:
            UnlearnFailed: the loss is not finite; the message names the step.
        """
        ...


Sees = Literal["forget", "forget + ticket", "retain", "history"]


@dataclass(frozen=True)
class MethodCard:
    """A method and all that the package has to know of it.

    Attributes:
        name: as tables show it and ``unlearning.method`` takes it.
        sees: what data it sees.
        source: whom it is from.
        unlearn: the method.
        reads_log_odds: whether the server has to ask the clients for ``trained`` and ``held_out``, and
            sends ``unknown``.
        control: of a control, what it does in place of unlearning: "leaves the model as it is"; else empty.
        title: as a page shows it; empty = the name.
        guarded: whether the server's guard examines its updates; not where it wrecks the model on purpose.
        needs_waveform: whether, with these settings, it reads the forget set's waveforms.
    """

    name: str
    sees: Sees
    source: str
    unlearn: Method
    reads_log_odds: bool = False
    control: str = ""
    guarded: bool = True
    needs_waveform: Callable[[UnlearningSettings], bool] = lambda chosen: False
    title: str = ""

    @property
    def reads_tickets(self) -> bool:
        """Whether devices have to note tickets while the model learns."""
        return self.sees == "forget + ticket"


S = TypeVar("S")
MethodObjective = Callable[[EmotionModel, ForgetSet, S, np.random.Generator, ServerScalars], UnlearnResult]
"""A method as its file writes it: with its own settings, and of one utterance or more."""


def method(
    name: str,
    *,
    source: str,
    settings: Callable[[UnlearningSettings], S],
    reads_log_odds: bool = False,
    control: str = "",
    guarded: bool = True,
    needs_waveform: Callable[[UnlearningSettings], bool] = lambda chosen: False,
    title: str = "",
    sees: Literal["forget", "forget + ticket"] = "forget",
) -> Callable[[MethodObjective[S]], MethodCard]:
    """Make a method's card from its objective.

    What every method must do stands here once: an empty forget set returns the model as it came,
    ``stopped="empty forget set"``. What every method promises, too: the model that comes in is not changed;
    ``UnlearnFailed`` where the loss or the output is not finite.

    Args:
        name: as of ``MethodCard``.
        source: as of ``MethodCard``.
        settings: the method's own settings out of those of all.
        reads_log_odds: as of ``MethodCard``.
        control: as of ``MethodCard``.
        guarded: as of ``MethodCard``.
        needs_waveform: as of ``MethodCard``.
        title: as of ``MethodCard``.
        sees: as of ``MethodCard``. A method that sees tickets fails where the device has noted none.
    """
    choose = settings

    def card(objective: MethodObjective[S]) -> MethodCard:
        def unlearn(
            model: EmotionModel,
            forget_set: ForgetSet,
            settings: UnlearningSettings,
            rng: np.random.Generator,
            scalars: ServerScalars,
        ) -> UnlearnResult:
            if len(forget_set) == 0:
                return unchanged(model, "empty forget set")
            if sees == "forget + ticket" and forget_set.tickets is None:
                raise UnlearnFailed("the device has noted no tickets of what is to be unlearned")
            return objective(model, forget_set, choose(settings), rng, scalars)

        return MethodCard(
            name, sees, source, unlearn, reads_log_odds, control, guarded, needs_waveform, title
        )

    return card
