"""What people type: a request filed, withdrawn and looked up by hand; the ledger shown and verified."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call_wide as call
from flwr.app import Context, Message
from small_run import run_small, small_config
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.config import load
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.ledger import Ledger, LedgerReader
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

ROOT = Path(__file__).resolve().parents[2]
NO_SCHEDULE = load(None, {"deletions.schedule": [], "partition.clients": 20})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three devices: ann has 3 utterances on the first and 2 on the second, bob has 2 on the last two."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.unlock()
    held = {0: ["ann"] * 3, 1: ["ann"] * 2 + ["bob"] * 2, 2: ["bob"] * 2}
    for client, speakers in held.items():
        entries = [
            VaultEntry(f"c{client}/{i}", ("angry", "calm")[i % 2], i % 2, "train", 1, speaker)
            for i, speaker in enumerate(speakers)
        ]
        entries.append(VaultEntry(f"c{client}/t", "sad", 0, "test", 1, speakers[0]))
        Vault.build(folder.vault(client), [(e, np.zeros(1, np.int16)) for e in entries], 3)
    return folder


def listen(run: RunFolder, client: int, rounds_done: int = 3) -> None:
    raise_due(NO_SCHEDULE, Vault(run.vault(client)), client, rounds_done)


def filed(run: RunFolder) -> dict[int, list[FiledRequest]]:
    waiting = {c: Inbox(run.vault(c)).waiting() for c in range(3)}
    return {c: [w.request for w in found if w.request] for c, found in waiting.items() if found}


# ---- delete ----------------------------------------------------------------------------------------------


def test_a_request_is_filed_and_the_command_says_what_happens_next(run: RunFolder) -> None:
    more = ("--deadline", "4", "--reason", "it is [mine]")
    code, output = call("delete", "--run", run.path, "--client", "1", "--emotion", "calm", *more)
    assert code == 0, output
    ((request,),) = filed(run).values()
    first, second = output.splitlines()
    assert first == f"Request {request.id}: client 1 deletes 2 utterances."
    assert second == (
        "The device finds it at the next query; if no run is going on: "
        f"python simulations/run.py --resume --out {run.path}"
    )
    assert (request.what, request.emotion, request.deadline, request.reason) == (
        "emotion",
        "calm",
        4,
        "it is [mine]",
    )
    assert not (run.vault(1) / "requests.json").exists()
    listen(run, 1)
    assert RequestStore(run.vault(1)).all()[0].utterances == ("c1/1", "c1/3")


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (["--utterances", "c0/1", "c0/0"], 2),
        (["--utterances", "c0/1", "--utterances", "c0/0", "--utterances", "c0/1"], 2),
        (["--all"], 3),
    ],
)
def test_every_way_of_choosing(run: RunFolder, choice: list[str], count: int) -> None:
    code, output = call("delete", "--run", run.path, "--client", "0", *choice)
    assert code == 0 and f"client 0 deletes {count} utterances." in output
    listen(run, 0)
    (request,) = RequestStore(run.vault(0)).all()
    assert request.utterances == ("c0/0", "c0/1", "c0/2")[:count]


@pytest.mark.parametrize(
    ("choice", "lines"),
    [
        (["--utterances", "c0/t"], ["client 0 deletes 1 held-out utterance."]),
        (["--emotion", "sad"], ["client 0 deletes 1 held-out utterance."]),
        (
            ["--all"],
            [
                "client 0 deletes 3 utterances.",
                "Of the same speech 1 held-out utterance will be removed, too.",
            ],
        ),
    ],
)
def test_the_command_says_that_held_out_speech_is_deleted(
    run: RunFolder, choice: list[str], lines: list[str]
) -> None:
    code, output = call("delete", "--run", run.path, "--client", "0", *choice)
    assert code == 0 and [line.split(": ")[-1] for line in output.splitlines()[: len(lines)]] == lines
    listen(run, 0)
    assert RequestStore(run.vault(0)).all()[0].held_out == ("c0/t",)


def test_one_speaker_on_several_devices_is_one_request(run: RunFolder) -> None:
    code, output = call("delete", "--run", run.path, "--client", "1", "--speaker", "ann")
    assert code == 0
    (here,), (there,) = filed(run)[1], filed(run)[0]
    assert here == there and here.devices == 2 and 2 not in filed(run)
    assert output.startswith(
        f"Request {here.id}: client 1 deletes 2 utterances; the same request goes to 1 more of the "
        "speaker's devices: 3 utterances of client 0."
    )
    code, output = call("withdraw", "--run", run.path, "--client", "0", "--request", here.id)
    assert code == 0 and "at clients 0, 1" in output
    for client in (0, 1):
        listen(run, client)
        assert [r.state for r in RequestStore(run.vault(client)).all()] == [RequestState.WITHDRAWN]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--client", "0"], ["give exactly one of --utterances, --speaker, --emotion and --all"]),
        (["--client", "0", "--all", "--emotion", "sad"], ["give exactly one of"]),
        (["--client", "0", "c0/1"], ["give exactly one of"]),
        (["--client", "0", "--all", "c0/1"], ["c0/1: ids of utterances follow --utterances"]),
        (["--client", "3", "--all"], ["--client 3: the clients of", "are 0 to 2"]),
        (["--client", "-1", "--all"], ["--client -1: the clients of"]),
        (["--client", "0", "--all", "--deadline", "0"], ["--deadline 0: give at least 1 round"]),
        (
            ["--client", "0", "--utterances", "c0/1", "c1/1"],
            ["client 0: this device holds no utterance c1/1"],
        ),
        (["--client", "0", "--emotion", "happy"], ["trains on no utterance of emotion 'happy'"]),
        (["--client", "0", "--speaker", "bob"], ["trains on no utterance of speaker 'bob'"]),
    ],
)
def test_a_request_that_cannot_be_served_is_one_line_and_nothing_is_filed(
    run: RunFolder, arguments: list[str], lines: list[str]
) -> None:
    code, output = call("delete", "--run", run.path, *arguments)
    assert code == 2 and len(output.strip().splitlines()) == 1, output
    assert output.startswith("error: ") and all(line in output for line in lines), output
    assert filed(run) == {} and not list(run.vaults.rglob("inbox"))


def test_mistakes_are_reported_together(run: RunFolder) -> None:
    code, output = call("delete", "--run", run.path, "--client", "9", "--deadline", "0")
    assert code == 2 and len(output.strip().splitlines()) == 3


@pytest.mark.parametrize(
    "command", ["delete --client 0 --all", "withdraw --client 0 --request x", "requests"]
)
def test_a_folder_that_is_no_run(tmp_path: Path, command: str) -> None:
    name, *arguments = command.split()
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, output = call(name, "--run", folder, *arguments)
        assert code == 2 and output.strip() == (
            f"error: --run {folder}: is no run folder (no vaults in it); give the --out of a run"
        )


def test_what_was_requested_already_is_not_filed_again(run: RunFolder) -> None:
    call("delete", "--run", run.path, "--client", "0", "--all")
    listen(run, 0)
    code, output = call("delete", "--run", run.path, "--client", "0", "--utterances", "c0/1")
    assert code == 2 and output.strip() == "error: client 0: already requested; nothing was filed"


def test_what_was_filed_but_not_read_yet_counts_too(run: RunFolder) -> None:
    call("delete", "--run", run.path, "--client", "0", "--utterances", "c0/1")
    code, output = call("delete", "--run", run.path, "--client", "0", "--utterances", "c0/1")
    assert code == 2 and output.strip() == "error: client 0: already requested; nothing was filed"
    code, output = call("delete", "--run", run.path, "--client", "0", "--all")
    assert code == 0 and "client 0 deletes 2 utterances." in output
    listen(run, 0)
    assert [r.count for r in RequestStore(run.vault(0)).all()] == [1, 2]


def test_ids_that_cannot_be_seen_are_reported_in_one_line(run: RunFolder) -> None:
    odd = ["a\nb", "", "[bold]x", *(f"n{i}" for i in range(20))]
    code, output = call("delete", "--run", run.path, "--client", "0", "--utterances", *odd)
    assert code == 2 and len(output.strip().splitlines()) == 1
    assert "no utterance '', [bold]x, 'a\\nb', n0, " in output and "and 13 more; nothing was filed" in output


def test_a_store_that_was_cut_is_one_line(run: RunFolder) -> None:
    store = run.vault(1) / "requests.json"
    for content in ("[{", '[{"id": "x"}]', "7"):
        store.write_text(content)
        for command in (("requests",), ("delete", "--client", "1", "--all")):
            code, output = call(command[0], "--run", run.path, *command[1:])
            assert code == 2 and output.strip() == (
                f"error: {store}: is not a request store; it was cut or changed"
            )


def test_strangers_in_the_folder_of_vaults_are_no_clients(run: RunFolder) -> None:
    (run.vaults / "client-0003 copy").mkdir()
    (run.vaults / "client-12abc").mkdir()
    code, output = call("delete", "--run", run.path, "--client", "9", "--all")
    assert code == 2 and "are 0 to 2" in output


# ---- withdraw and requests -------------------------------------------------------------------------------


def test_what_is_too_late_or_unknown_cannot_be_withdrawn(run: RunFolder) -> None:
    call("delete", "--run", run.path, "--client", "0", "--all")
    listen(run, 0)
    (request,) = RequestStore(run.vault(0)).all()
    for client, name in ((0, "0" * 16), (1, request.id)):
        code, output = call("withdraw", "--run", run.path, "--client", str(client), "--request", name)
        assert code == 2 and f"client {client} has none of that id" in output
    RequestStore(run.vault(0)).set_state([request.id], RequestState.UNLEARNED)
    code, output = call("withdraw", "--run", run.path, "--client", "0", "--request", request.id)
    assert code == 2 and output.strip().endswith("cannot be withdrawn, it is unlearned")
    assert not list(run.vaults.rglob("*.withdraw.json"))


def test_the_table_of_requests_shows_stores_and_inboxes(run: RunFolder) -> None:
    code, output = call("requests", "--run", run.path)
    assert code == 0 and output.strip() == f"No requests in {run.path}."
    call("delete", "--run", run.path, "--client", "0", "--utterances", "c0/1", "--deadline", "2")
    listen(run, 0, 5)
    (first,) = RequestStore(run.vault(0)).all()
    call("withdraw", "--run", run.path, "--client", "0", "--request", first.id)
    call("delete", "--run", run.path, "--client", "2", "--all")
    code, output = call("requests", "--run", run.path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    assert code == 0 and len(rows) == 2
    assert rows[0][:7] == [first.id, "0", "named", "1", "5", "7", "raised, to be withdrawn"]
    assert rows[1][1:3] == ["2", "all"] and rows[1][6] == "filed"
    _, output = call("requests", "--run", run.path, "--client", "2")
    assert first.id not in output and "filed" in output


@pytest.mark.parametrize("columns", [None, "20", "80"])
def test_ids_and_states_are_whole_at_any_width(
    run: RunFolder, columns: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe all is whole; on a terminal the ids are, however narrow it is."""
    for _ in ("c0/0", "c0/1"):
        call("delete", "--run", run.path, "--client", "0", "--utterances", _)
        listen(run, 0)
    ids = [r.id for r in RequestStore(run.vault(0)).all()]
    monkeypatch.delenv("COLUMNS", raising=False)
    output = CliRunner().invoke(app, ["requests", "--run", str(run.path)], env={"COLUMNS": columns}).output
    assert all(i in output for i in ids) and output.count("raised") >= 3
    terminal = {"COLUMNS": columns or "60", "FORCE_COLOR": "1", "TERM": "dumb"}
    output = CliRunner().invoke(app, ["requests", "--run", str(run.path)], env=terminal).output
    assert all(i in output for i in ids), output


