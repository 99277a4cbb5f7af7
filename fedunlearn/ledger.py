"""What became of every request: append-only rows in SQLite, each chained to the one before by its hash.

Rows hold request ids (random digits), client numbers, rounds and states; no names, no utterances.
"""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    position INTEGER PRIMARY KEY, request TEXT NOT NULL, client INTEGER NOT NULL, round INTEGER NOT NULL,
    state TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
)"""
_GENESIS = "0" * 64


@dataclass(frozen=True)
class LedgerEntry:
    """One step of one request."""

    position: int
    request: str
    client: int
    round: int
    state: str
    previous: str
    hash: str


class Ledger:
    """The record of one run. Every ``append`` is on disk before it returns."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_SCHEMA)

    def append(self, request: str, client: int, round: int, state: str) -> None:
        """Record that a request reached a state; a state it has reached already is not recorded twice."""
        entries = self.entries()
        if any(e.request == request and e.state == state for e in entries):
            return
        position = len(entries) + 1
        previous = entries[-1].hash if entries else _GENESIS
        digest = _digest(position, request, client, round, state, previous)
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
            (position, request, client, round, state, previous, digest),
        )

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All rows in order."""
        rows = self._connection.execute("SELECT * FROM entries ORDER BY position").fetchall()
        return tuple(LedgerEntry(*row) for row in rows)

    def head(self) -> str:
        """Hash of the last row, which stands for all rows before it. Kept elsewhere, it proves the end."""
        entries = self.entries()
        return entries[-1].hash if entries else _GENESIS

    def verify(self, head: str | None = None) -> str | None:
        """None if the chain is whole, else one line that names the first row that is not.

        Args:
            head: what ``head()`` once said, noted outside this file. Without it, rows cut off at the end and
                a chain made anew from end to end cannot be told from an honest ledger.
        """
        previous = _GENESIS
        entries = self.entries()
        for expected, e in enumerate(entries, start=1):
            if e.position != expected:
                return f"row {expected} is missing (row {e.position} stands in its place)"
            if e.previous != previous:
                return f"row {e.position} does not follow the row before it"
            if e.hash != _digest(e.position, e.request, e.client, e.round, e.state, e.previous):
                return f"row {e.position} (request {e.request}, {e.state}) was changed"
            previous = e.hash
        if head is not None and head not in {_GENESIS, *(e.hash for e in entries)}:
            return f"the last row that was noted elsewhere is missing (row {len(entries)} is the last here)"
        return None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _digest(position: int, request: str, client: int, round: int, state: str, previous: str) -> str:
    row = json.dumps([position, request, client, round, state, previous])
    return hashlib.sha256(row.encode()).hexdigest()
