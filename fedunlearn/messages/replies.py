"""What a client may reply: every field of every message, its type and its range, declared in one place.

A reply is read into a frozen value, or refused with a line that names the field and its value. Nothing of a
refused reply enters a model, the server's state or the results. Ranges that hold for every client are in
``RANGES``; tighter ones follow from what the server knows about the client and are arguments of the readers.
The readers for requests are in ``server.requests``, those for evaluations in ``scalars`` and for rehearsals
in ``rehearsals``; they, too, read through ``Metrics``.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedunlearn.blockwise import sum_of_squares
from fedunlearn.messages.records import Refused, number, weights_like
from fedunlearn.messages.update import Update

MOST_UTTERANCES = 1_000_000
"""on one device, and of one request"""
MOST_CLIENTS = 1_000_000
MOST_ROUNDS = 2**31 - 1
"""of a deadline; how long a run waits does not depend on what a client reports"""
MOST_REQUESTS = 10_000
"""that one device reports, closed ones included"""
LONGEST_UTTERANCE = 120.0
"""s, on average over a client's utterances: bounds the number of frames that its moments stand for"""
LARGEST_LOSS = 1e12
"""nats"""
LARGEST_FEATURE = 1e6
"""bound of the absolute mean of a feature, and of the root of its mean square"""
LARGEST_LOG_ODDS = 1000.0
"""bound of log-odds from float32 logits"""
LONGEST_UPDATE = 100.0
"""L2 norm of an ordinary update, as a multiple of 1 + that of the model's trained weights"""
LONGEST_UNLEARN_UPDATE = 1e18
"""the same for an unlearn update: unbounded gradient ascent is honest and diverges, and shorter ones are up
to the guard; the squares of longer ones do not fit into float32"""
LONGEST_REHEARSAL = 1e18
"""L2 norm of an update that is not sent"""


@dataclass(frozen=True)
class Range:
    """The allowed values of one number in a reply.

    Attributes:
        least: the smallest value.
        most: the largest value.
        whole: whether it is a count: 3.7 is refused, not rounded.
        optional: whether it may be absent.
    """

    least: float
    most: float
    whole: bool = True
    optional: bool = False

    def read(self, content: RecordDict, name: str) -> float | None:
        """Read a metric of a reply; None if it is absent and optional.

        Args:
            content: of the reply.
            name: of the metric.

        Raises:
            Refused: it is missing, no finite number, not whole, or out of range.
        """
        if self.optional and name not in content.metric_records.get("metrics", MetricRecord()):
            return None
        value = number(content, name)
        if not self.holds(value):
            expected = "a count was expected" if self.whole else "a number was expected"
            limits = f"{self.least:.15g} to {self.most:.15g}"
            raise Refused(f"the reply's metric {name} is {value:.15g}; {expected}, {limits}")
        return value

    def holds(self, value: float) -> bool:
        """Tell whether a finite number is within the range."""
        return self.least <= value <= self.most and (not self.whole or value == int(value))


