"""What a cheating operator does to the files of a run when it is over.

The operator can write everything in the run folder. Devices' vaults are in there only because this is a
simulation: a forgery that changes what devices wrote says so.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedunlearn.audit.client_record import checkpoint_digest
from fedunlearn.deletion.receipts import (
    DeletionRecord,
    MethodRecord,
    add_ledger,
    every_receipt,
    receipt_of,
    write_receipt,
)
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.files import write_atomically
from fedunlearn.ledger import COMMITTED, Ledger, LedgerEntry, LedgerReader, RoundDigests
from fedunlearn.messages.phase import Phase
from fedunlearn.run_folder import RunFolder

RequestKey = tuple[str, int]
"""id of a request, and its client"""
_SERVED = ("unlearned", "applied", "purged", "verified")


@dataclass(frozen=True)
class Scene:
    """A run that is over, and whose request the operator cheats with.

    Attributes:
        run: the folder.
        victim: whose request it is.
        other: another request of the run.
    """

    run: RunFolder
    victim: RequestKey
    other: RequestKey


Forgery = Callable[[Scene], None]


def edit_row(scene: Scene) -> None:
    """Change the state in a row of the ledger, without hashing the chain anew."""
    file = scene.run.ledger
    file.write_bytes(file.read_bytes().replace(b"accepted", b"verified"))


def cut_ledger(scene: Scene) -> None:
    """Cut the ledger after the last request was accepted, and note the new head in results.json."""
    entries = _entries(scene.run)
    last = max(number for number, e in enumerate(entries) if e.state == "accepted")
    _rebuild(scene, entries[: last + 1])
    _note_head(scene.run)


def erase_request(scene: Scene) -> None:
    """Write everything anew as if the request had never been made, receipts and devices' stores included."""
    run, (name, client) = scene.run, scene.victim
    _rebuild(scene, list(_without(scene)))
    run.write_results(_without_request(_read(run.results), name))
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    write_atomically(run.metrics, "".join(json.dumps(_without_request(r, name)) + "\n" for r in rows))
    _note_head(run)
    RequestStore(run.vault(client)).change(lambda all_: [r for r in all_ if r.id != name])
    receipt_of(run.vault(client), name).unlink()
    _renew_receipts(run)


def forge_receipt(scene: Scene) -> None:
    """Write rows and receipt of a request that was never served; the device's store stays as it is."""
    run, (name, client) = scene.run, scene.victim
    with Ledger(run.ledger) as ledger:
        round_ = ledger.entries()[-1].round
        for state in _SERVED:
            ledger.append(name, client, round_, state)
        head = ledger.head()
        rows = [e for e in ledger.entries() if e.request == ledger.hashed(name, client)]
    request = next(r for r in RequestStore(run.vault(client)).all() if r.id == name)
    method = MethodRecord("", "", "forget", "")
    model = checkpoint_digest(run, "unlearned")
    deletion = DeletionRecord(
        name, request.utterances, request.held_out, 1.0, (), round_, round_, model, method, 1, 1, 1, head
    )
    add_ledger(write_receipt(run.vault(client), deletion), rows, head)
    results = _read(run.results)
    for row in results["requests"]:
        if (row["id"], row["client"]) == scene.victim:
            row["state"] = "verified"
            row["history"] += [{"state": state, "round": round_} for state in _SERVED]
    run.write_results(results)
    _note_head(run)


def repeat_receipt(scene: Scene) -> None:
    """Hand the victim a copy of another request's receipt."""
    source = receipt_of(scene.run.vault(scene.other[1]), scene.other[0])
    target = receipt_of(scene.run.vault(scene.victim[1]), scene.victim[0])
    write_atomically(target, source.read_bytes())


def hoard_model(scene: Scene) -> None:
    """Keep a copy of a model from before the deletion in a place that nobody audits."""
    original = scene.run.checkpoints / "original.safetensors"
    write_atomically(scene.run.path.with_name(f"{scene.run.path.name}.hoard"), original.read_bytes())


# ---- parts -----------------------------------------------------------------------------------------------


def _entries(run: RunFolder) -> tuple[LedgerEntry, ...]:
    with LedgerReader(run.ledger) as ledger:
        return ledger.entries()


def _without(scene: Scene) -> Iterator[LedgerEntry]:
    """The rows of a ledger without a trace of the victim's request: its states, its update, its purge."""
    with LedgerReader(scene.run.ledger) as ledger:
        request, subject = ledger.hashed(*scene.victim), ledger.subject(scene.victim[1])
    committed = False
    for entry in _entries(scene.run):
        again = entry.state == COMMITTED and entry.subject == subject and committed
        committed = committed or (entry.state == COMMITTED and entry.subject == subject)
        if entry.is_of_model and entry.state == Phase.UNLEARN:
            digests = RoundDigests.of_text(entry.content)
            fewer = replace(digests, updates=digests.updates[:-1])
            yield replace(entry, content=fewer.as_text())
        elif entry.request != request and not again:
            yield entry


def _without_request(part: Any, name: str) -> Any:
    """A JSON value without the items of lists that are of a request."""
    if isinstance(part, dict):
        return {key: _without_request(value, name) for key, value in part.items()}
    if isinstance(part, list):
        return [_without_request(item, name) for item in part if not _is_of(item, name)]
    return part


def _is_of(item: Any, name: str) -> bool:
    return item == name or (isinstance(item, dict) and name in (item.get("id"), item.get("request")))


def _rebuild(scene: Scene, entries: Sequence[LedgerEntry]) -> None:
    """Write the ledger anew, with the salt that it had: rows with hashes of their own."""
    run = scene.run
    with LedgerReader(run.ledger) as ledger:
        owners = {ledger.hashed(*key): key for key in (scene.victim, scene.other)}
        clients = {ledger.subject(client): client for client in run.clients()}
    run.ledger.unlink()
    with Ledger(run.ledger) as ledger:
        for e in entries:
            if e.is_of_model:
                ledger.append_model(e.state, e.round, RoundDigests.of_text(e.content))
            elif e.state == COMMITTED:
                ledger.append_commitment(clients[e.subject], e.round, e.content)
            else:
                ledger.append(*owners[e.request], e.round, e.state)


def _note_head(run: RunFolder) -> None:
    results = _read(run.results)
    with LedgerReader(run.ledger) as ledger:
        results["ledger"] = {**results["ledger"], "entries": len(ledger.entries()), "head": ledger.head()}
    run.write_results(results)


def _renew_receipts(run: RunFolder) -> None:
    """Give the receipts that are left the rows and heads of the new ledger."""
    with LedgerReader(run.ledger) as ledger:
        entries, head = ledger.entries(), ledger.head()
        for client, path in every_receipt(run):
            own = [e for e in entries if e.request == ledger.hashed(path.stem, client)]
            _set_head_at_purge(path, head)
            add_ledger(path, own, head)


def _set_head_at_purge(path: Path, head: str) -> None:
    receipt = _read(path)
    receipt["ledger"]["head_at_purge"] = head
    rest = {part: value for part, value in receipt.items() if part != "sha256"}
    receipt["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    write_atomically(path, json.dumps(receipt, indent=1))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
