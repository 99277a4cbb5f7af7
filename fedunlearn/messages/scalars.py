"""The few numbers that the server sends to requesters, from asking to reading: no weights, no features.

Every client says how its held-out speech fares with the global model: right answers, and, where the method
reads them, sums of log-odds. The server sees these sums of each client, a requester gets averages over all.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from flwr.app import RecordDict
from torch import Tensor

from fedunlearn.messages.records import MessageConfig, Refused, number
from fedunlearn.messages.replies import LARGEST_LOG_ODDS, Metrics
from fedunlearn.unlearning.contract import LogOdds, ServerScalars

_NOT_KNOWN = -1.0


@dataclass(frozen=True)
class Sums:
    """Of one client's log-odds: how many, their sum and the sum of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> "Sums":
        """[n] -> their sums."""
        return cls(len(values), float(values.sum()), float(values.square().sum()))

    def as_metrics(self, name: str) -> dict[str, float]:
        """As a reply carries them."""
        return {f"{name}_{part}": value for part, value in vars(self).items()}

    @classmethod
    def read(cls, reply: RecordDict, name: str, held: int) -> "Sums":
        """Back from a reply of a client that holds ``held`` such utterances.

        Raises:
            Refused: a number is missing or not finite, the count is neither 0 nor ``held``, or they cannot
                be sums of so many log-odds of +-1000 at most.
        """
        sums = cls(*(number(reply, f"{name}_{part}") for part in ("count", "total", "squares")))
        most = sums.count * LARGEST_LOG_ODDS
        possible = abs(sums.total) <= most and 0 <= sums.squares <= most * LARGEST_LOG_ODDS
        if sums.count not in {0, held} or not possible:
            raise Refused(f"the sums of its log-odds ({name}) cannot be right")
        if sums.total**2 > sums.count * sums.squares * (1 + 1e-9) + 1e-9:
            raise Refused(f"the sums of its log-odds ({name}) cannot be right")
        return sums

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def spread(self) -> LogOdds | None:
        """Mean and standard deviation; None of nothing, or where all are equal."""
        if not self.count:
            return None
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        return LogOdds(mean, math.sqrt(variance)) if variance > 0 else None


@dataclass(frozen=True)
class Evaluation:
    """How a client's speech fares with a model.

    Attributes:
        right: held-out utterances that the model gets right.
        examples: held-out utterances.
        trained: sums of the log-odds of its training speech; of nothing where they were not asked for.
        held_out: the same of its held-out speech.
    """

    right: int
    examples: int
    trained: Sums = Sums()
    held_out: Sums = Sums()


def read_evaluation(reply: RecordDict, train: int, held_out: int, log_odds: bool) -> Evaluation:
    """The answer to "evaluate".

    Args:
        reply: of a client.
        train: utterances that it trains on.
        held_out: utterances that it holds out.
        log_odds: whether their sums were asked for.

    Raises:
        Refused: a number is out of range, or cannot be right of so many utterances.
    """
    said = Metrics("evaluate", reply)
    right, examples = said.whole("right"), said.whole("examples")
    if examples != held_out or right > examples:
        raise Refused(f"{right} right of {examples}, but it holds out {held_out}")
    if not log_odds:
        return Evaluation(right, examples)
    trained = Sums.read(reply, "trained", train)
    return Evaluation(right, examples, trained, Sums.read(reply, "held_out", held_out))


def pooled(replies: Collection[Evaluation]) -> ServerScalars:
    """What all clients' replies say together.

    Args:
        replies: in client order.
    """
    examples = sum(reply.examples for reply in replies)
    return ServerScalars(
        test_accuracy=sum(reply.right for reply in replies) / examples if examples else None,
        trained=sum((reply.trained for reply in replies), Sums()).spread(),
        held_out=sum((reply.held_out for reply in replies), Sums()).spread(),
    )


def as_settings(scalars: ServerScalars) -> dict[str, float]:
    """As a message to a requester carries them."""
    told = {"level": scalars.test_accuracy, "share": scalars.share}
    for name, spread in (("trained", scalars.trained), ("held_out", scalars.held_out)):
        told[f"{name}_mean"] = spread.mean if spread else None
        told[f"{name}_std"] = spread.std if spread else None
    return {name: _NOT_KNOWN if value is None else value for name, value in told.items()}


def read_scalars(asked: MessageConfig) -> ServerScalars:
    """Back from the message."""

    def known(name: str) -> float | None:
        value = asked.real(name)
        return value if value >= 0 else None

    def spread(name: str) -> LogOdds | None:
        std = known(f"{name}_std")
        return None if std is None else LogOdds(asked.real(f"{name}_mean"), std)

    return ServerScalars(known("level"), known("share"), spread("trained"), spread("held_out"))
