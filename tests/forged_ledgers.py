"""Ledgers as somebody who may write in the run folder makes them."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import fedunlearn.ledger
from fedunlearn.ledger import GENESIS, LedgerEntry, LedgerReader
from fedunlearn.run_folder import RunFolder

Row = tuple[str, str, int, str, str]
"""subject, request, round, state, content"""


def statements(run: RunFolder, *lines: str, values: Sequence[Any] = ()) -> None:
    """Run SQL, past the database's own guards."""
    with closing(sqlite3.connect(run.ledger, isolation_level=None)) as other:
        other.execute("PRAGMA synchronous=OFF")
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            other.execute(f"DROP TRIGGER {name}")
        for line in lines:
            other.execute(line, values if "?" in line else ())


def rows(run: RunFolder) -> list[Row]:
    with LedgerReader(run.ledger) as ledger:
        return [(e.subject, e.request, e.round, e.state, e.content) for e in ledger.entries()]


def made_anew(run: RunFolder, kept: Sequence[Row]) -> None:
    """A ledger of these rows: the chain, and the heads in results.json and the checkpoints, are made anew."""
    statements(run, "DELETE FROM entries")
    previous = GENESIS
    with closing(sqlite3.connect(run.ledger, isolation_level=None)) as other:
        other.execute("BEGIN")
        for position, row in enumerate(kept, start=1):
            *first, content = row
            made = LedgerEntry(position, *first, previous, "", content)
            made = replace(made, hash=fedunlearn.ledger._digest(made))
            other.execute("INSERT INTO entries VALUES (?,?,?,?,?,?,?,?)", tuple(vars(made).values()))
            digest = made.hash
            previous = digest
        other.execute("COMMIT")
    if run.results.exists():
        rewrite(run.results, ledger={"entries": len(kept), "head": previous})
    for manifest in run.checkpoints.rglob("*.safetensors.json"):
        if "ledger_head" in json.loads(manifest.read_text()):
            rewrite(manifest, ledger_head=previous)


def rewrite(file: Path, **parts: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