_UTTERANCES = Range(0, MOST_UTTERANCES)
_SHARE = Range(0.0, 1.0, whole=False, optional=True)
_TRAINING = {"examples": _UTTERANCES, "loss": Range(0.0, LARGEST_LOSS, whole=False)}
_FORGETTING = {
    "examples": _UTTERANCES,
    "steps": Range(0, 10**9),
    "adversarial": Range(0, 10**9),
    "forget_before": _SHARE,
    "forget_after": _SHARE,
    "attack_success": _SHARE,
}
_REHEARSAL = {
    "norm": Range(0.0, LONGEST_REHEARSAL, whole=False),
    "silenced": Range(0.0, 1.0, whole=False),
    "before": _UTTERANCES,
    "after": _UTTERANCES,
}
_SUMS = {
    "count": Range(0, MOST_UTTERANCES, optional=True),
    "total": Range(
        -MOST_UTTERANCES * LARGEST_LOG_ODDS, MOST_UTTERANCES * LARGEST_LOG_ODDS, whole=False, optional=True
    ),
    "squares": Range(0.0, MOST_UTTERANCES * LARGEST_LOG_ODDS**2, whole=False, optional=True),
}
EVERY_REPLY: Mapping[str, Range] = {
    "seconds": Range(0.0, 86_400.0, whole=False, optional=True),
    "died": Range(0, 1, optional=True),
}
"""metrics of every reply: CPU seconds, and whether a process died when it tried the message before"""
RANGES: Mapping[str, Mapping[str, Range]] = {
    "query.population": {
        "client": Range(0, MOST_CLIENTS - 1),
        "train": _UTTERANCES,
        "test": _UTTERANCES,
    },
    "train.calibrate": {"examples": Range(0, 10**12)},
    "train": _TRAINING,
    "train.retain_part": _TRAINING,
    "evaluate": {
        "examples": _UTTERANCES,
        "right": _UTTERANCES,
        **{f"{of}_{part}": range_ for of in ("trained", "held_out") for part, range_ in _SUMS.items()},
    },
    "evaluate.log_odds": {f"log_odds_{part}": range_ for part, range_ in _SUMS.items()},
    "query.deletions": {"train": _UTTERANCES},
    "train.unlearn": _FORGETTING,
    "train.forget_part": _FORGETTING,
    "train.rehearse": _REHEARSAL,
    "query.purge": {
        "removed": Range(0, MOST_UTTERANCES, optional=True),
        "verified": Range(0, 1),
        "train": _UTTERANCES,
        "held": _UTTERANCES,
    },
}
"""message type -> metrics of the reply"""
REQUEST_RANGES: Mapping[str, Range] = {
    "counts": _UTTERANCES,
    "deadlines": Range(-1, MOST_ROUNDS),
    "devices": Range(1, MOST_CLIENTS),
    "learned": _UTTERANCES,
}
"""lists of numbers in the reply to "query.deletions", beside its "ids" and "states" of requests"""


class Metrics:
    """The metrics of one reply, each within its range.

    Args:
        kind: message type, of ``RANGES``.
        reply: its content.

    Raises:
        Refused: a metric is missing or out of range.
    """

    def __init__(self, kind: str, reply: RecordDict) -> None:
        self._values = {name: range_.read(reply, name) for name, range_ in RANGES[kind].items()}

    def whole(self, name: str) -> int:
        """Return a count that is not optional."""
        return int(self.real(name))

    def real(self, name: str) -> float:
        """Return a number that is not optional."""
        value = self._values[name]
        if value is None:
            raise Refused(f"the reply's metric {name} is None, not a finite number")
        return value

    def known(self, name: str) -> float | None:
        """Return an optional number; None = absent."""
        return self._values[name]


# ---- every reply, and the first ------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplyCost:
    """What a reply cost its client.

    Attributes:
        seconds: CPU time in s.
        died: whether a process died when it tried the message before.
    """

    seconds: float
    died: bool


def read_reply_cost(reply: RecordDict) -> ReplyCost:
    """Read what a reply cost.

    Raises:
        Refused: a number is out of range.
    """
    values = {name: range_.read(reply, name) for name, range_ in EVERY_REPLY.items()}
    return ReplyCost(values["seconds"] or 0.0, values["died"] == 1)


@dataclass(frozen=True)
class PopulationReport:
    """A node's answer to "query.population".

    Attributes:
        client: its number.
        train: number of utterances it trains on.
        held_out: number of utterances it holds out.
        commitment: to its recordings; empty = it makes none.
    """

    client: int
    train: int
    held_out: int
    commitment: str = ""


def read_population(reply: RecordDict, clients: int) -> PopulationReport:
    """Read the reply to "query.population".

    Args:
        reply: its content.
        clients: number of clients; their numbers are 0 ... clients - 1.

    Raises:
        Refused: a number is out of range, or the commitment is none.
    """
    metrics = Metrics("query.population", reply)
    client = metrics.whole("client")
    if client >= clients:
        raise Refused(f"the reply's metric client is {client}, but the clients are 0 to {clients - 1}")
    held = metrics.whole("train"), metrics.whole("test")
    return PopulationReport(client, *held, read_commitment(reply))


def read_commitment(reply: RecordDict) -> str:
    """Read a device's commitment to its recordings; empty where it makes none.

    Args:
        reply: its content.

    Raises:
        Refused: it is no SHA-256.
    """
    commitment = reply.config_records.get("commitment", ConfigRecord()).get("sha256", "")
    if not isinstance(commitment, str) or not re.fullmatch("[0-9a-f]{64}|", commitment):
        raise Refused("the reply's commitment is no SHA-256")
    return commitment


