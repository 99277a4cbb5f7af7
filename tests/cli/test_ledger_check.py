"""A ledger beside what was noted of it: what somebody who may write in the run folder did is found."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_line import call_wide as call
from forged_ledgers import Row, made_anew, rewrite, rows, statements
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import run_small

import fedunlearn.deletion.receipts
import fedunlearn.ledger
from fedunlearn.audit.ledger_check import check_ledger
from fedunlearn.checkpoints import manifest_of
from fedunlearn.deletion.receipts import read_receipt, receipt_of
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.errors import BadInput
from fedunlearn.ledger import GENESIS, Ledger, LedgerReader
from fedunlearn.run_folder import RunFolder


class MessageConfig(NamedTuple):
    """A request of the run."""

    id: str
    client: int


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has ended; tests damage a copy."""
    out = tmp_path_factory.mktemp("honest") / "run"
    run_small(out)
    return RunFolder(out)


@pytest.fixture
def run(honest: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    shutil.copytree(honest.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


# ---- what somebody does who may write in the run folder ----------------------------------------------------


def results_of(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.results.read_text())
    return found


def first(run: RunFolder) -> MessageConfig:
    request = results_of(run)["requests"][0]
    return MessageConfig(request["id"], request["client"])


def receipt(run: RunFolder) -> Path:
    entry = first(run)
    return receipt_of(run.vault(entry.client), entry.id)


def store(run: RunFolder) -> Path:
    return run.vault(first(run).client) / "requests.json"


def hashed(run: RunFolder, entry: MessageConfig) -> str:
    with LedgerReader(run.ledger) as ledger:
        return ledger.hashed(entry.id, entry.client)


def erase(run: RunFolder) -> None:
    own = hashed(run, first(run))
    made_anew(run, [row for row in rows(run) if row[1] != own])


def erase_with_results(run: RunFolder) -> None:
    erase(run)
    rewrite(run.results, requests=results_of(run)["requests"][1:])


def erase_with_receipt(run: RunFolder) -> None:
    erase(run)
    receipt(run).unlink()
    rewrite(run.results, requests=results_of(run)["requests"][1:])


def erase_with_old_receipts(run: RunFolder) -> None:
    old_receipts(run)
    erase_with_results(run)


def shift_rounds(run: RunFolder) -> None:
    made_anew(run, [(s, r, round + 1, state, c) for s, r, round, state, c in rows(run)])
    shifted = results_of(run)["requests"]
    for request in shifted:
        for step in request["history"]:
            step["round"] += 1
    rewrite(run.results, requests=shifted)


def undo_purge(run: RunFolder) -> None:
    own = hashed(run, first(run))
    made_anew(run, [row for row in rows(run) if row[1] != own or row[3] not in {"purged", "verified"}])
    requests = results_of(run)["requests"]
    requests[0] |= {"state": "applied", "history": requests[0]["history"][:-2]}
    rewrite(run.results, requests=requests, status="partial")


def add_row(request: str, state: str) -> Callable[[RunFolder], None]:
    def add(run: RunFolder) -> None:
        subject, own, round, *_ = next(row for row in rows(run) if row[1] == hashed(run, first(run)))
        made_anew(run, [*rows(run), (subject, own if request == "own" else request, round, state, "")])
        rewrite(run.results, ledger=None)
        run.results.unlink()

    return add


def relabel(old: str, new: str) -> Callable[[RunFolder], None]:
    def change(run: RunFolder) -> None:
        made_anew(run, [(s, q, r, new if state == old else state, c) for s, q, r, state, c in rows(run)])
        run.results.unlink()

    return change


def other_client(run: RunFolder) -> None:
    made_anew(run, [("ab" * 32, *row[1:]) for row in rows(run)])


def forget_notes(run: RunFolder) -> None:
    run.results.unlink()
    shutil.rmtree(run.checkpoints)


def cut_tail(run: RunFolder) -> None:
    statements(run, "DELETE FROM entries WHERE position > 12")


def cut_tail_without_notes(run: RunFolder) -> None:
    cut_tail(run)
    forget_notes(run)


def older_database(run: RunFolder) -> None:
    head = len(rows(run)) // 2
    statements(run, "DELETE FROM entries WHERE position > ?", values=(head,))


def swap(run: RunFolder) -> None:
    statements(
        run,
        "UPDATE entries SET position = -1 WHERE position = 3",
        "UPDATE entries SET position = 3 WHERE position = 4",
        "UPDATE entries SET position = 4 WHERE position = -1",
    )


def reorder(run: RunFolder) -> None:
    made_anew(run, rows(run)[::-1])


def lose_receipts(run: RunFolder) -> None:
    for file in run.vaults.glob("*/receipts/*.json"):
        file.unlink()


def lose_stores(run: RunFolder) -> None:
    for file in run.vaults.glob("*/requests.json"):
        file.unlink()


def lose_all(run: RunFolder) -> None:
    forget_notes(run)
    shutil.rmtree(run.vaults)


def empty_everything(run: RunFolder) -> None:
    made_anew(run, [])


def other_salt(length: int) -> Callable[[RunFolder], None]:
    return lambda run: rewrite_bytes(run.path / "ledger.salt", b"x" * length)


def rewrite_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def no_salt(run: RunFolder) -> None:
    (run.path / "ledger.salt").unlink()


def no_salt_and_erased(run: RunFolder) -> None:
    erase_with_results(run)
    no_salt(run)


def salt_folder(run: RunFolder) -> None:
    no_salt(run)
    (run.path / "ledger.salt").mkdir()


def old_receipts(run: RunFolder) -> None:
    """As runs wrote them before receipts had a ledger and a digest."""
    for file in run.vaults.glob("*/receipts/*.json"):
        content = json.loads(file.read_text())
        del content["ledger"], content["sha256"]
        file.write_text(json.dumps({**content, "schema": "fedunlearn/receipt/1"}))


def cell(field: str, value: Any) -> Callable[[RunFolder], None]:
    """One odd value in row 5, in a table that takes anything."""

    def change(run: RunFolder) -> None:
        statements(
            run,
            "CREATE TABLE other AS SELECT * FROM entries",
            "DROP TABLE entries",
            "ALTER TABLE other RENAME TO entries",
            f"UPDATE entries SET {field} = ? WHERE position = 5",
            values=(value,),
        )

    return change


def sql(*lines: str) -> Callable[[RunFolder], None]:
    return lambda run: statements(run, *lines)


def as_file(content: bytes) -> Callable[[RunFolder], None]:
    def change(run: RunFolder) -> None:
        run.ledger.unlink()
        run.ledger.write_bytes(content)

    return change


def as_folder(run: RunFolder) -> None:
    run.ledger.unlink()
    run.ledger.mkdir()


def as_pipe(run: RunFolder) -> None:
    run.ledger.unlink()
    os.mkfifo(run.ledger)


def format_version(run: RunFolder) -> None:
    content = bytearray(run.ledger.read_bytes())
    content[18:20] = b"\x09\x09"
    run.ledger.write_bytes(content)


def log_folder(run: RunFolder) -> None:
    run.ledger.with_name("ledger.sqlite-wal").mkdir()


def results(text: str) -> Callable[[RunFolder], None]:
    return lambda run: rewrite_bytes(run.results, text.encode())


def part(**parts: Any) -> Callable[[RunFolder], None]:
    return lambda run: rewrite(run.results, **parts)


def huge_results(run: RunFolder) -> None:
    with run.results.open("r+b") as file:
        file.truncate(1 << 33)  # takes no space


def in_store(text: str) -> Callable[[RunFolder], None]:
    return lambda run: rewrite_bytes(store(run), text.encode())


def store_row(**parts: Any) -> Callable[[RunFolder], None]:
    def change(run: RunFolder) -> None:
        (row,) = json.loads(store(run).read_text())
        store(run).write_text(json.dumps([{**row, **parts}]))

    return change


def in_receipt(text: str) -> Callable[[RunFolder], None]:
    return lambda run: rewrite_bytes(receipt(run), text.encode())


def receipt_part(**parts: Any) -> Callable[[RunFolder], None]:
    return lambda run: rewrite(receipt(run), **parts)


def signed_receipt(**parts: Any) -> Callable[[RunFolder], None]:
    """Changed, and its digest made anew."""

    def change(run: RunFolder) -> None:
        resign(receipt(run), **parts)

    return change


def resign(file: Path, **parts: Any) -> None:
    content = {**json.loads(file.read_text()), **parts}
    content["sha256"] = fedunlearn.deletion.receipts._digest(content)
    file.write_text(json.dumps(content))


def others_receipt(run: RunFolder) -> None:
    one, two = results_of(run)["requests"][:2]
    shutil.copy(receipt_of(run.vault(two["client"]), two["id"]), receipt(run))
    assert one["id"] != two["id"]


def receipt_folder(run: RunFolder) -> None:
    receipt(run).unlink()
    receipt(run).mkdir()


def in_manifest(text: str) -> Callable[[RunFolder], None]:
    def change(run: RunFolder) -> None:
        rewrite_bytes(manifest_of(sorted(run.standings.glob("*.safetensors"))[-1]), text.encode())

    return change


def noted(head: str | None, rows: Sequence[Any] = ()) -> dict[str, Any]:
    return {"head_at_purge": head, "head": None, "rows": list(rows)}


DEEP = "[" * 100_000
SEVENS = "7" * 64
CASES: list[tuple[str, Callable[[RunFolder], None], int, str]] = [
    ("nothing", lambda run: None, 0, "rows, whole; agrees with"),
    # rows taken out or changed, chain and noted heads made anew
    ("a request erased", erase, 3, "no row of the ledger is of request"),
    ("one erased in results.json as well", erase_with_results, 3, "no row of the ledger is of request"),
    ("a request erased, with its receipt", erase_with_receipt, 3, "and no row of the ledger is of it"),
    ("one erased beside old receipts", erase_with_old_receipts, 3, "no row of the ledger is of request"),
    ("a request erased without the salt", no_salt_and_erased, 3, "in the ledger"),
    ("all requests erased", empty_everything, 3, "no row of the ledger is of request"),
    ("rounds changed", shift_rounds, 3, "is another one in the ledger"),
    ("purged and verified taken out", undo_purge, 3, "in the ledger"),
    ("a row of nobody's request", add_row("cd" * 32, "raised"), 3, "its request is in no device's store"),
    ("a state after the last", add_row("own", "withdrawn"), 3, "that was verified cannot become withdrawn"),
    ("a state that there is not", add_row("own", "[red]\u202e\n"), 3, "is no state of a request"),
    ("verified became refused", relabel("verified", "refused"), 3, "that was purged cannot become refused"),
    ("raised became accepted", relabel("raised", "withdrawn"), 3, "begins as withdrawn, not as raised"),
    ("another client's", other_client, 3, "is not of the client that it names"),
    ("rows in reverse", reorder, 3, "cannot become"),
    # rows touched without a new chain
    ("a tail cut", cut_tail, 3, "the last row that was noted elsewhere is missing"),
    ("a tail cut, notes removed", cut_tail_without_notes, 3, "(head noted in vaults/"),
    ("an older database", older_database, 3, "the last row that was noted elsewhere is missing"),
    ("rows swapped", swap, 3, "row 3 does not follow the row before it"),
    ("a row changed", sql("UPDATE entries SET round = 77 WHERE position = 6"), 3, "row 6 ("),
    ("a row dropped", sql("DELETE FROM entries WHERE position = 6"), 3, "row 6 is missing"),
    ("positions below zero", sql("UPDATE entries SET position = -position"), 3, "row 1 is missing"),
    ("a huge position", sql(f"UPDATE entries SET position = {2**63 - 1} WHERE position = 5"), 3, "row 5 is"),
    # rows that are none
    ("a state of bytes", cell("state", b"\x00\xff"), 3, "row 5: its state is bytes, not str"),
    ("no state", cell("state", None), 3, "row 5: its state is NoneType"),
    ("no hash", cell("hash", None), 3, "row 5: its hash is NoneType"),
    ("no position", cell("position", None), 3, "its position is NoneType"),
    ("a round of text", cell("round", "three"), 3, "row 5: its round is str, not int"),
    ("a round that is not whole", cell("round", 2.5), 3, "row 5: its round is float"),
    ("text of odd bytes", sql("UPDATE entries SET state = CAST(x'ff' AS TEXT) WHERE rowid = 5"), 3, "UTF-8"),
    ("words that cannot be printed", cell("state", "\x1b[31m[/]\n"), 3, "was changed"),
    ("one column more", sql("ALTER TABLE entries ADD COLUMN more TEXT"), 3, "other columns"),
    ("another column", sql("ALTER TABLE entries RENAME COLUMN state TO fate"), 3, "other columns"),
    ("no table", sql("DROP TABLE entries"), 3, "it has no table of entries"),
    ("a view", sql("ALTER TABLE entries RENAME TO e", "CREATE VIEW entries AS SELECT * FROM e"), 3, "no"),
    # files that are none
    ("an empty file", as_file(b""), 3, "cannot be read as a ledger"),
    ("no database", as_file(b"scribble" * 600), 3, "cannot be read as a ledger"),
    ("another format", format_version, 3, "cannot be read as a ledger"),
    ("a folder", as_folder, 2, "is no file"),
    ("a pipe", as_pipe, 2, "is no file"),
    ("a log that is a folder", log_folder, 2, "ledger.sqlite: cannot be read"),
    ("no ledger", lambda run: run.ledger.unlink(), 2, "there is no ledger.sqlite in it"),
    # the salt
    ("no salt", no_salt, 0, "without the salt, no row can be linked"),
    ("a salt that is a folder", salt_folder, 0, "without the salt, no row can be linked"),
    ("a longer salt", other_salt(99), 3, "no row is of any request that this run knows"),
    ("an empty salt", other_salt(0), 3, "no row is of any request that this run knows"),
    ("another salt", other_salt(16), 3, "no row is of any request that this run knows"),
    # results.json
    ("results.json without a ledger", part(ledger=None), 3, "does not say what the ledger's head was"),
    ("a list for a ledger", part(ledger=[]), 3, "does not say what the ledger's head was"),
    ("a number for a head", part(ledger={"entries": 1, "head": 7}), 3, "does not say what the ledger's head"),
    ("text for a number", part(ledger={"entries": "1", "head": SEVENS}), 3, "how many rows"),
    ("another number of rows", part(ledger={"entries": 3, "head": GENESIS}), 3, "ledger had 3 rows"),
    ("another head", part(ledger={"entries": 3, "head": SEVENS}), 3, "(head noted in results.json)"),
    ("no results.json", lambda run: run.results.unlink(), 0, "whole; agrees with"),
    ("results.json cut", results('{"ledger": {'), 3, "results.json: is not JSON"),
    ("results.json of bytes", lambda run: rewrite_bytes(run.results, b"\xff\xfe"), 3, "is not JSON"),
    ("a list for results.json", results("[]"), 3, "results.json: holds no JSON object"),
    ("a deep results.json", results(DEEP), 3, "results.json: is not JSON"),
    ("a huge results.json", huge_results, 3, "results.json: is larger than"),
    ("requests null", part(requests=None), 3, "its requests are no list"),
    ("a request of text", part(requests=["all"]), 3, "has no id or no client"),
    ("a request without an id", part(requests=[{"client": 1}]), 3, "has no id or no client"),
    ("a history of nulls", part(requests=[{"id": "x", "client": 1, "history": [None]}]), 3, "the history"),
    ("no requests", part(requests=[]), 3, "results.json knows nothing of it"),
    ("nobody's request", part(requests=[{"id": "\ud800", "client": 1, "state": "raised"}]), 3, "says so"),
    # the devices
    ("no receipts", lose_receipts, 3, "says verified, and there is no receipt of request"),
    ("no stores", lose_stores, 3, "its request is in no device's store"),
    ("a store that is not JSON", in_store("{"), 3, "requests.json: is not a request store"),
    ("a deep store", in_store(DEEP), 3, "requests.json: is not a request store"),
    ("a store of numbers", in_store("[1]"), 3, "requests.json: is not a request store"),
    ("a store with a list for an id", store_row(id=["x"]), 3, "requests.json: is not a request store"),
    ("a store with null for a client", store_row(client=None), 3, "requests.json: is not a request store"),
    ("a store with text for a list", store_row(utterances="all"), 3, "requests.json: is not a request store"),
    ("a store gone back", store_row(state="raised"), 3, "in the device's store request"),
    ("a receipt that is not JSON", in_receipt("{"), 3, "is no receipt (it is not JSON)"),
    ("a receipt of a list", in_receipt("[]"), 3, "is no receipt (it holds no JSON object)"),
    ("a deep receipt", in_receipt(DEEP), 3, "is no receipt (it is not JSON)"),
    ("a receipt of another schema", receipt_part(schema=7), 3, "its schema is neither"),
    ("a receipt that was changed", receipt_part(evidence=None), 3, "does not match its own digest"),
    ("a receipt without a request", signed_receipt(request=None), 3, "its request has no id"),
    ("a receipt without a ledger", signed_receipt(ledger=[[]]), 3, "is no receipt ("),
    ("a receipt with odd rows", signed_receipt(ledger=noted(None, [1])), 3, "is no receipt ("),
    ("a receipt of another head", signed_receipt(ledger=noted(SEVENS)), 3, "(head noted in"),
    ("another's receipt", others_receipt, 3, "is the receipt of another request"),
    ("a receipt that is a folder", receipt_folder, 3, "is no receipt (it is no file)"),
    ("old receipts", old_receipts, 0, "whole; agrees with"),
    # checkpoints
    ("a manifest that is not JSON", in_manifest("{"), 3, "is not JSON"),
    ("a manifest of a number", in_manifest('{"ledger_head": 5}'), 3, "ledger_head is no hash"),
    ("a manifest of another head", in_manifest(f'{{"ledger_head": "{SEVENS}"}}'), 3, "noted in checkpoints"),
    ("nothing beside the ledger", lose_all, 4, "whole; nothing to compare it with"),
]


@pytest.mark.parametrize(("damage", "code", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_was_done_to_a_run_is_found(
    run: RunFolder, damage: Callable[[RunFolder], None], code: int, words: str
) -> None:
    damage(run)
    found, output = call("ledger", "verify", run.path)
    assert (found, words in output) == (code, True), output
    begins = {0: str(run.ledger), 4: str(run.ledger), 2: "error: ", 3: "failed: "}[code]
    assert all(line.startswith(begins) for line in output.strip().splitlines()), output
    shown, output = call("ledger", "show", run.path)
    assert shown in {0, 2, 3} and (shown == 0) == ("Ledger of" in output), output


# ---- a copy that somebody keeps --------------------------------------------------------------------------


def kept(run: RunFolder, out: Path) -> Path:
    code, output = call("ledger", "receipt", run.path, "--request", first(run).id, "--out", out)
    assert code == 0 and "Keep it outside" in output, output
    return out


def erase_everywhere(run: RunFolder) -> None:
    """All that the run folder says of the first request; all receipts fit the new chain."""
    receipt(run).unlink()
    store(run).unlink()
    erase_with_results(run)
    fit_receipts(run)


def shift_rounds_everywhere(run: RunFolder) -> None:
    shift_rounds(run)
    for file in run.vaults.glob("*/receipts/*.json"):
        model = json.loads(file.read_text())["from_model"]
        resign(file, from_model={**model, "round": model["round"] + 1})
    fit_receipts(run)


def fit_receipts(run: RunFolder) -> None:
    with LedgerReader(run.ledger) as ledger:
        entries = ledger.entries()
        for file in run.vaults.glob("*/receipts/*.json"):
            own = ledger.hashed(file.stem, int(file.parts[-3][-4:]))
            noted = [
                {name: getattr(e, name) for name in ("position", "round", "state", "hash")}
                for e in entries
                if e.request == own
            ]
            before = next(n["hash"] for n in noted if n["state"] == "applied")
            resign(file, ledger={"head_at_purge": before, "head": entries[-1].hash, "rows": noted})


def other_speech(run: RunFolder) -> None:
    removed = json.loads(receipt(run).read_text())["removed"]
    resign(receipt(run), removed={**removed, "utterances": removed["utterances"][1:]})


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (erase_everywhere, "no device of this run has a receipt of request"),
        (shift_rounds_everywhere, "is another one in the ledger"),
        (other_speech, "in removed"),
    ],
)
def test_what_the_run_folder_alone_cannot_tell_a_kept_receipt_tells(
    run: RunFolder, tmp_path: Path, forge: Callable[[RunFolder], None], words: str
) -> None:
    copy = kept(run, tmp_path / "mine.json")
    assert call("ledger", "verify", run.path, "--receipt", copy)[0] == 0
    forge(run)
    assert call("ledger", "verify", run.path)[0] == 0
    code, output = call("ledger", "verify", run.path, "--receipt", copy)
    assert code == 3 and words in output and f"--receipt {copy}" in output, output


def test_a_receipt_kept_before_the_run_ended_finds_a_run_rolled_back(run: RunFolder, tmp_path: Path) -> None:
    """As it is when the device has purged: the head is in it, and no rows yet."""
    copy = kept(run, tmp_path / "mine.json")
    early = json.loads(copy.read_text())["ledger"] | {"head": None, "rows": []}
    resign(copy, ledger=early, evidence=None)
    assert read_receipt(copy).head_at_purge and not read_receipt(copy).rows
    assert call("ledger", "verify", run.path, "--receipt", copy)[0] == 0
    made_anew(run, rows(run)[:2])
    lose_stores(run)
    lose_receipts(run)
    rewrite(run.results, requests=[], status="partial")
    code, output = call("ledger", "verify", run.path, "--receipt", copy)
    assert code == 3 and f"(head noted in --receipt {copy})" in output


def test_a_file_that_is_no_receipt_is_bad_input(run: RunFolder, tmp_path: Path) -> None:
    copy = kept(run, tmp_path / "mine.json")
    damaged = tmp_path / "damaged.json"
    damaged.write_text(copy.read_text().replace('"found": 0', '"found": 1'))
    (tmp_path / "list.json").write_text("[]")
    for file in (damaged, tmp_path / "list.json", tmp_path / "nowhere.json", tmp_path):
        code, output = call("ledger", "verify", run.path, "--receipt", copy, "--receipt", file)
        assert code == 2 and output.startswith(f"error: --receipt {file}: ") and output.count("\n") == 1, (
            output
        )


def test_a_receipt_alone_is_enough_to_compare_with(run: RunFolder, tmp_path: Path) -> None:
    copy = kept(run, tmp_path / "mine.json")
    forget_notes(run)
    lose_receipts(run)
    lose_stores(run)
    no_salt(run)
    code, output = call("ledger", "verify", run.path)
    assert code == 4 and "nothing to compare it with" in output
    code, output = call("ledger", "verify", run.path, "--receipt", copy)
    assert code == 3 and "no device of this run has a receipt" in output


def test_a_receipt_is_copied_where_the_person_says_and_nowhere_else(run: RunFolder, tmp_path: Path) -> None:
    entry, taken = first(run), tmp_path / "mine.json"
    assert kept(run, taken).read_bytes() == receipt(run).read_bytes()
    for out, words in (
        (taken, "is there already"),
        (tmp_path / "none" / "mine.json", "no such folder"),
        (run.path / "mine.json", "lies in the run folder"),
        (run.vaults / "mine.json", "lies in the run folder"),
    ):
        before = sorted(run.path.rglob("*"))
        code, output = call("ledger", "receipt", run.path, "--request", entry.id, "--out", out)
        assert code == 2 and words in output and sorted(run.path.rglob("*")) == before
    for request in ("ff" * 8, "../requests", "[/]"):
        code, output = call("ledger", "receipt", run.path, "--request", request, "--out", tmp_path / "b")
        assert code == 2 and "has no receipt of it" in output and not (tmp_path / "b").exists()
    receipt(run).write_text("{}")
    code, output = call("ledger", "receipt", run.path, "--request", entry.id, "--out", tmp_path / "b")
    assert code == 2 and "is no receipt" in output and not (tmp_path / "b").exists()


def test_a_person_with_two_devices_says_which(run: RunFolder, tmp_path: Path) -> None:
    entry = first(run)
    other = receipt_of(run.vault(entry.client + 1), entry.id)
    other.parent.mkdir(exist_ok=True)
    shutil.copy(receipt(run), other)
    command = ("ledger", "receipt", run.path, "--request", entry.id, "--out", tmp_path / "mine.json")
    code, output = call(*command)
    assert code == 2 and "give --client" in output
    assert call(*command, "--client", str(entry.client))[0] == 0


# ---- what is in a receipt --------------------------------------------------------------------------------


def test_every_receipt_has_the_head_and_the_rows_of_its_request(honest: RunFolder) -> None:
    with LedgerReader(honest.ledger) as ledger:
        entries, head = ledger.entries(), ledger.head()
        for request in results_of(honest)["requests"]:
            read = read_receipt(receipt_of(honest.vault(request["client"]), request["id"]))
            own = [e for e in entries if e.request == ledger.hashed(request["id"], request["client"])]
            assert [(r.position, r.round, r.state, r.hash) for r in read.rows] == [
                (e.position, e.round, e.state, e.hash) for e in own
            ]
            assert [r.state for r in read.rows][-2:] == ["purged", "verified"] and read.head == head
            (at_purge,) = [e.position for e in entries if e.hash == read.head_at_purge]
            assert own[-3].position <= at_purge < own[-2].position


# ---- any rows at all -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(honest: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy whose ledger, results and manifests are written anew by every example."""
    folder = tmp_path_factory.mktemp("scratch") / "run"
    shutil.copytree(honest.path, folder)
    return RunFolder(folder)


@settings(max_examples=25)
@given(data=st.data())
def test_a_ledger_that_lacks_any_rows_or_has_others_is_found_however_well_it_was_made(
    honest: RunFolder, scratch: RunFolder, data: st.DataObject
) -> None:
    """Chain, heads in results.json and in the checkpoints all fit; the receipts are as they were."""
    before = rows(honest)
    changed: list[Row] = []
    for subject, request, round, *rest in before:
        what = data.draw(st.sampled_from(["keep", "keep", "keep", "drop", "later"]))
        if what != "drop":
            changed.append((subject, request, round + (what == "later"), *rest))
    made_anew(scratch, changed)
    found = check_ledger(scratch).contradictions
    assert bool(found) == (changed != before)


# ---- what cannot be read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_ledger_that_another_process_locks_is_not_called_damaged(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(fedunlearn.ledger, "_PATIENCE", 0.05)
    with closing(sqlite3.connect(run.ledger, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE other (x)")
        shutil.copy(run.ledger, run.path / "x-shm")
        (run.path / "x-shm").rename(run.ledger.with_name("ledger.sqlite-shm"))
        code, output = call("ledger", command, run.path)
    assert code == 2 and output.count("\n") == 1 and "locked" in output, output


@pytest.mark.parametrize("name", ["results.json", "requests.json", "receipts"])
def test_a_file_that_may_not_be_read_is_named(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    read, read_text = Path.read_bytes, Path.read_text

    def denied(path: Path) -> None:
        if name in {path.name, path.parent.name}:
            raise PermissionError(13, "Permission denied", str(path))

    def bytes_of(path: Path) -> bytes:
        denied(path)
        return read(path)

    def text_of(path: Path, *more: Any, **others: Any) -> str:
        denied(path)
        return read_text(path, *more, **others)

    monkeypatch.setattr(Path, "read_bytes", bytes_of)
    monkeypatch.setattr(Path, "read_text", text_of)
    code, output = call("ledger", "verify", run.path)
    assert code == 2 and output.count("\n") == 1 and "cannot be read (Permission denied)" in output, output


def test_a_run_that_has_just_begun_has_nothing_to_compare_with(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    run.unlock()
    with Ledger(run.ledger, b"x" * 16) as ledger:
        ledger.append("0a" * 8, 0, 1, "raised")
    assert check_ledger(run).compared == ()
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        check_ledger(run, "\x1b[31m")
    assert RequestStore(run.vault(0)).all() == ()
