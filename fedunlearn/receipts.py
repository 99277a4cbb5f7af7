"""What a person gets to hold: a receipt of the deletion, in plain words and numbers.

``<vault>/receipts/<request>.json``, schema ``fedunlearn/receipt/1``. It names the person's own utterances, so
it stays on the person's own device; it holds no path and nothing of anybody else's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedunlearn.links import make_own_folder
from fedunlearn.run_folder import write_atomically

SCHEMA = "fedunlearn/receipt/1"

SCANNED = (
    "everything that this device stores",
    "the run's checkpoints, temporary files, ledger, receipts, metrics and log",
)
NOT_PROMISED = (
    "The model's weights were moved away from these recordings, not freed of every trace: statistical traces "
    "may remain, up to what was measured (see evidence; null = not measured yet).",
    "Copies of the model from before the deletion, which others may hold, still know these recordings.",
    "On copy-on-write and solid-state disks, in snapshots and in backups, old blocks may outlive the "
    "overwriting.",
    "Where this is a simulation, the experimenter's corpus, from which the recordings came, is never "
    "written, and the experimenter's own cache of models keeps one that was trained on them.",
)


@dataclass(frozen=True)
class Method:
    """How the model was made to forget.

    Attributes:
        name, source: the method and whom it is from.
        sees: the data it works on: "forget" (these recordings alone), "retain" or "history".
        aggregation: how the device's update joined the shared model.
    """

    name: str
    source: str
    sees: str
    aggregation: str


@dataclass(frozen=True)
class Deletion:
    """What one request came to on one device.

    Attributes:
        utterances: what it asked for and had, by id. held_out: what went along, by id.
        seconds: of audio, of both. derived: names of the features that were made of it and stored.
        round: rounds done when it was removed.
        round_applied, model: from which shared model on: the round in which forgetting was applied, and the
            SHA-256 of the weights right after; -1 or empty = no model had been trained on it.
        files, bytes, fingerprints: looked through, and looked for, afterwards; none was found.
    """

    request: str
    utterances: Sequence[str]
    held_out: Sequence[str]
    seconds: float
    derived: Sequence[str]
    round: int
    round_applied: int
    model: str
    method: Method
    files: int
    bytes: int
    fingerprints: int


def receipt_of(vault_folder: Path, request: str) -> Path:
    """Where the receipt of a request lies. Raises ValueError for what is no request's id."""
    if not re.fullmatch(r"[\w-]{1,100}", request):
        raise ValueError(f"{request!r} is not the id of a request")
    return vault_folder / "receipts" / f"{request}.json"


def write_receipt(vault_folder: Path, deletion: Deletion, now: datetime | None = None) -> Path:
    """Leave a receipt, unless there is one: the first tells when it was. Returns where it is."""
    path = receipt_of(vault_folder, deletion.request)
    if path.exists():
        return path
    learned = deletion.model and deletion.round_applied >= 0
    applied = {"round": deletion.round_applied, "sha256": deletion.model} if learned else None
    receipt = {
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
    }
    make_own_folder(path.parent)
    _write(path, receipt)
    return path


def add_evidence(path: Path, evidence: Mapping[str, Any]) -> None:
    """Tell, in a receipt, what was measured of the forgetting at the end of the run.

    Args:
        path: of the receipt.
        evidence: such as forget_accuracy {original, unlearned, recovered, retrained}, membership {recovered,
            retrained} each {auc, low, high}, gap and noise_floor. Takes the place of earlier evidence.

    Raises:
        ValueError: a number is not finite (JSON has no NaN), or the file is no receipt.
        FileNotFoundError: there is no such receipt.
    """
    receipt = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(receipt, dict) or receipt.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is not a receipt ({SCHEMA})")
    _write(path, {**receipt, "evidence": dict(evidence)})


def _write(path: Path, receipt: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(receipt, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
