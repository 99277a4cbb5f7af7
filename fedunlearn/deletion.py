"""Deletion requests: what a client may ask, when it raises it, and the states it goes through.

Requests begin on the device. A schedule and random arrivals play the people who raise them; the device
writes each into its own vault folder (``requests.json``) and answers when the server asks. What leaves the
device is a request's id, its round and a count: never an utterance.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from fedunlearn.config import DeletionSettings, ScheduledDeletion
from fedunlearn.errors import BadInput
from fedunlearn.partition import Partition
from fedunlearn.run_folder import write_atomically
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.vault import Vault


class State(StrEnum):
    """What has become of a request; each is recorded in the ledger before the next step begins."""

    RAISED = "raised"
    ACCEPTED = "accepted"
    UNLEARNED = "unlearned"
    APPLIED = "applied"
    PURGED = "purged"
    VERIFIED = "verified"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class DeletionRequest:
    """One client's wish.

    Attributes:
        id: 16 hexadecimal digits that tell nothing about the speaker or the utterances.
        client: who asks.
        what: "all", "some", "emotion" or "named".
        round: rounds done when it was raised.
        event: the schedule's or arrival's name; raising one event twice has one effect.
        utterances: the training utterances that must go: D_f of this request. Device and judge only.
        state: as the device knows it.
    """

    id: str
    client: int
    what: str
    round: int
    event: str
    utterances: tuple[str, ...]
    state: State = State.RAISED


class RequestBook:
    """A device's own requests, durable in its vault folder."""

    def __init__(self, vault_folder: Path) -> None:
        self._file = vault_folder / "requests.json"

    def all(self) -> tuple[DeletionRequest, ...]:
        """Every request ever raised here, in order."""
        if not self._file.exists():
            return ()
        rows = json.loads(self._file.read_text(encoding="utf-8"))
        return tuple(
            DeletionRequest(**{**r, "utterances": tuple(r["utterances"]), "state": State(r["state"])})
            for r in rows
        )

    def open(self) -> tuple[DeletionRequest, ...]:
        """Those not yet purged."""
        return tuple(r for r in self.all() if r.state not in {State.PURGED, State.REFUSED})

    def add(self, requests: Iterable[DeletionRequest]) -> None:
        """Write new requests; an event that was raised before is not raised again."""
        book = list(self.all())
        known = {r.event for r in book}
        new = [r for r in requests if r.event not in known]
        if new:
            self._write([*book, *new])

    def set_state(self, ids: Iterable[str], state: State) -> None:
        """Move requests to a state."""
        wanted = set(ids)
        self._write([replace(r, state=state) if r.id in wanted else r for r in self.all()])

    def _write(self, book: Sequence[DeletionRequest]) -> None:
        write_atomically(self._file, json.dumps([asdict(r) for r in book], indent=1))


def raise_due(
    settings: DeletionSettings, vault: Vault, client: int, round: int, learning_rounds: int, seed: int
) -> RequestBook:
    """Let the people at this device raise what is due once ``round`` rounds are done.

    Args:
        round: rounds done so far; beyond ``learning_rounds`` they are rounds after learning.

    Returns:
        The device's book, with any new requests written.
    """
    book = RequestBook(vault.folder)
    for event, wanted in _events_due(settings, client, round, learning_rounds, seed):
        if event in {r.event for r in book.all()}:
            continue
        spoken_for = {u for r in book.all() for u in r.utterances}
        left = [i for i in vault.ids("train") if i not in spoken_for]
        chosen = _choose(wanted, left, vault, rng_for(seed, "deletion", client, event))
        if chosen:
            name = f"{stream_key(seed, 'request', client, event) % 2**64:016x}"
            book.add([DeletionRequest(name, client, wanted.what, round, event, chosen)])
    return book


