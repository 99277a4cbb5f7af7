"""Deletion requests as the server knows them: an id, the client, how much, and what became of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedunlearn.deletion.request import RequestState
from fedunlearn.messages.records import Refused
from fedunlearn.messages.replies import (
    MOST_REQUESTS,
    REQUEST_RANGES,
    Metrics,
    UpdateForm,
    read_commitment,
    read_update,
)
from fedunlearn.messages.update import Update

RequestKey = tuple[str, int]
"""a request's id and the device: a person with several devices has one request, a part of it on each"""

_HELD = {RequestState.RAISED, RequestState.ACCEPTED, RequestState.UNLEARNED, RequestState.APPLIED}


@dataclass
class TrackedRequest:
    """A request as the server knows it; of a person with several devices, the part on one of them.

    Attributes:
        id: of the person's request.
        client: the device.
        utterances: training utterances that it names; where there are none, what is to go was held out, and
            there is nothing to unlearn.
        round_raised: timeline round in which the server learned of it.
        round_applied: timeline round in which it joined an unlearn step; None = not yet.
        rounds_done: rounds done when the server learned of it.
        state: see ``deletion.State``.
        deadline: rounds after ``rounds_done`` within which it should be verified; None = as soon as may be.
        devices: how many of the person's devices hold speech that must go.
        learned: how many of its utterances a round has been trained with.
        overdue: the deadline passed while it was open.
        lease: rounds done until which the device has it in work; None = it is at the server.
        attempts: how often it was given out.
        history: each state with the round of the timeline in which it was reached.
        model: digest of the weights right after it was applied; empty before, and where nothing was learned.
        outcome: what the device reports of its unlearning.
        model_before: digest of the weights right before it was applied; empty where ``model`` is.
    """

    id: str
    client: int
    utterances: int
    round_raised: int
    state: RequestState = RequestState.RAISED
    round_applied: int | None = None
    rounds_done: int = 0
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
    model_before: str = ""

    @property
    def key(self) -> RequestKey:
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

    @property
    def stays(self) -> bool:
        """Whether its utterances must be in the vault still: the device has not been told to purge them."""
        waits = {RequestState.RAISED, RequestState.ACCEPTED, RequestState.UNLEARNED}
        return self.state in waits and self.learned > 0 and not self.purged_there

    def late(self, rounds_done: int) -> bool:
        """Find out whether the deadline has passed.

        Args:
            rounds_done: rounds done now.
        """
        return self.deadline is not None and rounds_done > self.rounds_done + self.deadline

    def as_dict(self) -> dict[str, Any]:
        """Write it as plain data, for a checkpoint."""
        return {**asdict(self), "state": str(self.state)}

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "TrackedRequest":
        """Make it again.

        Args:
            saved: from ``as_dict``.
        """
        known = {"model_before": ""} | saved  # checkpoints of earlier versions have none
        known = {f.name: known[f.name] for f in fields(cls)}
        return cls(**{**known, "state": RequestState(saved["state"])})


@dataclass(frozen=True)
class ReportedRequest:
    """One request as a device reports it: how many utterances, its state there, and what the server needs."""

    id: str
    utterances: int
    state: RequestState
    deadline: int | None
    devices: int
    learned: int


@dataclass(frozen=True)
class ClientReport:
    """A device's answer to the listening: all requests made to it, and how many utterances it holds now."""

    requests: tuple[ReportedRequest, ...]
    train: int


@dataclass(frozen=True)
class Outcome:
    """A requester's report of its unlearning: the update, and numbers and a few words for the results."""

    update: Update
    about: dict[str, Any]


@dataclass(frozen=True)
class PurgeReport:
    """A device's report of a purge: whether it found no trace, how much it holds now, its new commitment."""

    verified: bool
    train: int
    held_out: int
    commitment: str = ""


def grouped(requests: Iterable[TrackedRequest]) -> dict[int, list[TrackedRequest]]:
    """Group requests by client, in client order.

    Args:
        requests: of any clients.
    """
    by_client: dict[int, list[TrackedRequest]] = {}
    for request in sorted(requests, key=lambda r: r.client):
        by_client.setdefault(request.client, []).append(request)
    return by_client


_REPORTED = (RequestState.RAISED, RequestState.WITHDRAWN, RequestState.REFUSED, RequestState.PURGED)
_ID = re.compile(r"[0-9a-f]{16}")
_WORDS = 100
"""characters, of how an unlearning ended"""


