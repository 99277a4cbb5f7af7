"""The last step of a deletion request on its device: purge the vault, verify, and issue a receipt.

The steps, each durable before the next:
    1. write evidence/<request>: what is deleted, and fingerprints (no audio) that it can be recognised by
    2. purge the vault
    3. search the vault and the places beside it
    4. write receipts/<request>.json
    5. set the request's state to "purged"
    6. wipe the evidence
A device that dies at any of them finds the evidence when the message is repeated, and completes the rest.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.deletion.receipts import DeletionRecord, MethodRecord, receipt_of, write_receipt
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.files import write_atomically
from fedunlearn.links import make_own_folder, wipe
from fedunlearn.models.contract import EmotionModel
from fedunlearn.vault.calibration import drop_calibrated_set
from fedunlearn.vault.traces import Fingerprints, find_traces
from fedunlearn.vault.vault import Vault


@dataclass(frozen=True)
class AppliedRequests:
    """What the server sends about deletions that it has applied.

    Attributes:
        rounds_done: rounds done; what is recorded later stays.
        round: see ``DeletionRecord``.
        round_applied: see ``DeletionRecord``.
        model: see ``DeletionRecord``.
        method: how the model was made to forget.
        ledger_head: see ``DeletionRecord``.
        model_before: see ``DeletionRecord``.
    """

    rounds_done: int
    round: int
    round_applied: int
    model: str
    method: MethodRecord
    ledger_head: str = ""
    model_before: str = ""


@dataclass(frozen=True)
class PurgeResult:
    """Result of a purge.

    Attributes:
        removed: number of utterances removed by this attempt.
        verified: whether no trace of any of the requests' recordings was found.
    """

    removed: int
    verified: bool


@dataclass(frozen=True)
class _Evidence:
    """What one request deletes, and what it can be recognised by; kept in the vault until verified."""

    utterances: tuple[str, ...]
    held_out: tuple[str, ...]
    seconds: float
    derived: tuple[str, ...]
    fingerprints: Fingerprints

    @property
    def ids(self) -> tuple[str, ...]:
        return (*self.utterances, *self.held_out)

    @classmethod
    def read(cls, path: Path) -> "_Evidence | None":
        if not path.exists():
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        fields = json.loads(head)
        # Evidence of an earlier version has no checksum.
        if fields.get("sha256", digest := hashlib.sha256(body).hexdigest()) != digest:
            raise ValueError(f"{path}: does not match its checksum; it was cut or changed")
        utterances, held_out, derived = (tuple(fields[key]) for key in ("utterances", "held_out", "derived"))
        return cls(utterances, held_out, fields["seconds"], derived, Fingerprints.from_bytes(body))

    def write(self, path: Path) -> None:
        head, body = asdict(replace(self, fingerprints=Fingerprints.of([]))), self.fingerprints.to_bytes()
        head["sha256"] = hashlib.sha256(body).hexdigest()
        del head["fingerprints"]
        make_own_folder(path.parent)
        write_atomically(path, json.dumps(head).encode() + b"\n" + body)


def purge_requests(
    vault: Vault,
    model: EmotionModel,
    requests: Sequence[str],
    beside: Iterable[Path],
    applied: AppliedRequests,
    spared: Iterable[Path] = (),
) -> PurgeResult:
    """Remove what these requests of the device name, and verify it.

    Idempotent: it completes an earlier attempt that was interrupted. A request of which a trace was found, or
    may be in what could not be searched, keeps its evidence and gets no receipt; it may be purged again.

    Args:
        vault: of the device.
        model: of the run's kind; it derives the features to look for.
        requests: ids.
        beside: files and folders outside the vault where traces could be; no other device's vault.
        applied: what the server sent about the requests.
        spared: folders that are not searched if a link leads into them.

    Raises:
        OSError: the disk is full or broken; nothing was lost that stays.
    """
    vault.purge(())  # reads what an interrupted attempt, or another process, has done
    evidence = _collect_evidence(vault, model, requests, applied.rounds_done)
    for request, own in evidence.items():
        own.write(_evidence_file(vault.folder, request))
    removed = vault.purge(i for own in evidence.values() for i in own.ids)
    drop_calibrated_set(vault.folder)
    vault.derive(model)
    everything = Fingerprints.of([])
    for own in evidence.values():
        everything |= own.fingerprints
    findings = find_traces([vault.folder, *beside], everything, spared)
    clean = {
        r: e for r, e in evidence.items() if not findings.unsearched and not findings.any_of(e.fingerprints)
    }
    for request, own in clean.items():
        deletion = DeletionRecord(
            request,
            own.utterances,
            own.held_out,
            own.seconds,
            own.derived,
            applied.round,
            applied.round_applied,
            applied.model,
            applied.method,
            findings.files,
            findings.bytes,
            len(own.fingerprints),
            applied.ledger_head,
            applied.model_before,
        )
        write_receipt(vault.folder, deletion)
    RequestStore(vault.folder).set_state(requests, RequestState.PURGED)
    for request in clean:
        _wipe_evidence(_evidence_file(vault.folder, request))
    with suppress(OSError):  # it is not empty: evidence of another request is in it
        (vault.folder / "evidence").rmdir()
    return PurgeResult(removed, clean.keys() == set(requests))


def _collect_evidence(
    vault: Vault, model: EmotionModel, requests: Sequence[str], by: int
) -> dict[str, _Evidence]:
    """Read each request's evidence of an earlier attempt, or else collect it now."""
    stored = {r.id: r for r in RequestStore(vault.folder).all() if r.id in requests}
    named = {u for r in stored.values() for u in r.held_out}
    evidence: dict[str, _Evidence] = {}
    deleting: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    gone: set[str] = set()
    for request, own in stored.items():
        earlier = _Evidence.read(_evidence_file(vault.folder, request))
        if earlier:
            evidence[request] = earlier
            gone |= set(earlier.ids)
            continue
        wanted, held_out = (
            tuple(u for u in ids if u in vault.entries and u not in gone)
            for ids in (own.utterances, own.held_out)
        )
        gone |= {*wanted, *held_out}
        # Utterances that another of these requests names appear in that one's receipt.
        held_out += implied_held_out(vault, gone | named, wanted, by)
        gone |= set(held_out)
        deleting[request] = (wanted, held_out)
    for request, (wanted, held_out) in deleting.items():
        ids = (*wanted, *held_out)
        seconds = sum(vault.entries[i].samples for i in ids) / SAMPLE_RATE
        derived = vault.stored_names() if ids else ()
        if vault.tickets.rows_of(ids):
            derived = (*derived, "tickets")
        evidence[request] = _Evidence(
            wanted, held_out, seconds, derived, vault.fingerprints(ids, model, beside=gone)
        )
    return {request: evidence[request] for request in stored}


