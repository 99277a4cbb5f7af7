"""Admission: what is scheduled, drawn at random or filed by a person becomes a request or is refused.

Requests begin on the device. What leaves it is a request's id, its rounds, its state and counts: never an
utterance, a speaker or a reason.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox, InboxFile, select_utterances
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
"""utterance id -> its entry in the vault"""


class VaultContents(Protocol):
    """The part of a device's vault that admission reads."""

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def entries(self) -> Entries: ...  # noqa: D102


def raise_due(config: Config, vault: VaultContents, client: int, rounds_done: int) -> RequestStore:
    """Raise the device's requests that are due, and admit what waits in its inbox.

    Files of the inbox are unlinked only once the new requests are on disk.

    Args:
        config: the experiment, with its schedule and its rates of random requests.
        vault: of the device.
        client: number of the device.
        rounds_done: rounds done, those after learning included.

    Returns:
        the device's request store, with all new requests written
    """
    store, inbox = RequestStore(vault.folder), Inbox(vault.folder)
    entries, waiting = vault.entries, inbox.waiting()
    known, devices = {r.event for r in store.all()}, devices_of(vault.folder)
    # Speakers with several devices count even if this one holds nothing of theirs any more: the request has
    # the same id on all devices and is complete only when each of them has reported it.
    speakers = {e.speaker for e in entries.values()} | devices.keys()
    scheduled, random = (
        [filed for filed in due if filed.event not in known]
        for due in _due(config, speakers, client, rounds_done)
    )
    if not scheduled and not random and not waiting:
        return store

    def add_new(before: Sequence[DeletionRequest]) -> list[DeletionRequest]:
        requests = list(before)
        for due in [*scheduled, *random]:
            filed = replace(due, devices=devices.get(due.speaker, 1))
            rng = rng_for(config.seed, "deletion", client, filed.event)
            request = admit(filed, client, entries, requests, rounds_done, rng)
            # A random request that cannot be served counts as never raised; a scheduled one is refused.
            if not is_known(request, requests) and (request.is_open or due in scheduled):
                requests.append(request)
        for file in waiting:
            _admit_file(file, client, entries, requests, rounds_done)
        return requests

    store.change(add_new)
    for file in waiting:
        file.file.unlink(missing_ok=True)
    return store


def admit(
    filed: FiledRequest,
    client: int,
    entries: Entries,
    requests: Iterable[DeletionRequest],
    rounds_done: int,
    rng: np.random.Generator | None = None,
) -> DeletionRequest:
    """Turn what was filed into a request for utterances that no earlier request names, or refuse it.

    Args:
        filed: the request as it was filed.
        client: number of the device.
        entries: of the device's vault.
        requests: all requests of the device so far.
        rounds_done: rounds done; what is recorded later does not exist yet.
        rng: draws the utterances of what = "some"; without it, these are the first ones.

    Returns:
        a raised request with at least one training or held-out utterance; or a refused one, with none and a
        ``note`` that says why
    """
    requests = tuple(requests)
    held = [e for e in entries.values() if e.recorded <= rounds_done]
    effective = [r for r in requests if r.state not in {RequestState.WITHDRAWN, RequestState.REFUSED}]
    requested = {u for r in effective for u in (*r.utterances, *r.held_out)}
    # "some" draws from what models are trained on; every other kind means all that the device stores.
    wanted = select_utterances(filed, [e for e in held if filed.what != "some" or e.split == "train"])
    left = [e.id for e in wanted if e.id not in requested]
    request = DeletionRequest(
        filed.id,
        client,
        filed.what,
        rounds_done,
        filed.event,
        (),
        deadline=filed.deadline,
        devices=filed.devices,
        reason=filed.reason,
    )
    if problem := _problem(filed, held, wanted, left, requested):
        return replace(request, note=problem).moved(RequestState.REFUSED)
    if filed.what == "some":
        order = range(len(left)) if rng is None else rng.permutation(len(left)).tolist()
        left = [left[i] for i in sorted(order[: filed.count])]
    trained, held_out = (tuple(i for i in left if entries[i].split == split) for split in ("train", "test"))
    return replace(request, utterances=trained, held_out=held_out)


def _problem(
    filed: FiledRequest,
    held: Sequence[VaultEntry],
    wanted: Sequence[VaultEntry],
    left: Sequence[str],
    requested: set[str],
) -> str:
    """Say why this device cannot serve what was filed; empty if it can."""
    if filed.what == "named":
        unknown = sorted(set(filed.utterances) - {e.id for e in held} - requested)
        if unknown:
            return f"{HOLDS_NONE} {_listed(unknown)}"
        if not filed.utterances:
            return "no utterance is named"
    elif not wanted:
        of = {"emotion": f" of emotion {filed.emotion!r}", "speaker": f" of speaker {filed.speaker!r}"}
        return f"{TRAINS_ON_NONE}{of.get(filed.what, '')}"
    return "" if left else "already requested"


def _listed(ids: Sequence[str]) -> str:
    """List the first ten ids in one line, those with invisible characters in quotes."""
    shown = [i if i.isprintable() and i and i == i.strip() else repr(i) for i in ids[:10]]
    return ", ".join(shown) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def _due(
    config: Config, speakers: Collection[str], client: int, rounds_done: int
) -> tuple[list[FiledRequest], list[FiledRequest]]:
    settings, learning, seed = config.deletions, config.training.rounds, config.seed
    return (
        scheduled_requests(settings, client, speakers, rounds_done, learning, seed),
        random_requests(settings, client, config.partition.client_count, rounds_done, learning, seed),
    )


def _admit_file(
    file: InboxFile, client: int, entries: Entries, requests: list[DeletionRequest], rounds_done: int
) -> None:
    """Apply one file of the inbox to the requests; a file that was applied before has no effect."""
    if file.withdraws:
        requests[:] = [_withdraw(r, rounds_done) if r.id == file.withdraws else r for r in requests]
        return
    if file.request:
        request = admit(file.request, client, entries, requests, rounds_done)
    else:
        note = f"{NOT_UNDERSTOOD}: {file.problem}"
        request = DeletionRequest(file.id, client, "named", rounds_done, f"unread-{file.id}", (), note=note)
        request = request.moved(RequestState.REFUSED)
    if not is_known(request, requests):
        requests.append(request)


def _withdraw(request: DeletionRequest, rounds_done: int) -> DeletionRequest:
    if request.state in {RequestState.RAISED, RequestState.ACCEPTED}:
        return replace(request.moved(RequestState.WITHDRAWN), withdrawn=rounds_done)
    if request.state in {RequestState.WITHDRAWN, RequestState.REFUSED}:
        return request
    return replace(request, note=f"too late to withdraw: it is {request.state}")


_DEVICES = "devices.json"


def note_devices(vault_folder: Path, devices: Mapping[str, int]) -> None:
    """Write into a vault how many devices hold recordings of its speakers.

    Args:
        vault_folder: of the device.
        devices: speaker -> number of devices; empty = nothing is written.
    """
    if devices:
        write_atomically(vault_folder / _DEVICES, json.dumps(dict(devices)))


def devices_of(vault_folder: Path) -> dict[str, int]:
    """Read the number of devices of each speaker who has several."""
    try:
        devices: dict[str, int] = json.loads((vault_folder / _DEVICES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return devices
