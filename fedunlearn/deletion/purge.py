"""A deletion request's last step on its device: gone from the vault, looked for everywhere, and said so.

The steps, each durable before the next:
    1. evidence/<request>: what the speech can be recognised by (fingerprints, no speech) and what goes
    2. the vault is purged
    3. the vault and the places beside it are searched
    4. receipts/<request>.json
    5. the request book says "purged"
    6. the evidence is wiped
A device that dies at any of them finds the evidence when it is asked again, and does all that follows.
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
    """What the server says of a deletion that it has applied; as in ``receipts.Deletion``.

    ``rounds_done`` is in the rounds that recordings are dated by; what is recorded after it stays.
    """

    rounds_done: int
    round: int
    round_applied: int
    model: str
    method: MethodRecord
    ledger_head: str = ""


@dataclass(frozen=True)
class PurgeResult:
    """What became of it.

    Attributes:
        removed: utterances, now.
        verified: no trace of any of the requests' speech was found.
    """

    removed: int
    verified: bool


@dataclass(frozen=True)
class _Evidence:
    """What goes for one request, and what it can be recognised by; lies beside the vault until verified."""

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
        told = json.loads(head)
        # Evidence of an earlier version says no checksum.
        if told.get("sha256", digest := hashlib.sha256(body).hexdigest()) != digest:
            raise ValueError(f"{path}: does not match its checksum; it was cut or changed")
        utterances, held_out, derived = (tuple(told[key]) for key in ("utterances", "held_out", "derived"))
        return cls(utterances, held_out, told["seconds"], derived, Fingerprints.from_bytes(body))

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
    """Remove what these requests of the device's own book ask for, and verify it.

    Idempotent; whatever interrupted an earlier attempt, this one completes it. A request of which a trace
    was found, or may be in what could not be searched, keeps its evidence, gets no receipt, and may be asked
    for again.

    Args:
        model: of the run's kind; it derives the features to look for.
        beside: files and folders outside the vault where traces could be; no other device's vault.
        spared: folders that are not searched where a link leads into them.

    Raises:
        OSError: the disk is full or broken; nothing was lost that stays.
    """
    vault.purge(())  # sees what an interrupted attempt, or another process, has done
    evidence = _plan(vault, model, requests, applied.rounds_done)
    for request, of_it in evidence.items():
        of_it.write(_evidence_of(vault.folder, request))
    removed = vault.purge(i for of_it in evidence.values() for i in of_it.ids)
    drop_calibrated_set(vault.folder)
    vault.derive(model)
    everything = Fingerprints.of([])
    for of_it in evidence.values():
        everything |= of_it.fingerprints
    findings = find_traces([vault.folder, *beside], everything, spared)
    clean = {
        r: e for r, e in evidence.items() if not findings.unsearched and not findings.any_of(e.fingerprints)
    }
    for request, of_it in clean.items():
        deletion = DeletionRecord(
            request,
            of_it.utterances,
            of_it.held_out,
            of_it.seconds,
            of_it.derived,
            applied.round,
            applied.round_applied,
            applied.model,
            applied.method,
            findings.files,
            findings.bytes,
            len(of_it.fingerprints),
            applied.ledger_head,
        )
        write_receipt(vault.folder, deletion)
    RequestStore(vault.folder).set_state(requests, RequestState.PURGED)
    for request in clean:
        _take_away(_evidence_of(vault.folder, request))
    with suppress(OSError):  # another request's is still in it
        (vault.folder / "evidence").rmdir()
    return PurgeResult(removed, clean.keys() == set(requests))


def _plan(vault: Vault, model: EmotionModel, requests: Sequence[str], by: int) -> dict[str, _Evidence]:
    """For each request what was found by an earlier attempt, or else what goes now."""
    asked = {r.id: r for r in RequestStore(vault.folder).all() if r.id in requests}
    named = {u for r in asked.values() for u in r.held_out}
    evidence: dict[str, _Evidence] = {}
    going: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    gone: set[str] = set()
    for request, own in asked.items():
        earlier = _Evidence.read(_evidence_of(vault.folder, request))
        if earlier:
            evidence[request] = earlier
            gone |= set(earlier.ids)
            continue
        wanted, held_out = (
            tuple(u for u in ids if u in vault.entries and u not in gone)
            for ids in (own.utterances, own.held_out)
        )
        gone |= {*wanted, *held_out}
        # What another request of these names stands in that one's receipt.
        held_out += leaving_too(vault, gone | named, wanted, by)
        gone |= set(held_out)
        going[request] = (wanted, held_out)
    for request, (wanted, held_out) in going.items():
        ids = (*wanted, *held_out)
        seconds = sum(vault.entries[i].samples for i in ids) / SAMPLE_RATE
        derived = vault.stored_names() if ids else ()
        evidence[request] = _Evidence(
            wanted, held_out, seconds, derived, vault.fingerprints(ids, model, beside=gone)
        )
    return {request: evidence[request] for request in asked}


def leaving_too(vault: Vault, gone: Iterable[str], wanted: Iterable[str], by: int) -> tuple[str, ...]:
    """Held-out utterances that go along: whoever takes back all training speech leaves nothing behind.

    Args:
        gone: what is purged by now.
        wanted: those of them that this request asks for.
        by: rounds done; what is recorded later is no part of it.
    """
    gone = set(gone)
    leaving = {vault.entries[i].speaker for i in wanted}
    staying = {vault.entries[i].speaker for i in vault.ids("train", by) if i not in gone}
    held_out = {i: vault.entries[i].speaker for i in vault.ids("test", by) if i not in gone}
    return going_along(leaving, staying, held_out)


def going_along(
    leaving: Collection[str], staying: Collection[str], held_out: Mapping[str, str]
) -> tuple[str, ...]:
    """Held-out utterances of one device that go when training speech of some speakers goes.

    Args:
        leaving: speakers of the training speech that goes.
        staying: of that which is left.
        held_out: utterance -> speaker.
    """
    if not leaving or not staying:
        return tuple(held_out) if leaving else ()
    return tuple(i for i, speaker in held_out.items() if speaker in leaving and speaker not in staying)


def _take_away(path: Path) -> None:
    # Under its own name it is never half wiped; where this is cut off, whoever opens the vault next goes on.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.replace(temporary)
    wipe(temporary)


def _evidence_of(vault_folder: Path, request: str) -> Path:
    return vault_folder / "evidence" / receipt_of(vault_folder, request).stem