# ---- weights -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateForm:
    """The form that an update of a model must have.

    Attributes:
        weights: of the model; they give names, shapes and types.
        trained: names of the tensors that training moves; the others must not move.
        longest: the largest L2 norm allowed.
    """

    weights: Mapping[str, Tensor]
    trained: frozenset[str]
    longest: float

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], trained: Collection[str], times: float) -> "UpdateForm":
        """Make the form for a model.

        Args:
            weights: of the model.
            trained: names of the tensors that training moves.
            times: the largest norm, as a multiple of 1 + the norm of the trained weights.
        """
        norm = math.sqrt(sum(sum_of_squares(weights[name]) for name in trained))
        return cls(weights, frozenset(trained), times * (1.0 + norm))


def read_update(
    reply: RecordDict, client: int, examples: int, form: UpdateForm, borrowed: bool = False
) -> Update:
    """Read and check the weight difference in a reply.

    Args:
        reply: content of any reply that carries an update.
        client: whose reply.
        examples: number of utterances it was computed from.
        form: that it must have.
        borrowed: whether the result may share the reply's memory, and is only read.

    Raises:
        Refused: it has another form, is not finite or too long, or moves tensors that are not trained.
    """
    difference = weights_like(reply, "update", form.weights, borrowed=borrowed, finite=False)
    update = Update(client, examples, difference)
    if (bad := update.not_finite) is not None:
        raise Refused(f"update: {bad} has values that are not finite")
    for name, size in update.sizes.items():
        if size and name not in form.trained:
            raise Refused(f"update: {name} is not trained, but moves by {size:.3g}")
    if update.norm > form.longest:
        raise Refused(f"update: it is {update.norm:.3g} long; at most {form.longest:.3g} was expected")
    return update


def read_moments(reply: RecordDict, client: int, dims: int, most: float) -> Update:
    """Read the reply to "train.calibrate": mean and mean square of each feature dimension.

    Args:
        reply: its content.
        client: whose reply.
        dims: number of feature dimensions.
        most: largest possible number of frames.

    Returns:
        the moments as an update, weighted by the number of frames

    Raises:
        Refused: a number is out of range, or no features can have such moments.
    """
    frames = Metrics("train.calibrate", reply).whole("examples")
    if frames > most:
        raise Refused(f"the reply's metric examples is {frames}, but it holds at most {most:.15g} frames")
    like = {name: torch.zeros(dims, dtype=torch.float64) for name in ("mean", "mean_square")}
    moments = weights_like(reply, "moments", like)
    mean, mean_square = moments["mean"], moments["mean_square"]
    if float(mean.abs().max()) > LARGEST_FEATURE or float(mean_square.max()) > LARGEST_FEATURE**2:
        raise Refused(f"moments: a feature is larger than {LARGEST_FEATURE:g}")
    # Both were summed in float64; for a constant feature they differ by rounding only.
    if bool((mean_square < mean.square() * (1 - 1e-6) - 1e-9).any()):
        raise Refused("moments: a mean square is less than the square of its mean")
    return Update(client, frames, moments)


# ---- rounds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingReply:
    """A client's reply to a round of training.

    Attributes:
        loss: mean over its last steps.
        update: weighted by the number of utterances it trained on.
    """

    loss: float
    update: Update


def read_training(
    reply: RecordDict, client: int, kind: str, held: int, form: UpdateForm, exactly: bool = True
) -> TrainingReply:
    """Read the reply to "train" or "train.retain_part".

    Args:
        reply: its content.
        client: whose reply.
        kind: message type.
        held: number of utterances that the client trains on.
        form: that the update must have.
        exactly: whether it must have trained on all of them; false if the server does not know how many it
            held in the round in question.

    Raises:
        Refused: a number or the update cannot be right.
    """
    metrics = Metrics(kind, reply)
    examples = metrics.whole("examples")
    if examples > held or (exactly and examples != held):
        raise Refused(f"claims {examples} utterances, but it holds {held}")
    return TrainingReply(metrics.real("loss"), read_update(reply, client, examples, form, borrowed=True))
