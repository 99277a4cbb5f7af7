"""The ledger: whatever is changed in it later is found and named."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.ledger import Ledger

STATES = ("raised", "accepted", "unlearned", "applied", "purged", "verified")
ROWS = 12
"""rows of a filled ledger: two requests through six states"""


def filled(path: Path = Path(":memory:")) -> Ledger:
    ledger = Ledger(path)
    for step, state in enumerate(STATES):
        for client, request in enumerate(("0a0a", "f1f1")):
            ledger.append(request, client, 30 + step, state)
    return ledger


def tamper(ledger: Ledger, statement: str, *values: Any) -> None:
    ledger._connection.execute(statement, values)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = filled()
    yield ledger
    ledger.close()


def test_a_ledger_keeps_what_was_appended_in_order(ledger: Ledger) -> None:
    rows = [(e.position, e.request, e.client, e.round, e.state) for e in ledger.entries()]
    assert rows[:3] == [
        (1, "0a0a", 0, 30, "raised"),
        (2, "f1f1", 1, 30, "raised"),
        (3, "0a0a", 0, 31, "accepted"),
    ]
    assert len(rows) == ROWS
    assert ledger.verify() is None


def test_an_empty_ledger_is_whole() -> None:
    empty = Ledger(Path(":memory:"))
    assert empty.entries() == () and empty.verify() is None and empty.verify(empty.head()) is None


def test_a_state_that_was_reached_is_not_recorded_twice(ledger: Ledger) -> None:
    before = ledger.entries()
    ledger.append("0a0a", 0, 99, "applied")
    assert ledger.entries() == before
    ledger.append("0a0a", 0, 99, "refused")
    assert len(ledger.entries()) == ROWS + 1 and ledger.verify() is None


def test_every_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite")
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert other.execute("SELECT COUNT(*) FROM entries").fetchone() == (ROWS,)
    other.close()
    ledger.close()


def test_a_ledger_survives_reopening_and_goes_on(tmp_path: Path) -> None:
    first = filled(tmp_path / "ledger.sqlite")
    entries = first.entries()
    first.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.entries() == entries
    again.append("0a0a", 0, 30, "raised")
    again.append("beef", 2, 50, "raised")
    assert len(again.entries()) == ROWS + 1 and again.verify() is None
    again.close()


FIELDS = {
    "request": "beef",
    "client": 77,
    "round": -5,
    "state": "refused",
    "previous": "1" * 64,
    "hash": "2" * 64,
}


@given(position=st.integers(1, ROWS), field=st.sampled_from(sorted(FIELDS)))
def test_any_change_of_any_row_is_found_and_the_row_named(position: int, field: str) -> None:
    ledger = filled()
    tamper(ledger, f"UPDATE entries SET {field} = ? WHERE position = ?", FIELDS[field], position)
    found = ledger.verify()
    assert found is not None and found.startswith(f"row {position} ")
    ledger.close()


@given(position=st.integers(1, ROWS - 1))
def test_a_dropped_row_is_found(position: int) -> None:
    ledger = filled()
    tamper(ledger, "DELETE FROM entries WHERE position = ?", position)
    assert ledger.verify() == f"row {position} is missing (row {position + 1} stands in its place)"
    ledger.close()


@given(position=st.integers(1, ROWS - 1))
def test_a_dropped_row_is_found_also_when_the_gap_was_closed(position: int) -> None:
    ledger = filled()
    tamper(ledger, "DELETE FROM entries WHERE position = ?", position)
    for later in range(position + 1, ROWS + 1):
        tamper(ledger, "UPDATE entries SET position = ? WHERE position = ?", later - 1, later)
    assert ledger.verify() == f"row {position} does not follow the row before it"
    ledger.close()


@given(pair=st.lists(st.integers(1, ROWS), min_size=2, max_size=2, unique=True))
def test_rows_that_changed_places_are_found(pair: list[int]) -> None:
    ledger = filled()
    a, b = sorted(pair)
    for old, new in ((a, -1), (b, a), (-1, b)):
        tamper(ledger, "UPDATE entries SET position = ? WHERE position = ?", new, old)
    found = ledger.verify()
    assert found is not None and found.startswith(f"row {a} ")
    ledger.close()


@given(position=st.integers(1, ROWS))
def test_an_inserted_row_is_found(position: int) -> None:
    """A copy of a row, put behind it, with all later rows moved on by one."""
    ledger = filled()
    for later in range(ROWS, position, -1):
        tamper(ledger, "UPDATE entries SET position = ? WHERE position = ?", later + 1, later)
    tamper(
        ledger,
        "INSERT INTO entries SELECT ?, request, client, round, state, previous, hash FROM entries "
        "WHERE position = ?",
        position + 1,
        position,
    )
    found = ledger.verify()
    assert found is not None and found.startswith(f"row {position + 1} ")
    ledger.close()


def test_rows_in_front_of_the_first_are_found(ledger: Ledger) -> None:
    tamper(ledger, "INSERT INTO entries VALUES (0, 'beef', 1, 1, 'raised', ?, ?)", "0" * 64, "0" * 64)
    found = ledger.verify()
    assert found is not None and "row 0" in found


@given(keep=st.integers(0, ROWS - 1))
def test_a_cut_end_is_found_by_the_head_noted_elsewhere_and_only_by_it(keep: int) -> None:
    ledger = filled()
    head = ledger.head()
    tamper(ledger, "DELETE FROM entries WHERE position > ?", keep)
    assert ledger.verify() is None
    found = ledger.verify(head)
    assert found is not None and f"row {keep} is the last here" in found
    ledger.close()


def test_a_ledger_made_anew_is_found_by_the_head_noted_elsewhere(ledger: Ledger) -> None:
    forged = Ledger(Path(":memory:"))
    for e in ledger.entries():
        forged.append(e.request, e.client, e.round + 1, e.state)
    assert forged.verify() is None
    assert forged.verify(ledger.head()) is not None


def test_a_ledger_that_went_on_still_proves_an_older_head(ledger: Ledger) -> None:
    head = ledger.head()
    ledger.append("beef", 2, 50, "raised")
    assert ledger.verify(head) is None and ledger.head() != head