def check_schedule(settings: DeletionSettings, partition: Partition, learning_rounds: int) -> None:
    """See that every scheduled deletion can happen in this partition.

    Raises:
        BadInput: one line for each that cannot: unknown client, utterance or emotion, too large a count,
            or a date after learning has ended.
    """
    problems = []
    for number, event in enumerate(settings.schedule):
        place = f"deletions.schedule.{number}"
        if event.client >= len(partition.clients):
            problems.append(
                f"{place}.client is {event.client}, but the clients are 0 to "
                f"{len(partition.clients) - 1}: name another one, or have more clients"
            )
            continue
        train = partition.clients[event.client].train
        if event.count > len(train):
            problems.append(
                f"{place}.count is {event.count}, but client {event.client} trains on {len(train)}"
            )
        unknown = sorted(set(event.utterances) - {u.id for u in train})
        if unknown:
            problems.append(
                f"{place}.utterances: client {event.client} does not train on {', '.join(unknown)}"
            )
        if event.emotion and event.emotion not in {u.emotion for u in train}:
            problems.append(f"{place}.emotion: client {event.client} has no utterance of {event.emotion!r}")
        if event.round is not None and event.round > learning_rounds:
            problems.append(
                f"{place}.round is {event.round}, but learning has {learning_rounds} rounds; "
                "use after_learning"
            )
    problems += _spoken_for_twice(settings.schedule, partition, learning_rounds)
    if problems and settings.schedule == DeletionSettings().schedule:
        problems[-1] += "; this is the default schedule: set deletions.schedule=[...] to one that fits"
    if problems:
        raise BadInput(problems)


def _spoken_for_twice(
    schedule: Sequence[ScheduledDeletion], partition: Partition, learning_rounds: int
) -> list[str]:
    """Events that would find less than they ask for, because an earlier one has taken it back already."""
    problems = []
    everything: set[int] = set()
    counted: dict[int, int] = {}
    emotions: set[tuple[int, str]] = set()
    dated = sorted(enumerate(schedule), key=lambda e: _date(e[1], learning_rounds))
    for number, event in dated:
        place = f"deletions.schedule.{number}"
        if event.client >= len(partition.clients):
            continue
        holds = len(partition.clients[event.client].train)
        if event.client in everything:
            problems.append(f"{place}: client {event.client} has taken everything back before")
        elif (event.client, event.emotion) in emotions:
            problems.append(f"{place}: client {event.client} has taken {event.emotion!r} back before")
        elif 0 < event.count <= holds < counted.get(event.client, 0) + event.count:
            left = holds - counted.get(event.client, 0)
            problems.append(
                f"{place}.count is {event.count}, but client {event.client} has {left} left by then"
            )
        if event.what == "all":
            everything.add(event.client)
        if event.what == "emotion":
            emotions.add((event.client, event.emotion))
        counted[event.client] = counted.get(event.client, 0) + event.count
    return problems


def last_scheduled_round(settings: DeletionSettings, learning_rounds: int) -> int:
    """The round by which every scheduled deletion has been raised; at least the last of learning."""
    return max([learning_rounds, *(_date(e, learning_rounds) for e in settings.schedule)])


def any_while_learning(settings: DeletionSettings, clients: int, learning_rounds: int, seed: int) -> bool:
    """Whether anybody will raise a request before the last ordinary round: the experimenter's knowledge."""
    return any(
        _events_due(settings, client, learning_rounds - 1, learning_rounds, seed) for client in range(clients)
    )


def _date(event: ScheduledDeletion, learning_rounds: int) -> int:
    return event.round if event.round is not None else learning_rounds + (event.after_learning or 0)


def _events_due(
    settings: DeletionSettings, client: int, round: int, learning_rounds: int, seed: int
) -> list[tuple[str, ScheduledDeletion]]:
    due = [
        (f"schedule-{number}", event)
        for number, event in enumerate(settings.schedule)
        if event.client == client and _date(event, learning_rounds) <= round
    ]
    for past in range(min(round, learning_rounds - 1) + 1 if settings.rate else 0):
        if rng_for(seed, "arrival", client, past).random() < settings.rate:
            event = ScheduledDeletion(client=client, what="some", count=settings.rate_count, round=past)
            due.append((f"arrival-{past}", event))
    return due


def _choose(
    event: ScheduledDeletion, left: Sequence[str], vault: Vault, rng: np.random.Generator
) -> tuple[str, ...]:
    if event.what == "all":
        return tuple(left)
    if event.what == "emotion":
        return tuple(i for i in left if vault.entries[i].emotion == event.emotion)
    if event.what == "named":
        return tuple(i for i in left if i in event.utterances)
    drawn = sorted(rng.permutation(len(left))[: event.count].tolist())
    return tuple(left[i] for i in drawn)