def test_a_request_may_be_named_by_how_it_begins(run: RunFolder) -> None:
    for name in ("abcd" + "0" * 12, "abcd" + "1" * 12):
        Inbox(run.vault(0)).file(FiledRequest(name, "named", f"person-{name}", utterances=("c0/0",)))
    code, output = call("withdraw", "--run", run.path, "--client", "0", "--request", "abcd")
    assert code == 2 and "client 0 has 2 that begin so: abcd0" in output
    code, output = call("withdraw", "--run", run.path, "--client", "0", "--request", "abc")
    assert code == 2 and "has none of that id" in output
    code, output = call("withdraw", "--run", run.path, "--client", "0", "--request", "abcd1")
    assert code == 0 and f"Request abcd{'1' * 12}: to be withdrawn at client 0." in output


def test_states_are_those_of_results_and_ledger(tmp_path: Path) -> None:
    """The device's own store ends with "purged": the server verifies, the receipt and the ledger have it."""
    results = run_small(tmp_path / "run", small_config())
    expected = sorted((r["id"], str(r["client"]), r["state"]) for r in results["requests"])
    assert {state for _, _, state in expected} == {"verified"}
    code, output = call("requests", "--run", tmp_path / "run")
    shown = [(row[0], row[1], row[6]) for row in rows_of(output)]
    assert code == 0 and sorted(shown) == expected
    RunFolder(tmp_path / "run").ledger.unlink()  # then the receipts say so
    _, output = call("requests", "--run", tmp_path / "run")
    assert sorted((row[0], row[1], row[6]) for row in rows_of(output)) == expected