def read_requests(
    reply: RecordDict, most: int, devices: int, known: Mapping[str, TrackedRequest]
) -> ClientReport:
    """Read the answer to "query.deletions": a client's requests and how many utterances it holds.

    Args:
        reply: of a client.
        most: utterances that it may train on by now.
        devices: how many there are in the federation.
        known: its requests that the server knows, by id.

    Raises:
        Refused: the lists do not fit together, a state is none that a device may report, an id is none or
            stands there twice, or a number cannot be right.
    """
    train = Metrics("query.deletions", reply).whole("train")
    if train > most:
        raise Refused(f"claims {train} utterances, but it holds {most} at most")
    record = reply.config_records.get("requests", ConfigRecord())
    found = [record.get(name) for name in ("ids", "counts", "states", "deadlines", "devices", "learned")]
    lists = [one for one in found if isinstance(one, list)]
    if len(lists) < len(found) or len({len(one) for one in lists}) != 1:
        raise Refused("the reply's list of requests is not one")
    if len(lists[0]) > MOST_REQUESTS:
        raise Refused(f"the reply lists {len(lists[0])} requests; at most {MOST_REQUESTS} were expected")
    reported = tuple(_read_request(*row) for row in zip(*lists, strict=True))
    by_id = {one.id: one for one in reported}
    if len(by_id) < len(reported):
        raise Refused("the reply lists a request twice")
    for one in reported:
        before = known.get(one.id)
        if before and one.utterances != before.utterances:
            raise Refused(
                f"request {one.id} counts {one.utterances} utterances, but it counted {before.utterances}"
            )
        if one.devices > devices:
            raise Refused(f"request {one.id} names {one.devices} devices of {devices}")
    waiting = {one.id: one.utterances for one in reported if one.state is RequestState.RAISED}
    there = waiting | {name: r.utterances for name, r in known.items() if r.stays and name not in by_id}
    named = sum(n for name, n in there.items() if name not in known or known[name].stays)
    if named > train:
        raise Refused(f"claims {train} utterances, but its requests name {named}")
    return ClientReport(reported, train)


def _read_request(
    name: Any, count: Any, state: Any, deadline: Any, devices: Any, learned: Any
) -> ReportedRequest:
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise Refused(f"a request's id is {name!r:.60}, not 16 hexadecimal digits")
    if state not in _REPORTED:
        raise Refused(f"a request's state is {state!r:.60}")
    numbers = {"counts": count, "deadlines": deadline, "devices": devices, "learned": learned}
    for which, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refused(f"request {name}: {which} has {value!r:.60}, not a whole number")
        if not REQUEST_RANGES[which].holds(value):
            raise Refused(f"request {name}: {which} has {value!r:.60}, which is out of range")
    if learned > count:
        raise Refused(f"request {name}: learned has {learned}, but it counts {count} utterances")
    return ReportedRequest(
        name, count, RequestState(state), None if deadline < 0 else deadline, devices, learned
    )


def read_outcome(reply: RecordDict, client: int, kind: str, wanted: int, form: UpdateForm) -> Outcome:
    """Read the answer to "train.unlearn" or "train.forget_part".

    Args:
        reply: of a requester.
        client: which.
        kind: of message.
        wanted: utterances that it was to forget.
        form: what the update must be like.

    Raises:
        Refused: a number or the update cannot be right, or what should be a few words is not.
    """
    metrics = Metrics(kind, reply)
    examples = metrics.whole("examples")
    if examples != wanted:
        raise Refused(f"forgot {examples} utterances, but {wanted} were requested")
    words = reply.config_records.get("outcome", ConfigRecord())
    stopped, scalars_read = words.get("stopped"), words.get("scalars_read")
    if not isinstance(stopped, str) or not isinstance(scalars_read, str):
        raise Refused("the reply does not say, in a few words, how its unlearning ended")
    if len(stopped + scalars_read) > _WORDS or not (stopped + scalars_read).isprintable():
        raise Refused("the reply does not say, in a few words, how its unlearning ended")
    about = {
        "steps": metrics.whole("steps"),
        "stopped": stopped,
        "scalars_read": [name for name in scalars_read.split(",") if name],
        "forget_accuracy": [metrics.known("forget_before"), metrics.known("forget_after")],
        "adversarial": metrics.whole("adversarial"),
        "attack_success": metrics.known("attack_success"),
    }
    return Outcome(read_update(reply, client, examples, form), about)


def read_purged(reply: RecordDict, least: int, most: int, held_out: int) -> PurgeReport:
    """Read the answer to "query.purge".

    Args:
        reply: of a device.
        least: utterances that it must still train on, as its other requests name them.
        most: utterances that it may still train on.
        held_out: utterances that it held out before.

    Raises:
        Refused: a number is out of range, or the commitment is none.
    """
    metrics = Metrics("query.purge", reply)
    train, held = metrics.whole("train"), metrics.whole("held")
    if not least <= train <= most:
        raise Refused(f"claims {train} utterances after the purge; {least} to {most} were expected")
    if held > held_out:
        raise Refused(f"claims to hold out {held} utterances, but it held out {held_out}")
    return PurgeReport(metrics.whole("verified") == 1, train, held, read_commitment(reply))


def ids_of(requests: Sequence[TrackedRequest]) -> list[str]:
    """List the ids of requests, as a message names them.

    Args:
        requests: of one client.
    """
    return [r.id for r in requests]
