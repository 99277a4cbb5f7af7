"""Deletion requests as the server knows them: an id, who asked, how much, and what became of it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedunlearn.deletion import State as RequestState
from fedunlearn.federation.transport import Refused, number

Key = tuple[str, int]
"""a request's id and the device: a person with several devices has one request, a part of it on each"""

_HELD = {RequestState.RAISED, RequestState.ACCEPTED, RequestState.UNLEARNED, RequestState.APPLIED}


@dataclass
class ServedRequest:
    """A request as the server knows it; of a person with several devices, the part on one of them.

    Attributes:
        id, client, utterances: what is asked, and where. Training utterances are counted alone: where there
            are none, what is to go was held out, and there is nothing to unlearn.
        date: rounds done when the server heard of it.
        round_raised, round_applied: of the timeline.
        state: see ``deletion.State``.
        deadline: rounds after ``date`` within which it should be verified; None = as soon as may be.
        devices: how many of the person's devices hold speech that must go.
        learned: how many of its utterances a round has been trained with.
        overdue: the deadline passed while it was open.
        lease: the date until which the device has it in work; None = it is at the server.
        attempts: how often it was given out.
        history: each state with the round of the timeline in which it was reached.
        model: digest of the weights right after it was applied; empty before, and where nothing was learned.
        outcome: what the device told of its unlearning.
    """

    id: str
    client: int
    utterances: int
    round_raised: int
    state: RequestState = RequestState.RAISED
    round_applied: int | None = None
    date: int = 0
    deadline: int | None = None
    devices: int = 1
    learned: int = 0
    overdue: bool = False
    lease: int | None = None
    attempts: int = 0
    purged_there: bool = False
    model: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Its place in the server's list."""
        return self.id, self.client

    @property
    def unfinished(self) -> bool:
        """Whether the server still has something to do for it."""
        return self.state in {*_HELD, RequestState.PURGED}

    @property
    def gone(self) -> bool:
        """Whether its utterances have left the vault."""
        return self.state in {RequestState.PURGED, RequestState.VERIFIED}

    @property
    def withheld(self) -> int:
        """Utterances that are in the vault still and may not be trained on any more."""
        return self.utterances if self.state in _HELD and not self.purged_there else 0

    def late(self, date: int) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and date > self.date + self.deadline

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return {**asdict(self), "state": str(self.state)}

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "ServedRequest":
        """What ``as_dict`` gave."""
        known = {f.name: saved[f.name] for f in fields(cls)}
        return cls(**{**known, "state": RequestState(saved["state"])})


@dataclass(frozen=True)
class Wish:
    """One request as a device reports it: how many utterances, its state there, and what the server needs."""

    id: str
    utterances: int
    state: RequestState
    deadline: int | None
    devices: int
    learned: int


@dataclass(frozen=True)
class Heard:
    """A device's answer to the listening: all it has been asked, and how many utterances it holds now."""

    wishes: tuple[Wish, ...]
    train: int


def grouped(requests: Iterable[ServedRequest]) -> dict[int, list[ServedRequest]]:
    """By client, in client order."""
    by_client: dict[int, list[ServedRequest]] = {}
    for request in sorted(requests, key=lambda r: r.client):
        by_client.setdefault(request.client, []).append(request)
    return by_client


_REPORTED = (RequestState.RAISED, RequestState.WITHDRAWN, RequestState.REFUSED, RequestState.PURGED)


def read_requests(_: int, reply: RecordDict) -> Heard:
    """A client's requests and how many utterances it holds.

    Raises:
        Refused: the lists do not fit together, a state is none that a device may report, or a number cannot
            be right.
    """
    record = reply.config_records.get("requests", ConfigRecord())
    found = [record.get(name) for name in ("ids", "counts", "states", "deadlines", "devices", "learned")]
    lists = [one for one in found if isinstance(one, list)]
    if len(lists) < len(found) or len({len(one) for one in lists}) != 1:
        raise Refused("the reply's list of requests is not one")
    wishes = tuple(_wish(*row) for row in zip(*lists, strict=True))
    return Heard(wishes, int(number(reply, "train")))


def _wish(name: Any, count: Any, state: Any, deadline: Any, devices: Any, learned: Any) -> Wish:
    if state not in _REPORTED:
        raise Refused(f"a request's state is {state!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) for n in (count, deadline, devices, learned)):
        raise Refused("a request's numbers are not whole")
    if count < 0:
        raise Refused(f"a request counts {count} utterances")
    if devices < 1 or not 0 <= learned <= max(count, 0):
        raise Refused("a request's numbers cannot be right")
    kind = RequestState(state)
    return Wish(str(name), count, kind, None if deadline < 0 else deadline, devices, learned)


def ids_of(requests: Sequence[ServedRequest]) -> list[str]:
    """Their ids, as a message names them."""
    return [r.id for r in requests]


def read_outcome(reply: RecordDict) -> dict[str, Any]:
    """What a requester tells of its unlearning: numbers and a few words, nothing of its data.

    Raises:
        Refused: a part is missing, or too long to be one of the words.
    """
    said = reply.config_records.get("outcome", ConfigRecord())
    stopped, scalars_read = said.get("stopped"), said.get("scalars_read")
    if not isinstance(stopped, str) or not isinstance(scalars_read, str) or len(stopped + scalars_read) > 100:
        raise Refused("the reply does not say, in a few words, how its unlearning ended")
    metrics = reply.metric_records.get("metrics", MetricRecord())
    return {
        "steps": int(number(reply, "steps")),
        "stopped": stopped,
        "scalars_read": [name for name in scalars_read.split(",") if name],
        "forget_accuracy": [metrics.get("forget_before"), metrics.get("forget_after")],
        "adversarial": int(number(reply, "adversarial")),
        "attack_success": metrics.get("attack_success"),
    }