def implied_held_out(vault: Vault, gone: Iterable[str], wanted: Iterable[str], by: int) -> tuple[str, ...]:
    """Find the held-out utterances that a request deletes along with a speaker's last training utterances.

    Args:
        vault: of the device.
        gone: ids of all that is purged by now.
        wanted: those of them that this request names.
        by: rounds done; what is recorded later stays.
    """
    gone = set(gone)
    leaving = {vault.entries[i].speaker for i in wanted}
    staying = {vault.entries[i].speaker for i in vault.ids("train", by) if i not in gone}
    held_out = {i: vault.entries[i].speaker for i in vault.ids("test", by) if i not in gone}
    return held_out_of_leaving(leaving, staying, held_out)


def held_out_of_leaving(
    leaving: Collection[str], staying: Collection[str], held_out: Mapping[str, str]
) -> tuple[str, ...]:
    """Select the held-out utterances of one device that are deleted with training utterances of its speakers.

    A speaker without training utterances leaves no held-out ones behind; a device without any leaves none.

    Args:
        leaving: speakers of the training utterances that are deleted.
        staying: speakers of those that are left.
        held_out: held-out utterance -> speaker.
    """
    if not leaving or not staying:
        return tuple(held_out) if leaving else ()
    return tuple(i for i, speaker in held_out.items() if speaker in leaving and speaker not in staying)


def _wipe_evidence(path: Path) -> None:
    # Renamed first, so that it is never half wiped under its own name; opening the vault completes this.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.replace(temporary)
    wipe(temporary)


def _evidence_file(vault_folder: Path, request: str) -> Path:
    return vault_folder / "evidence" / receipt_of(vault_folder, request).stem
