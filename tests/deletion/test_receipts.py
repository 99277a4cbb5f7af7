"""What a person gets to hold: true, whole, of nobody else, and the first one stays."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fedunlearn.deletion.receipts import (
    SCHEMA,
    BadReceipt,
    DeletionRecord,
    MethodRecord,
    add_evidence,
    add_ledger,
    read_receipt,
    receipt_of,
    write_receipt,
)
from fedunlearn.ledger import LedgerEntry

DONE = DeletionRecord(
    request="0123456789abcdef",
    utterances=("a1", "a2"),
    held_out=("a3",),
    seconds=7.12345,
    derived=("functionals",),
    round=14,
    round_applied=12,
    model="ab" * 32,
    method=MethodRecord("calm", "this project", "forget", "sum"),
    files=9,
    bytes=12345,
    fingerprints=678,
)
HEAD = "2" * 64
NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
EVIDENCE = {
    "forget_accuracy": {"original": 1.0, "unlearned": 0.3, "recovered": 0.41, "retrained": 0.375},
    "membership": {
        "recovered": {"auc": 0.51, "low": 0.44, "high": 0.58},
        "retrained": {"auc": 0.35, "low": 0.27, "high": 0.43},
    },
    "gap": 0.03,
    "noise_floor": 0.007,
}


def test_a_receipt_says_what_when_from_which_model_on_and_how(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    assert path == tmp_path / "receipts" / "0123456789abcdef.json" == receipt_of(tmp_path, DONE.request)
    receipt = json.loads(path.read_text(encoding="utf-8"))
    promised = receipt.pop("not_promised")
    scanned = receipt["verification"].pop("scanned")
    assert len(receipt.pop("sha256")) == 64
    assert receipt == {
        "schema": "fedunlearn/receipt/2",
        "request": "0123456789abcdef",
        "removed": {
            "utterances": ["a1", "a2"],
            "held_out": ["a3"],
            "count": 3,
            "seconds": 7.123,
            "derived": ["functionals"],
        },
        "when": {"utc": "2026-03-04T12:00:00+00:00", "round": 14},
        "from_model": {"round": 12, "sha256": "ab" * 32},
        "method": {"name": "calm", "source": "this project", "sees": "forget", "aggregation": "sum"},
        "verification": {"files": 9, "bytes": 12345, "fingerprints": 678, "found": 0},
        "evidence": None,
        "kept": None,
        "ledger": {"head_at_purge": None, "head": None, "rows": []},
    }
    assert len(promised) == 5 and len(scanned) == 2
    for word in ("traces may remain", "Copies of the model", "copy-on-write", "corpus", "their difference"):
        assert any(word in sentence for sentence in promised)


def test_no_path_stands_in_a_receipt(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    add_evidence(path, EVIDENCE)
    text = path.read_text()
    assert str(tmp_path) not in text and text.count("/") == SCHEMA.count("/")


def test_the_time_is_universal(tmp_path: Path) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    receipt = json.loads(write_receipt(tmp_path, DONE, NOON.astimezone(there)).read_text())
    assert receipt["when"]["utc"] == "2026-03-04T12:00:00+00:00"
    fresh = json.loads(write_receipt(tmp_path / ".." / tmp_path.name, replace(DONE, request="b")).read_text())
    written = datetime.fromisoformat(fresh["when"]["utc"])
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)


@pytest.mark.parametrize(("since", "model"), [(-1, "ab" * 32), (12, ""), (-1, "")])
def test_where_no_model_had_been_trained_on_it_none_is_named(tmp_path: Path, since: int, model: str) -> None:
    path = write_receipt(tmp_path, replace(DONE, round_applied=since, model=model), NOON)
    receipt = json.loads(path.read_text())
    assert receipt["from_model"] is None and receipt["method"] is None


def test_the_first_receipt_stays_and_keeps_its_evidence(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    add_evidence(path, EVIDENCE)
    before = path.read_bytes()
    write_receipt(tmp_path, replace(DONE, utterances=(), seconds=0.0), NOON + timedelta(days=1))
    assert path.read_bytes() == before


def test_evidence_is_added_and_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    plain = json.loads(path.read_text())
    for evidence in (EVIDENCE, {"gap": 0.5}, {"gap": 0.5}):
        add_evidence(path, evidence)
        now = json.loads(path.read_text())
        assert now == {**plain, "evidence": evidence, "sha256": now["sha256"]} and read_receipt(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_no_number_is_refused_and_the_receipt_stays(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        add_evidence(path, {"gap": math.nan})
    assert path.read_bytes() == before


def test_evidence_goes_into_receipts_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        add_evidence(tmp_path / "missing.json", EVIDENCE)
    for content in ("[]", '{"schema": "fedunlearn/receipt/2"}', "{"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError):
            add_evidence(tmp_path / "other.json", EVIDENCE)
        assert (tmp_path / "other.json").read_text() == content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"found": 0', '"found": 1'),
        ('"a2"', '"a4"'),
        ('"evidence": null', '"evidence": {}'),
        ('"head_at_purge": null', f'"head_at_purge": "{"0" * 64}"'),
    ],
)
def test_a_damaged_receipt_is_distinguished_from_a_whole_one(tmp_path: Path, old: str, new: str) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    assert read_receipt(path).held_out == ("a3",) and read_receipt(path).learned
    damaged = path.read_text().replace(old, new)
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.raises(BadReceipt, match="does not match its own digest"):
        read_receipt(path)
    with pytest.raises(BadReceipt, match="does not match its own digest"):
        add_evidence(path, EVIDENCE)
    with pytest.raises(BadReceipt, match="does not match its own digest"):
        add_ledger(path, [], HEAD)
    assert path.read_text() == damaged


def test_the_ledger_is_added_and_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, replace(DONE, ledger_head="1" * 64), NOON)
    plain = json.loads(path.read_text())
    row = LedgerEntry(7, "s" * 64, "r" * 64, 12, "applied", "0" * 64, HEAD)
    noted = {"position": 7, "round": 12, "state": "applied", "hash": HEAD}
    for head in (HEAD, "3" * 64):
        add_ledger(path, [row], head)
        now = json.loads(path.read_text())
        ledger = {"head_at_purge": "1" * 64, "head": head, "rows": [noted]}
        assert now == {**plain, "ledger": ledger, "sha256": now["sha256"]}
    read = read_receipt(path)
    assert (read.head_at_purge, read.head, read.rows[0].hash) == ("1" * 64, "3" * 64, HEAD)


def test_a_receipt_of_an_earlier_run_is_read_and_completed(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, DONE, NOON)
    permanent = read_receipt(path).permanent
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"ledger", "sha256"}}
    path.write_text(json.dumps({**old, "schema": "fedunlearn/receipt/1"}))
    assert read_receipt(path).permanent == permanent and read_receipt(path).head_at_purge == ""
    add_ledger(path, [], HEAD)
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert read_receipt(path).permanent == permanent and read_receipt(path).head == HEAD


@pytest.mark.parametrize("name", ["", "../requests", "a/b", "a.json", "x" * 101, "a\n"])
def test_a_request_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the id of a request"):
        write_receipt(tmp_path, replace(DONE, request=name), NOON)
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_ascii_are_readable(tmp_path: Path) -> None:
    path = write_receipt(tmp_path, replace(DONE, utterances=("zoë-1",)), NOON)
    assert "zoë-1" in path.read_text(encoding="utf-8")
