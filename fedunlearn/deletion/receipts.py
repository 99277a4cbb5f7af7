"""Receipts: what a person gets as the record of a deletion, in plain words and numbers.

A receipt is the file ``<vault>/receipts/<request>.json``, of schema ``fedunlearn/receipt/2``. It names the
person's own utterances, so it stays on the person's own device; it contains no path and nothing about other
people. It also contains the request's rows of the ledger: a copy that the person keeps shows whether the
ledger was changed afterwards.

Receipts of schema ``fedunlearn/receipt/1`` have neither these rows nor a digest; they can be read, too.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedunlearn.files import read_json_object, write_atomically
from fedunlearn.ledger import LedgerEntry
from fedunlearn.links import make_own_folder
from fedunlearn.run_folder import RunFolder

SCHEMA = "fedunlearn/receipt/2"
_EARLIER = "fedunlearn/receipt/1"
_ADDED_LATER = {"schema", "ledger", "evidence", "kept", "sha256"}
"""parts that may change after a receipt is written"""
_ID = r"[\w-]{1,100}"
_HASH = re.compile("[0-9a-f]{64}")

SCANNED = (
    "everything that this device stores",
    "the run's checkpoints, temporary files, ledger, receipts, metrics and log",
)
NOT_PROMISED = (
    "The model's weights were moved away from these recordings, not freed of every trace: statistical traces "
    "may remain, up to what was measured (see evidence; null = not measured yet).",
    "Copies of the model from before the deletion, which others may hold, still know these recordings; those "
    "that the experimenter keeps are named (see kept) and can be deleted: fedunlearn influence DIR --delete.",
    "On copy-on-write and solid-state disks, in snapshots and in backups, old blocks may outlive the "
    "overwriting.",
    "Whoever kept both a model from before the deletion and one from after it can read features of few "
    "recordings off their difference.",
    "Where this is a simulation, the corpus, from which the recordings came, is never written.",
)


@dataclass(frozen=True)
class MethodRecord:
    """How the model was made to forget.

    Attributes:
        name: of the method.
        source: the paper it is from.
        sees: the data it works on: "forget" (these recordings alone), "forget + ticket", "retain" or
            "history".
        aggregation: how the device's update joined the shared model.
    """

    name: str
    source: str
    sees: str
    aggregation: str


@dataclass(frozen=True)
class DeletionRecord:
    """The outcome of one request on one device.

    Attributes:
        request: id.
        utterances: ids of the training utterances that were deleted.
        held_out: ids of the held-out utterances that were deleted, those that were implied included.
        seconds: length of the deleted audio in s.
        derived: names of the stored features that were derived from it, and "tickets" where it had any.
        round: rounds done when it was removed.
        round_applied: round in which unlearning was applied; -1 = no model had been trained on the audio.
        model: SHA-256 of the weights right after that; empty = no model had been trained on the audio.
        method: how the model was made to forget.
        files: number of files that were searched afterwards without finding a trace.
        bytes: number of bytes in them.
        fingerprints: number of fingerprints that were searched for.
        ledger_head: hash of the ledger's last row when the server asked for the purge; empty = not known.
        model_before: SHA-256 of the weights right before unlearning was applied; empty = not known.
    """

    request: str
    utterances: Sequence[str]
    held_out: Sequence[str]
    seconds: float
    derived: Sequence[str]
    round: int
    round_applied: int
    model: str
    method: MethodRecord
    files: int
    bytes: int
    fingerprints: int
    ledger_head: str = ""
    model_before: str = ""


class BadReceipt(ValueError):
    """A file is no receipt, or a damaged one; ``str(error)`` names it."""


@dataclass(frozen=True)
class NotedRow:
    """A row of the ledger, as a receipt contains it.

    Attributes:
        position: 1, 2, ...
        round: of the timeline.
        state: the state that the request reached.
        hash: of the row.
    """

    position: int
    round: int
    state: str
    hash: str


@dataclass(frozen=True)
class Receipt:
    """The content of a receipt.

    Attributes:
        request: id.
        utterances: ids of the training utterances that were removed.
        held_out: ids of the held-out utterances that were removed.
        learned: whether a model had been trained on what was removed.
        model: (round, SHA-256) of the model that unlearning gave; None = no model had been trained on it.
        model_before: SHA-256 of the model that it was applied to; empty = not known.
        head_at_purge: of the ledger when the server asked for the purge; empty = not known.
        head: of the ledger at the end of the run; empty = the run has not ended yet.
        rows: the request's rows in the ledger at the end of the run.
        permanent: all parts that never change once a receipt is written.
    """

    request: str
    utterances: tuple[str, ...]
    held_out: tuple[str, ...]
    learned: bool
    model: tuple[int, str] | None
    model_before: str
    head_at_purge: str
    head: str
    rows: tuple[NotedRow, ...]
    permanent: Mapping[str, Any]

    @property
    def removed(self) -> tuple[str, ...]:
        """Ids of all utterances that were removed."""
        return (*self.utterances, *self.held_out)


def receipt_of(vault_folder: Path, request: str) -> Path:
    """Return the file of a request's receipt.

    Args:
        vault_folder: of the device.
        request: id.

    Raises:
        ValueError: it is not the id of a request.
    """
    if not re.fullmatch(_ID, request):
        raise ValueError(f"{request!r} is not the id of a request")
    return vault_folder / "receipts" / f"{request}.json"


def every_receipt(run: RunFolder) -> Iterator[tuple[int, Path]]:
    """List the receipts of all devices of a run as (client, file)."""
    for client in run.clients():
        for path in sorted((run.vault(client) / "receipts").glob("*.json")):
            yield client, path


def removed_by(vault_folder: Path, request: str) -> tuple[str, ...]:
    """Read from a receipt which utterances its request removed; none if there is no receipt.

    Args:
        vault_folder: of the device.
        request: id.

    Raises:
        BadReceipt: the file is no receipt, or a damaged one.
    """
    path = receipt_of(vault_folder, request)
    return read_receipt(path).removed if path.exists() else ()


def write_receipt(vault_folder: Path, deletion: DeletionRecord, now: datetime | None = None) -> Path:
    """Write a receipt, unless there is one already: the first one has the right time.

    Args:
        vault_folder: of the device.
        deletion: the outcome of the request.
        now: time of the deletion; None = the current time.

    Returns:
        the receipt's file
    """
    path = receipt_of(vault_folder, deletion.request)
    if path.exists():
        return path
    learned = deletion.model and deletion.round_applied >= 0
    before = {"before": deletion.model_before} if deletion.model_before else {}
    applied = {"round": deletion.round_applied, "sha256": deletion.model, **before} if learned else None
    receipt: dict[str, Any] = {
        "schema": SCHEMA,
        "request": deletion.request,
        "removed": {
            "utterances": list(deletion.utterances),
            "held_out": list(deletion.held_out),
            "count": len(deletion.utterances) + len(deletion.held_out),
            "seconds": round(deletion.seconds, 3),
            "derived": list(deletion.derived),
        },
        "when": {
            "utc": (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
            "round": deletion.round,
        },
        "from_model": applied,
        "method": vars(deletion.method) if applied else None,
        "verification": {
            "scanned": list(SCANNED),
            "files": deletion.files,
            "bytes": deletion.bytes,
            "fingerprints": deletion.fingerprints,
            "found": 0,
        },
        "not_promised": list(NOT_PROMISED),
        "evidence": None,
        "kept": None,
        "ledger": {"head_at_purge": deletion.ledger_head or None, "head": None, "rows": []},
    }
    make_own_folder(path.parent)
    _write(path, receipt)
    return path


def add_evidence(path: Path, evidence: Mapping[str, Any]) -> None:
    """Add to a receipt how much the model forgot, as measured at the end of the run.

    Args:
        path: of the receipt.
        evidence: such as forget_accuracy {original, unlearned, recovered, retrained}, membership {recovered,
            retrained} each {auc, low, high}, gap and noise_floor. It replaces earlier evidence.

    Raises:
        ValueError: a number is not finite (JSON has no NaN).
        BadReceipt: the file is no receipt, or a damaged one.
        FileNotFoundError: there is no such receipt.
    """
    _write(path, {**_read(path), "evidence": dict(evidence)})


def add_kept(path: Path, kept: Sequence[Mapping[str, str]]) -> None:
    """Add to a receipt the files with models that still know what was deleted.

    Args:
        path: of the receipt.
        kept: {file, what} each; empty = there are none any more. It replaces an earlier list.

    Raises:
        BadReceipt: the file is no receipt, or a damaged one.
        FileNotFoundError: there is no such receipt.
    """
    _write(path, {**_read(path), "kept": [dict(one) for one in kept]})


def add_ledger(path: Path, rows: Sequence[LedgerEntry], head: str) -> None:
    """Add to a receipt the rows of its request in the ledger at the end of the run.

    Args:
        path: of the receipt.
        rows: of the request on this device; they replace earlier ones.
        head: of the ledger.

    Raises:
        BadReceipt: the file is no receipt, or a damaged one.
        FileNotFoundError: there is no such receipt.
    """
    receipt = _read(path)
    noted = [vars(NotedRow(e.position, e.round, e.state, e.hash)) for e in rows]
    earlier = receipt.get("ledger") or {"head_at_purge": None}
    _write(path, {**receipt, "ledger": {**earlier, "head": head, "rows": noted}})


def read_receipt(path: Path) -> Receipt:
    """Read a receipt from any place.

    Args:
        path: of the receipt.

    Raises:
        BadReceipt: the file is no receipt, or its content does not match the digest in it.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    content = _read(path)
    try:
        request = content["request"]
        utterances, held_out = (content["removed"][part] for part in ("utterances", "held_out"))
        if not isinstance(request, str) or not re.fullmatch(_ID, request):
            raise TypeError("its request has no id")
        for ids in (utterances, held_out):
            if not isinstance(ids, list) or not all(isinstance(u, str) for u in ids):
                raise TypeError("what was removed is no list")
        ledger = content.get("ledger") or {"head_at_purge": None, "head": None, "rows": []}
        return Receipt(
            request,
            tuple(utterances),
            tuple(held_out),
            content["from_model"] is not None,
            _model(content["from_model"]),
            _head((content["from_model"] or {}).get("before")),
            _head(ledger["head_at_purge"]),
            _head(ledger["head"]),
            tuple(_row(row) for row in ledger["rows"]),
            {part: value for part, value in content.items() if part not in _ADDED_LATER},
        )
    except (KeyError, TypeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadReceipt(f"{path}: is no receipt ({why})") from error


def _head(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise TypeError("a head of the ledger has 64 hexadecimal digits")
    return value


def _model(applied: Any) -> tuple[int, str] | None:
    if applied is None:
        return None
    round, digest = applied["round"], applied["sha256"]
    if isinstance(round, bool) or not isinstance(round, int) or not isinstance(digest, str):
        raise TypeError("its model has no round or no digest")
    return round, digest


def _row(row: Mapping[str, Any]) -> NotedRow:
    noted = NotedRow(**row)
    numbers = noted.position, noted.round
    if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers) or noted.position < 1:
        raise TypeError("a row's position and round are whole numbers")
    if not isinstance(noted.state, str) or not _head(noted.hash):
        raise TypeError("a row has a state and a hash")
    return noted


def _read(path: Path) -> dict[str, Any]:
    try:
        receipt = read_json_object(path)
    except ValueError as error:
        raise BadReceipt(f"{path}: is no receipt (it {error})") from error
    if receipt.get("schema") not in {SCHEMA, _EARLIER}:
        raise BadReceipt(f"{path}: is no receipt (its schema is neither {SCHEMA} nor {_EARLIER})")
    if receipt["schema"] == SCHEMA and receipt.get("sha256") != _digest(receipt):
        raise BadReceipt(f"{path}: does not match its own digest; it was cut or changed")
    return receipt


def _write(path: Path, receipt: Mapping[str, Any]) -> None:
    whole = {**receipt, "schema": SCHEMA}
    whole["sha256"] = _digest(whole)
    write_atomically(path, json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _digest(receipt: Mapping[str, Any]) -> str:
    rest = {part: value for part, value in receipt.items() if part != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
