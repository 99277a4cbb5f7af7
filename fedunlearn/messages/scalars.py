"""The few numbers that the server sends to requesters with the weights, and how they are collected.

Every client evaluates the global model on its held-out examples: number of correct predictions and, if the
unlearning method reads them, sums of log-odds. The server sees these sums of each client; a requester gets
averages over all clients.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from flwr.app import RecordDict
from torch import Tensor

from fedunlearn.messages.records import MessageConfig, Refused, number
from fedunlearn.messages.replies import LARGEST_LOG_ODDS, Metrics
from fedunlearn.unlearning.contract import LogOdds, ServerScalars, UnknownSpeakers

_NOT_KNOWN = -1.0


@dataclass(frozen=True)
class Sums:
    """Sums of one client's log-odds.

    Attributes:
        count: how many there are.
        total: their sum.
        squares: the sum of their squares.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> "Sums":
        """Sum up log-odds [n]."""
        return cls(len(values), float(values.sum()), float(values.square().sum()))

    def as_metrics(self, name: str) -> dict[str, float]:
        """Return them as metrics of a reply, with ``name`` before each."""
        return {f"{name}_{part}": value for part, value in vars(self).items()}

    @classmethod
    def read(cls, reply: RecordDict, name: str, held: int) -> "Sums":
        """Read what ``as_metrics`` gave.

        Args:
            reply: content of the reply.
            name: before each metric.
            held: number of such utterances that the client holds.

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
        """Compute mean and standard deviation; None if there are no values, or all are equal."""
        if not self.count:
            return None
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        return LogOdds(mean, math.sqrt(variance)) if variance > 0 else None


@dataclass(frozen=True)
class Evaluation:
    """A client's evaluation of a model.

    Attributes:
        right: number of held-out utterances that the model gets right.
        examples: number of held-out utterances.
        trained: sums of the log-odds of its training utterances; empty if they were not requested.
        held_out: the same for its held-out utterances.
    """

    right: int
    examples: int
    trained: Sums = Sums()
    held_out: Sums = Sums()


def read_evaluation(reply: RecordDict, train: int, held_out: int, log_odds: bool) -> Evaluation:
    """Read the reply to "evaluate".

    Args:
        reply: its content.
        train: number of utterances that the client trains on.
        held_out: number of utterances that it holds out.
        log_odds: whether sums of log-odds were requested.

    Raises:
        Refused: a number is out of range, or cannot be right for so many utterances.
    """
    metrics = Metrics("evaluate", reply)
    right, examples = metrics.whole("right"), metrics.whole("examples")
    if examples != held_out or right > examples:
        raise Refused(f"{right} right of {examples}, but it holds out {held_out}")
    if not log_odds:
        return Evaluation(right, examples)
    trained = Sums.read(reply, "trained", train)
    return Evaluation(right, examples, trained, Sums.read(reply, "held_out", held_out))


def pool_evaluations(replies: Collection[Evaluation]) -> ServerScalars:
    """Combine the evaluations of all clients into the numbers that requesters get.

    Args:
        replies: in client order.
    """
    examples = sum(reply.examples for reply in replies)
    return ServerScalars(
        test_accuracy=sum(reply.right for reply in replies) / examples if examples else None,
        trained=sum((reply.trained for reply in replies), Sums()).spread(),
        held_out=sum((reply.held_out for reply in replies), Sums()).spread(),
    )


def read_log_odds(reply: RecordDict, held: int) -> Sums:
    """Read the reply to "evaluate.log_odds".

    Args:
        reply: its content.
        held: number of utterances that the client was asked to sum up.

    Raises:
        Refused: a number is out of range, or cannot be right for so many utterances.
    """
    Metrics("evaluate.log_odds", reply)
    return Sums.read(reply, "log_odds", held)


def compare_log_odds(known: Iterable[Sums], unknown: Iterable[Sums]) -> UnknownSpeakers | None:
    """Compare the log-odds of unknown speakers with those of known ones.

    Args:
        known: of the clients that have trained, in client order.
        unknown: of those that have not, in client order.

    Returns:
        None where there are no values of either, or where all are equal
    """
    of_known, of_unknown = (sum(sums, Sums()).spread() for sums in (known, unknown))
    if of_known is None or of_unknown is None:
        return None
    drop = (of_known.mean - of_unknown.mean) / of_known.std
    spread = of_unknown.std / of_known.std
    return UnknownSpeakers(drop, spread) if math.isfinite(drop) and 0 < spread < math.inf else None


def as_settings(scalars: ServerScalars) -> dict[str, float]:
    """Return the numbers as settings of a message to a requester."""
    values = {"level": scalars.test_accuracy, "share": scalars.share}
    for name, spread in (("trained", scalars.trained), ("held_out", scalars.held_out)):
        values[f"{name}_mean"] = spread.mean if spread else None
        values[f"{name}_std"] = spread.std if spread else None
    unknown = scalars.unknown
    values["drop"], values["spread"] = (unknown.drop, unknown.spread) if unknown else (None, None)
    return {name: _NOT_KNOWN if value is None else value for name, value in values.items()}


def read_scalars(settings: MessageConfig) -> ServerScalars:
    """Read what ``as_settings`` gave.

    Raises:
        ValueError: a number is missing.
    """

    def known(name: str) -> float | None:
        value = settings.real(name)
        return value if value >= 0 else None

    def spread(name: str) -> LogOdds | None:
        std = known(f"{name}_std")
        return None if std is None else LogOdds(settings.real(f"{name}_mean"), std)

    of_unknown = known("spread")
    unknown = None if of_unknown is None else UnknownSpeakers(settings.real("drop"), of_unknown)
    return ServerScalars(known("level"), known("share"), spread("trained"), spread("held_out"), unknown)