def test_what_the_server_has_accepted_is_shown_so(run: RunFolder) -> None:
    call("delete", "--run", run.path, "--client", "0", "--all")
    listen(run, 0)
    (request,) = RequestStore(run.vault(0)).all()
    with Ledger(run.ledger, b"salt" * 4) as ledger:
        for state in ("raised", "accepted", "deadline passed"):
            ledger.append(request.id, 0, 4, state)
    _, output = call("requests", "--run", run.path)
    assert rows_of(output)[0][6] == "accepted"
    run.ledger.write_bytes(b"nothing of a ledger")
    code, output = call("requests", "--run", run.path)
    assert code == 0 and rows_of(output)[0][6] == "raised"


def test_asking_is_quick(run: RunFolder) -> None:
    """Nothing that learns, and no machinery of a federation, is loaded to file a request."""
    script = (
        "import sys; from fedunlearn.cli import app\n"
        f"try: app(['delete', '--run', {str(run.path)!r}, '--client', '0', '--all'])\n"
        "except SystemExit as done: assert not done.code\n"
        "print(sorted({'torch', 'flwr', 'ray', 'scipy', 'sklearn', 'soundfile'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "[]"


# ---- the ledger ------------------------------------------------------------------------------------------

STATES = ("raised", "accepted", "unlearned", "applied")


@pytest.fixture
def kept(run: RunFolder) -> RunFolder:
    """A run with a request of client 2 in store and ledger, and the head in results and a manifest."""
    Inbox(run.vault(2)).file(FiledRequest("00ff" * 4, "all", "person"))
    listen(run, 2)
    with Ledger(run.ledger, b"salt" * 4) as ledger:
        for step, state in enumerate(STATES):
            ledger.append("00ff" * 4, 2, 30 + step, state)
            note = {"ledger_head": ledger.head()}
            (run.checkpoints / f"{step}.safetensors.json").write_text(json.dumps(note))
        run.write_results({"ledger": {"head": ledger.head()}, "requests": []})
    return run


def tamper(run: RunFolder, *statements: str) -> None:
    with closing(sqlite3.connect(run.ledger, isolation_level=None)) as other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            other.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            other.execute(statement)


def rows_of(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]


def test_the_ledger_is_shown_with_names_only_where_the_salt_is(kept: RunFolder, tmp_path: Path) -> None:
    code, output = call("ledger", "show", kept.path)
    assert code == 0 and [row[:5] for row in rows_of(output)] == [
        [str(i + 1), str(30 + i), "2", "00ff" * 4, state] for i, state in enumerate(STATES)
    ]
    (kept.path / "ledger.salt").unlink()
    code, output = call("ledger", "show", kept.path)
    with LedgerReader(kept.ledger) as ledger:
        (first, *_) = ledger.entries()
    assert code == 0 and rows_of(output)[0][2:4] == [first.subject[:12], first.request[:12]]
    assert "00ff" * 4 not in output


def test_a_whole_ledger_is_proved(kept: RunFolder) -> None:
    code, output = call("ledger", "verify", kept.path)
    assert code == 0 and len(output.strip().splitlines()) == 1
    assert "4 rows, whole; agrees with 5 noted heads" in output
    with LedgerReader(kept.ledger) as ledger:
        head, old = ledger.head(), ledger.entries()[1].hash
    for noted in (head, old):
        assert call("ledger", "verify", kept.path, "--head", noted)[0] == 0
    code, output = call("ledger", "verify", kept.path, "--head", "f" * 64)
    assert code == 3 and "(head noted in --head)" in output


@pytest.mark.parametrize(
    ("statements", "line"),
    [
        (["UPDATE entries SET round = 9 WHERE position = 2"], "row 2 (accepted in round 9) was changed"),
        (["DELETE FROM entries WHERE position = 2"], "row 2 is missing (row 3 stands in its place)"),
        (
            [
                "UPDATE entries SET position = -1 WHERE position = 2",
                "UPDATE entries SET position = 2 WHERE position = 3",
                "UPDATE entries SET position = 3 WHERE position = -1",
            ],
            "row 2 does not follow the row before it",
        ),
        (
            ["DELETE FROM entries WHERE position = 4"],
            "the last row that was noted elsewhere is missing (row 3 is the last here) "
            "(head noted in results.json)",
        ),
    ],
)
def test_a_row_that_was_touched_is_named(kept: RunFolder, statements: list[str], line: str) -> None:
    tamper(kept, *statements)
    code, output = call("ledger", "verify", kept.path)
    assert code == 3 and output.strip() == f"failed: {kept.ledger}: {line}"


def test_whoever_may_not_read_the_salt_can_still_verify(
    kept: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.suffix == ".salt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert call("ledger", "verify", kept.path)[0] == 0
    code, output = call("ledger", "show", kept.path)
    assert code == 0 and "00ff" not in output


def test_a_folder_of_another_user_is_reported(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr(Inbox, "file", denied)
    code, output = call("delete", "--run", run.path, "--client", "0", "--all")
    assert code == 3 and output.strip().endswith("(is it yours to read and write?)")


def test_a_head_that_is_none(kept: RunFolder) -> None:
    code, output = call("ledger", "verify", kept.path, "--head", "abc")
    assert code == 2 and output.strip() == "error: --head abc: a head has 64 hexadecimal digits"


def test_a_cut_end_is_found_by_a_checkpoint_alone(kept: RunFolder) -> None:
    kept.results.unlink()
    (kept.checkpoints / "standing").mkdir()
    shutil.move(kept.checkpoints / "3.safetensors.json", kept.checkpoints / "standing")
    tamper(kept, "DELETE FROM entries WHERE position = 4")
    code, output = call("ledger", "verify", kept.path)
    assert code == 3 and "(head noted in checkpoints/standing/3.safetensors.json)" in output


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_ledger_that_is_not_there_or_none(tmp_path: Path, kept: RunFolder, command: str) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        code, output = call("ledger", command, folder)
        assert code == 2 and output.strip() == (
            f"error: {folder}: is no run folder (there is no ledger.sqlite in it)"
        )
    kept.ledger.write_bytes(b"scribble" * 600)
    code, output = call("ledger", command, kept.path)
    assert code == 3 and "cannot be read as a ledger" in output and len(output.strip().splitlines()) == 1


# ---- a whole run -----------------------------------------------------------------------------------------


def test_requests_filed_during_a_run_are_served(tmp_path: Path) -> None:
    """In round 2 of 3, one client requests deletion, one requests and withdraws; the ledger is verified all
    the while."""
    out = tmp_path / "run"
    done, output = threading.Event(), []

    def people(message: Message, context: Context, call_next: Any) -> Message:
        settings = message.content.config_records.get("settings", {})
        if settings.get("round") == 2 and not done.is_set():
            done.set()
            for client in (4, 5):
                options = ("--emotion", "happy", "--reason", "private words")
                output.append(call("delete", "--run", out, "--client", str(client), *options))
            (request,) = Inbox(RunFolder(out).vault(5)).waiting()
            output.append(call("withdraw", "--run", out, "--client", "5", "--request", request.id))
            output.append(call("ledger", "verify", out))
            output.append(call("ledger", "show", out))
        return call_next(message, context)

    results = run_small(out, small_config(deletions__schedule=[]), [people])
    assert [code for code, _ in output] == [0] * 5, output
    assert results["status"] == "complete"
    states = {r["client"]: r["state"] for r in results["requests"]}
    assert states == {4: "verified", 5: "withdrawn"}
    code, line = call("ledger", "verify", out)
    assert code == 0 and "whole; agrees with" in line
    (withdrawn,) = RequestStore(RunFolder(out).vault(5)).all()
    with LedgerReader(RunFolder(out).ledger) as ledger:
        assert ledger.states(withdrawn.id, 5) == ("raised", "withdrawn")
    assert "private words" not in json.dumps(results)
