"""The ledger: whatever is changed in it later is found and named."""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.ledger import GENESIS, DamagedLedger, Ledger, LedgerReader

ROOT = Path(__file__).parent.parent
SALT = bytes(range(16))

STATES = ("raised", "accepted", "unlearned", "applied", "purged", "verified")
ROWS = 12
"""rows of a filled ledger: two requests through six states"""


def filled(path: Path) -> Ledger:
    ledger = Ledger(path, SALT)
    for step, state in enumerate(STATES):
        for client, request in enumerate(("0a0a", "f1f1")):
            assert ledger.append(request, client, 30 + step, state)
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with filled(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that nobody has touched; tests that tamper take a copy."""
    path = tmp_path_factory.mktemp("honest") / "ledger.sqlite"
    filled(path).close()
    return path


def tampered(honest: Path, *statements: tuple[Any, ...]) -> Path:
    """A copy of the ledger on which somebody who has the file ran these, past its own guards."""
    path = honest.with_name("tampered.sqlite")
    shutil.copy(honest, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA synchronous=OFF")
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            other.execute(f"DROP TRIGGER {name}")
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN")
        for statement, *values in statements:
            other.execute(statement, values)
        other.execute("COMMIT")
    return path


def found_in(path: Path, head: str | None = None) -> str | None:
    with LedgerReader(path) as reader:
        return reader.verify(head)


def test_a_ledger_keeps_what_was_appended_in_order(ledger: Ledger) -> None:
    rows = ledger.entries()
    assert [(e.position, e.round, e.state) for e in rows[:3]] == [
        (1, 30, "raised"),
        (2, 30, "raised"),
        (3, 31, "accepted"),
    ]
    assert len(rows) == ROWS and ledger.verify() is None and ledger.head() == rows[-1].hash
    assert ledger.states("0a0a", 0) == ledger.states("f1f1", 1) == STATES
    assert ledger.states("0a0a", 1) == ledger.states("beef", 0) == ()


def test_an_empty_ledger_is_whole(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", SALT) as empty:
        assert empty.entries() == () and empty.verify() is None and empty.verify(empty.head()) is None
        assert empty.head() == GENESIS


def test_a_state_that_was_reached_is_not_recorded_twice(ledger: Ledger) -> None:
    before = ledger.entries()
    assert not ledger.append("0a0a", 0, 99, "applied")
    assert ledger.entries() == before
    assert ledger.append("0a0a", 0, 99, "refused")
    assert len(ledger.entries()) == ROWS + 1 and ledger.verify() is None


def test_the_parts_of_one_request_on_two_devices_are_followed_each_by_itself(ledger: Ledger) -> None:
    assert ledger.append("0a0a", 1, 40, "raised")
    assert ledger.states("0a0a", 1) == ("raised",) and ledger.states("0a0a", 0) == STATES


def test_every_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    with filled(tmp_path / "ledger.sqlite"), closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as other:
        assert other.execute("SELECT COUNT(*) FROM entries").fetchone() == (ROWS,)


def test_a_ledger_survives_reopening_and_goes_on(tmp_path: Path) -> None:
    first = filled(tmp_path / "ledger.sqlite")
    entries = first.entries()
    first.close()
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.entries() == entries
        again.append("0a0a", 0, 30, "raised")
        again.append("beef", 2, 50, "raised")
        assert len(again.entries()) == ROWS + 1 and again.verify() is None


# ---- nobody is named -------------------------------------------------------------------------------------


def test_the_database_alone_names_nobody(honest: Path) -> None:
    held = honest.read_bytes()
    assert b"0a0a" not in held and b"f1f1" not in held
    with LedgerReader(honest) as reader:
        assert len({e.subject for e in reader.entries()}) == 2
        assert all(len(e.subject) == len(e.request) == 64 for e in reader.entries())
        assert reader.entries()[0].request == reader.hashed("0a0a", 0) != reader.hashed("0a0a", 1)
        assert reader.entries()[0].subject == reader.subject(0)


def test_without_the_salt_nobody_can_be_linked_but_the_chain_verifies(honest: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.sqlite"
    shutil.copy(honest, alone)
    with LedgerReader(alone) as reader:
        assert reader.verify() is None
        with pytest.raises(ValueError, match=r"alone\.salt is missing"):
            reader.subject(0)
        with pytest.raises(ValueError, match=r"alone\.salt is missing"):
            reader.states("0a0a", 0)


def test_the_salt_is_the_owners_alone_and_does_not_change(honest: Path, tmp_path: Path) -> None:
    file = honest.with_name("ledger.salt")
    assert file.read_bytes() == SALT and stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="another salt"):
        Ledger(honest, b"another")
    with pytest.raises(ValueError, match="no salt is given"):
        Ledger(tmp_path / "new.sqlite")


def test_another_salt_gives_other_hashes_and_the_same_one_the_same_head(tmp_path: Path, honest: Path) -> None:
    with filled(tmp_path / "same.sqlite") as same, LedgerReader(honest) as reader:
        assert same.head() == reader.head()
    with Ledger(tmp_path / "other.sqlite", b"x" * 16) as other:
        other.append("0a0a", 0, 30, "raised")
        assert other.entries()[0].request != reader_hash(honest)


def reader_hash(path: Path) -> str:
    with LedgerReader(path) as reader:
        return reader.hashed("0a0a", 0)


# ---- whatever is changed is found ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET round = 1",
        "DELETE FROM entries WHERE position = 12",
        "INSERT INTO entries VALUES (99, 'a', 'b', 1, 'raised', 'c', 'd', '')",
        "INSERT OR REPLACE INTO entries VALUES (3, 'a', 'b', 1, 'raised', 'c', 'd', '')",
    ],
)
def test_the_database_itself_refuses_to_change_a_row(tmp_path: Path, statement: str) -> None:
    with filled(tmp_path / "ledger.sqlite") as ledger:
        before = ledger.entries()
        with (
            closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as other,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            other.execute(statement)
        assert ledger.entries() == before


FIELDS = {
    "subject": "77",
    "request": "beef",
    "round": -5,
    "state": "refused",
    "previous": "1" * 64,
    "hash": "2" * 64,
}


@given(position=st.integers(1, ROWS), field=st.sampled_from(sorted(FIELDS)))
def test_any_change_of_any_row_is_found_and_the_row_named(honest: Path, position: int, field: str) -> None:
    change = (f"UPDATE entries SET {field} = ? WHERE position = ?", FIELDS[field], position)
    found = found_in(tampered(honest, change))
    assert found is not None and found.startswith(f"row {position} ")


@given(position=st.integers(1, ROWS - 1))
def test_a_dropped_row_is_found(honest: Path, position: int) -> None:
    path = tampered(honest, ("DELETE FROM entries WHERE position = ?", position))
    assert found_in(path) == f"row {position} is missing (row {position + 1} stands in its place)"


@given(position=st.integers(1, ROWS - 1))
def test_a_dropped_row_is_found_also_when_the_gap_was_closed(honest: Path, position: int) -> None:
    moved = [
        ("UPDATE entries SET position = ? WHERE position = ?", later - 1, later)
        for later in range(position + 1, ROWS + 1)
    ]
    path = tampered(honest, ("DELETE FROM entries WHERE position = ?", position), *moved)
    assert found_in(path) == f"row {position} does not follow the row before it"


@given(pair=st.lists(st.integers(1, ROWS), min_size=2, max_size=2, unique=True))
def test_rows_that_changed_places_are_found(honest: Path, pair: list[int]) -> None:
    a, b = sorted(pair)
    moves = ((a, -1), (b, a), (-1, b))
    path = tampered(
        honest, *(("UPDATE entries SET position = ? WHERE position = ?", new, old) for old, new in moves)
    )
    found = found_in(path)
    assert found is not None and found.startswith(f"row {a} ")


@given(position=st.integers(1, ROWS))
def test_an_inserted_row_is_found(honest: Path, position: int) -> None:
    """A copy of a row under another state, put behind it, with all later rows moved on by one."""
    moved = [
        ("UPDATE entries SET position = ? WHERE position = ?", later + 1, later)
        for later in range(ROWS, position, -1)
    ]
    copied = (
        "INSERT INTO entries SELECT ?, subject, request, round, 'refused', previous, hash, content "
        "FROM entries WHERE position = ?",
        position + 1,
        position,
    )
    found = found_in(tampered(honest, *moved, copied))
    assert found is not None and found.startswith(f"row {position + 1} ")


def test_rows_in_front_of_the_first_are_found(honest: Path) -> None:
    row = ("INSERT INTO entries VALUES (0, 's', 'beef', 1, 'raised', ?, ?, '')", "0" * 64, "0" * 64)
    found = found_in(tampered(honest, row))
    assert found is not None and "row 0" in found


@given(keep=st.integers(0, ROWS - 1))
def test_a_cut_end_is_found_by_the_head_noted_elsewhere_and_only_by_it(honest: Path, keep: int) -> None:
    with LedgerReader(honest) as reader:
        head = reader.head()
    path = tampered(honest, ("DELETE FROM entries WHERE position > ?", keep))
    assert found_in(path) is None
    found = found_in(path, head)
    assert found is not None and f"row {keep} is the last here" in found


def test_a_ledger_made_anew_is_found_by_the_head_noted_elsewhere(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger(tmp_path / "forged.sqlite", SALT) as forged:
        for state in STATES:
            forged.append("0a0a", 0, 31, state)
        assert forged.verify() is None
        assert forged.verify(ledger.head()) is not None


def test_a_ledger_that_went_on_still_proves_an_older_head(ledger: Ledger) -> None:
    head = ledger.head()
    ledger.append("beef", 2, 50, "raised")
    assert ledger.verify(head) is None and ledger.head() != head


# ---- looking without touching ----------------------------------------------------------------------------


def files_in(folder: Path) -> dict[str, bytes]:
    """All but the lock table of a ledger in use, which every reader takes its place in."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith("-shm")}


@pytest.mark.parametrize("held", ["closed", "open", "copied with its log"])
def test_looking_makes_and_changes_no_file_and_sees_every_row(tmp_path: Path, held: str) -> None:
    ledger = filled(tmp_path / "ledger.sqlite")
    folder = tmp_path
    if held == "closed":
        ledger.close()
    if held == "copied with its log":
        folder = tmp_path / "copy"
        folder.mkdir()
        for file in tmp_path.glob("ledger.s*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
    before, names = files_in(folder), sorted(p.name for p in folder.iterdir())
    with LedgerReader(folder / "ledger.sqlite") as reader:
        assert len(reader.entries()) == ROWS and reader.verify() is None
    assert files_in(folder) == before and sorted(p.name for p in folder.iterdir()) == names
    ledger.close()


def test_a_reader_sees_what_is_appended_while_it_looks(ledger: Ledger, tmp_path: Path) -> None:
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert reader.head() == ledger.head()
        ledger.append("beef", 2, 50, "raised")
        assert reader.head() == ledger.head() and reader.verify(ledger.head()) is None


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no ledger"):
        LedgerReader(tmp_path / "ledger.sqlite")
    for content in (b"hello" * 999, b""):
        (tmp_path / "ledger.sqlite").write_bytes(content)
        with (
            LedgerReader(tmp_path / "ledger.sqlite") as reader,
            pytest.raises(DamagedLedger, match="cannot be"),
        ):
            reader.verify()


WRITER = """
import sys
from pathlib import Path
from fedunlearn.ledger import Ledger
with Ledger(Path(sys.argv[1])) as ledger:
    for n in range(60):
        ledger.append(f"{sys.argv[2]}-{n}", n, n, "raised")
        ledger.append("both of us", 0, n, f"state {n}")
"""


def test_two_processes_write_one_chain_while_a_third_proves_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path, SALT).close()
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], env={"PYTHONPATH": str(ROOT)}) for name in "ab"]
    seen, head = set(), GENESIS
    while any(writer.poll() is None for writer in writers):
        with LedgerReader(path) as reader:
            assert reader.verify(head) is None
            head = reader.head()
            seen.add(len(reader.entries()))
    assert [writer.wait() for writer in writers] == [0, 0]
    with LedgerReader(path) as reader:
        assert reader.verify(head) is None and len(reader.entries()) == 180
        assert reader.states("both of us", 0) == tuple(f"state {n}" for n in range(60))
    assert len(seen) > 2, "nobody looked while they wrote: nothing was tested"


# ---- killed at any moment --------------------------------------------------------------------------------


def test_no_promised_row_is_lost_however_often_the_writer_is_killed(tmp_path: Path) -> None:
    """40 times: a writer appends and says so on a pipe; SIGKILL at a moment of its own each time."""
    script = ROOT / "tests" / "killed_writer.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "ledger.sqlite"), "40"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    # It did get somewhere, and was killed at work: also between the row and the promise.
    assert outcome["killed"] == 40 and outcome["promised"] >= 10 and outcome["rows"] >= outcome["promised"]
