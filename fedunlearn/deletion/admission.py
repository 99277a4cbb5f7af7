"""The door: every wish, be it of a schedule, of chance or of a person, becomes a request here, or is refused.

Requests begin on the device. What leaves it is a request's id, its dates, its state and counts: never an
utterance, a speaker or a reason.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox, InboxFile, matching
from fedunlearn.deletion.request import (
    HOLDS_NONE,
    NOT_UNDERSTOOD,
    TRAINS_ON_NONE,
    DeletionRequest,
    RequestState,
)
from fedunlearn.deletion.request_store import RequestStore, is_known
from fedunlearn.deletion.schedule import random_requests, scheduled_requests
from fedunlearn.files import write_atomically
from fedunlearn.seeding import rng_for
from fedunlearn.vault.index import VaultEntry

Entries = Mapping[str, VaultEntry]


class VaultContents(Protocol):
    """What admission reads of a device's vault."""

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def entries(self) -> Entries: ...  # noqa: D102


def raise_due(config: Config, vault: VaultContents, client: int, rounds_done: int) -> RequestStore:
    """Let the people at this device raise what is due, and hear what they have filed.

    Args:
        config: the experiment, with its schedule and its chances.
        rounds_done: rounds done; beyond ``training.rounds`` they are rounds after learning.

    Returns:
        The device's book, with all new requests written. Only then is anything unlinked from the inbox.
    """
    book, inbox = RequestStore(vault.folder), Inbox(vault.folder)
    entries, waiting = vault.entries, inbox.waiting()
    known, devices = {r.event for r in book.all()}, devices_of(vault.folder)
    # Of people with other devices also those whose speech has gone from here: the others wait for its answer.
    speakers = {e.speaker for e in entries.values()} | devices.keys()
    planned, by_chance = (
        [w for w in wishes if w.event not in known] for wishes in _due(config, speakers, client, rounds_done)
    )
    if not planned and not by_chance and not waiting:
        return book

    def heard(before: Sequence[DeletionRequest]) -> list[DeletionRequest]:
        rows = list(before)
        for due in [*planned, *by_chance]:
            wish = replace(due, devices=devices.get(due.speaker, 1))
            rng = rng_for(config.seed, "deletion", client, wish.event)
            request = admit(wish, client, entries, rows, rounds_done, rng)
            # Chance makes nobody ask who has nothing left to ask for; whoever planned to is told so.
            if not is_known(request, rows) and (request.is_open or due in planned):
                rows.append(request)
        for file in waiting:
            _hear(file, client, entries, rows, rounds_done)
        return rows

    book.change(heard)
    for file in waiting:
        file.file.unlink(missing_ok=True)
    return book


def admit(
    wish: FiledRequest,
    client: int,
    entries: Entries,
    book: Iterable[DeletionRequest],
    rounds_done: int,
    rng: np.random.Generator | None = None,
) -> DeletionRequest:
    """What becomes of a wish at this device: a request for what nobody has asked for yet, or a refusal.

    Args:
        entries: of the device's vault.
        book: all its requests.
        rounds_done: rounds done; what is recorded later does not exist yet.
        rng: draws the utterances of what = "some"; without it, these are the first ones.

    Returns:
        A request, raised, with at least one utterance, be it of the training or of the held-out ones; or
        refused, with none and a ``note`` that says why.
    """
    book = tuple(book)
    held = [e for e in entries.values() if e.recorded <= rounds_done]
    standing = [r for r in book if r.state not in {RequestState.WITHDRAWN, RequestState.REFUSED}]
    asked_before = {u for r in standing for u in (*r.utterances, *r.held_out)}
    # "some" is a draw from what models are trained on; every other kind means all that the device stores.
    wanted = matching(wish, [e for e in held if wish.what != "some" or e.split == "train"])
    left = [e.id for e in wanted if e.id not in asked_before]
    request = DeletionRequest(
        wish.id,
        client,
        wish.what,
        rounds_done,
        wish.event,
        (),
        deadline=wish.deadline,
        devices=wish.devices,
        reason=wish.reason,
    )
    if problem := _problem(wish, held, wanted, left, asked_before):
        return replace(request, note=problem).moved(RequestState.REFUSED)
    if wish.what == "some":
        order = range(len(left)) if rng is None else rng.permutation(len(left)).tolist()
        left = [left[i] for i in sorted(order[: wish.count])]
    trained, held_out = (tuple(i for i in left if entries[i].split == split) for split in ("train", "test"))
    return replace(request, utterances=trained, held_out=held_out)


def _problem(
    wish: FiledRequest,
    held: Sequence[VaultEntry],
    wanted: Sequence[VaultEntry],
    left: Sequence[str],
    asked: set[str],
) -> str:
    """Why a wish cannot be served here; empty if it can."""
    if wish.what == "named":
        unknown = sorted(set(wish.utterances) - {e.id for e in held} - asked)
        if unknown:
            return f"{HOLDS_NONE} {_listed(unknown)}"
        if not wish.utterances:
            return "no utterance is named"
    elif not wanted:
        of = {"emotion": f" of emotion {wish.emotion!r}", "speaker": f" of speaker {wish.speaker!r}"}
        return f"{TRAINS_ON_NONE}{of.get(wish.what, '')}"
    return "" if left else "already asked for"


def _listed(ids: Sequence[str]) -> str:
    """Ids in one line: the first ten of them; those that would not be seen as they are, in quotes."""
    shown = [i if i.isprintable() and i and i == i.strip() else repr(i) for i in ids[:10]]
    return ", ".join(shown) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def _due(
    config: Config, speakers: Collection[str], client: int, rounds_done: int
) -> tuple[list[FiledRequest], list[FiledRequest]]:
    settings, learning, seed = config.deletions, config.training.rounds, config.seed
    return (
        scheduled_requests(settings, client, speakers, rounds_done, learning, seed),
        random_requests(settings, client, config.partition.clients, rounds_done, learning, seed),
    )


def _hear(
    file: InboxFile, client: int, entries: Entries, rows: list[DeletionRequest], rounds_done: int
) -> None:
    """Take one file of the inbox into the book; one that was taken before has no effect."""
    if file.withdraws:
        rows[:] = [_withdrawn(r, rounds_done) if r.id == file.withdraws else r for r in rows]
        return
    if file.wish:
        request = admit(file.wish, client, entries, rows, rounds_done)
    else:
        note = f"{NOT_UNDERSTOOD}: {file.problem}"
        request = DeletionRequest(file.id, client, "named", rounds_done, f"unread-{file.id}", (), note=note)
        request = request.moved(RequestState.REFUSED)
    if not is_known(request, rows):
        rows.append(request)


def _withdrawn(request: DeletionRequest, rounds_done: int) -> DeletionRequest:
    if request.state in {RequestState.RAISED, RequestState.ACCEPTED}:
        return replace(request.moved(RequestState.WITHDRAWN), withdrawn=rounds_done)
    if request.state in {RequestState.WITHDRAWN, RequestState.REFUSED}:
        return request
    return replace(request, note=f"too late to withdraw: it is {request.state}")


_DEVICES = "devices.json"


def note_devices(vault_folder: Path, devices: Mapping[str, int]) -> None:
    """Tell a device on how many devices these speakers' speech lies; without any, nothing is written."""
    if devices:
        write_atomically(vault_folder / _DEVICES, json.dumps(dict(devices)))


def devices_of(vault_folder: Path) -> dict[str, int]:
    """speaker -> how many devices hold their speech; whoever is not named has this one alone."""
    try:
        devices: dict[str, int] = json.loads((vault_folder / _DEVICES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return devices
