"""The ledger: an append-only record in SQLite of requests, models and devices, chained by hashes.

A row is one step of a request, the model after one round, or a device's commitment to its recordings. It
contains no name, client number or request id, but salted hashes of them, a round and a state. The salt is in
a file of its own beside the database: with the database alone, no row can be linked to anybody.

A row of a model contains the SHA-256 of the global weights and a digest of each update that was aggregated.
These are blinded, each with a key of its own that follows from the salt, and sorted: only who has an update
and its key can find it among them. Ledgers of earlier versions have rows of requests alone.
"""

import hashlib
import hmac
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    position INTEGER PRIMARY KEY, subject TEXT NOT NULL, request TEXT NOT NULL, round INTEGER NOT NULL,
    state TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL, content TEXT NOT NULL DEFAULT '',
    UNIQUE (request, state)
);
CREATE TRIGGER IF NOT EXISTS rows_stay BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS rows_remain BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS rows_follow BEFORE INSERT ON entries
WHEN NEW.position <> (SELECT COALESCE(MAX(position), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_CONTENT = "ALTER TABLE entries ADD COLUMN content TEXT NOT NULL DEFAULT ''"
"""what a ledger of an earlier version lacks"""
_LAST = "SELECT position, hash FROM entries ORDER BY position DESC LIMIT 1"
_KIND = "SELECT type FROM sqlite_master WHERE name = 'entries'"
_PATIENCE = 30.0
"""seconds that a reader waits for a process that has locked the file"""
_NOT_NOW = {sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN}
_LONGEST_WORD = 100
COMMITTED = "committed"
"""state of a row with a device's commitment to its recordings"""
GENESIS = "0" * 64
"""hash before the first row: the head of an empty ledger"""


class DamagedLedger(Exception):
    """A file is no ledger, or one that SQLite cannot read; ``str(error)`` names it."""


class UnreadableLedger(DamagedLedger):
    """A ledger cannot be opened now: another process has locked it, or it is not readable."""


@dataclass(frozen=True)
class LedgerEntry:
    """One step of one request, the model after one round, or a device's commitment.

    Attributes:
        position: 1, 2, ...
        subject: salted hash of the client (hexadecimal); empty = of none, in the row of a model.
        request: salted hash of the request's id and its client, so that each device's part has its own rows;
            in other rows, a salted hash of what they contain.
        round: of the timeline.
        state: that the request reached; of a model, the phase of the round; or ``COMMITTED``.
        previous: hash of the row before (SHA-256, hexadecimal).
        hash: of this row.
        content: of a model, a ``RoundDigests`` as JSON; the commitment; empty in the row of a request.
    """

    position: int
    subject: str
    request: str
    round: int
    state: str
    previous: str
    hash: str
    content: str = ""

    @property
    def is_of_request(self) -> bool:
        """Whether it is a step of a request."""
        return not self.content

    @property
    def is_of_model(self) -> bool:
        """Whether it is the model after a round."""
        return bool(self.content) and self.state != COMMITTED


@dataclass(frozen=True)
class RoundDigests:
    """The digests of one round.

    Attributes:
        model: SHA-256 of the global weights after the round (``weights_digest``).
        updates: blinded digest of each update that was aggregated, sorted.
    """

    model: str
    updates: tuple[str, ...] = ()

    def as_text(self) -> str:
        """Write it as a row contains it."""
        return json.dumps({"model": self.model, "updates": list(self.updates)})

    @classmethod
    def of_text(cls, content: str) -> "RoundDigests":
        """Read it from the content of a row.

        Args:
            content: from ``as_text``.

        Raises:
            ValueError: it contains no digests.
        """
        try:
            read = json.loads(content)
            return cls(str(read["model"]), tuple(map(str, read["updates"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("the row of a model contains no digests") from error


def update_key(salt: bytes, phase: str, round: int, client: int) -> str:
    """Derive the key by which one client's update of one round is blinded.

    Told to that client, it lets nobody recognise any other update.

    Args:
        salt: of the ledger.
        phase: of the round.
        round: of the timeline.
        client: its number.

    Returns:
        64 hexadecimal digits
    """
    return _keyed(salt, "update", phase, round, client)


def blinded_update(key: str, digest: str) -> str:
    """Blind the digest of an update, as the row of its round contains it.

    Args:
        key: from ``update_key``.
        digest: of the update (``messages.update.Update.digest``).

    Returns:
        HMAC-SHA256, hexadecimal
    """
    return hmac.new(bytes.fromhex(key), digest.encode(), hashlib.sha256).hexdigest()


_TYPES: Mapping[str, type] = {field.name: field.type for field in fields(LedgerEntry)}  # type: ignore[misc]


class LedgerReader:
    """A ledger opened for reading, which changes and makes no file; works while a run is writing.

    Args:
        path: of the database. The salt is read from beside it, if it is readable.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableLedger: it cannot be opened.
        DamagedLedger: it is no ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.salt: bytes | None = None
        with suppress(OSError):  # without the salt the chain can still be verified
            if _salt_file(path).is_file():
                self.salt = _salt_file(path).read_bytes()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            if not path.exists():
                raise FileNotFoundError(f"{path}: there is no ledger")
            is_file = path.is_file()
        except PermissionError as error:
            raise UnreadableLedger(f"{path}: cannot be read ({error.strerror})") from error
        if not is_file:  # SQLite would wait for ever for the other end of a pipe
            raise UnreadableLedger(f"{path}: is no file")
        self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        log, shared = (self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))
        path, how = self.path, "mode=ro"
        if not log.exists():
            how += "&immutable=1"  # SQLite would make both files just to read the database
        elif not shared.exists():
            # No process is writing; SQLite can read a database that was copied with its log only in a copy.
            self._copy = tempfile.TemporaryDirectory()
            path = Path(self._copy.name) / self.path.name
            try:
                with suppress(FileNotFoundError):  # its last writer has just put the log into the database
                    shutil.copy(log, path.with_name(log.name))
                shutil.copy(self.path, path)
            except OSError as error:
                self._copy.cleanup()
                raise UnreadableLedger(f"{self.path}: cannot be read ({error.strerror or error})") from error
        uri = f"{path.absolute().as_uri()}?{how}"
        with self._readable():
            return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_PATIENCE)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Read all rows in order.

        Raises:
            DamagedLedger: a row is malformed.
            UnreadableLedger: another process has locked the file.
        """
        with self._readable():
            if self._connection.execute(_KIND).fetchall() != [("table",)]:
                raise TypeError("it has no table of entries")
            found = self._connection.execute("SELECT * FROM entries ORDER BY position")
            columns = tuple(column[0] for column in found.description)
            if columns not in {tuple(_TYPES), tuple(_TYPES)[:-1]}:
                raise TypeError("its entries have other columns")
            return tuple(_entry(number, row) for number, row in enumerate(found, start=1))

    def head(self) -> str:
        """Read the hash of the last row, which covers all rows: note it elsewhere, and compare later."""
        with self._readable():
            last = self._connection.execute(_LAST).fetchone()
            if last and not isinstance(last[1], str):
                raise TypeError("the hash of its last row is no text")
        return last[1] if last else GENESIS

    def states(self, request: str, client: int) -> tuple[str, ...]:
        """Read the states that a client's request has reached, in order.

        Raises:
            ValueError: the salt is missing.
        """
        with self._readable():
            found = self._connection.execute(
                "SELECT state FROM entries WHERE request = ? ORDER BY position",
                (self.hashed(request, client),),
            )
            return tuple(state for (state,) in found)

    def verify(self, head: str | None = None) -> str | None:
        """Verify the chain of hashes.

        Args:
            head: a former result of ``head()``, noted outside this file. Without it, rows that were cut off
                at the end and a chain that was forged as a whole cannot be detected.

        Returns:
            None if the chain is whole, else one line that names the first wrong row
        """
        entries = self.entries()
        if broken := broken_link(entries):
            return broken
        if head is not None and head not in {GENESIS, *(e.hash for e in entries)}:
            return missing_end(entries)
        return None

    def subject(self, client: int) -> str:
        """Hash a client number as rows contain it.

        Raises:
            ValueError: the salt is missing.
        """
        return self._hash("client", client)

    def hashed(self, request: str, client: int) -> str:
        """Hash a client's request id as rows contain it.

        Raises:
            ValueError: the salt is missing.
        """
        return self._hash("request", request, client)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        if self._copy:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hash(self, *parts: str | int) -> str:
        if self.salt is None:
            raise ValueError(f"{_salt_file(self.path)} is missing: nobody can be linked to a row")
        return _keyed(self.salt, *parts)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, TypeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW:
                raise UnreadableLedger(f"{self.path}: cannot be read now ({error})") from error
            raise DamagedLedger(f"{self.path}: cannot be read as a ledger ({error})") from error


class Ledger(LedgerReader):
    """The ledger of one run, opened for writing; every ``append`` is on disk before it returns.

    So are all rows of models before it. A row of a model itself outlasts the process, but not a power failure
    until the next ``append`` or ``flush``: a round that is played again after it has the same row.

    Args:
        path: of the database, made if it does not exist.
        salt: random bytes, the same as long as the ledger exists; stored beside it, readable by the owner
            only. None = the stored one.

    Raises:
        ValueError: there is no salt, or it differs from the stored one.
    """

    def __init__(self, path: Path, salt: bytes | None = None) -> None:
        _keep_salt(path, salt)
        path.touch()
        super().__init__(path)
        with self._readable():
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            columns = self._connection.execute("SELECT * FROM entries LIMIT 0").description
            if len(columns) < len(_TYPES):
                self._connection.execute(_CONTENT)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=30.0, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        return connection

    def append(self, request: str, client: int, round: int, state: str) -> bool:
        """Record that a client's request reached a state.

        Args:
            request: id.
            client: its number.
            round: of the timeline.
            state: that the request reached.

        Returns:
            whether it was recorded; false if it had been recorded before
        """
        return self._append(self.subject(client), self.hashed(request, client), round, state)

    def append_model(self, phase: str, round: int, digests: RoundDigests) -> bool:
        """Record the model after a round.

        Args:
            phase: of the round.
            round: of the timeline.
            digests: of the model and of what was aggregated.

        Returns:
            whether it was recorded; false if the same had been recorded before
        """
        content = digests.as_text()
        self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            return self._append("", self._hash("model", round, phase, content), round, phase, content)
        finally:
            self._connection.execute("PRAGMA synchronous=FULL")

    def flush(self) -> None:
        """Wait until all rows are on disk."""
        log = self.path.with_name(self.path.name + "-wal")
        with suppress(FileNotFoundError), log.open("rb") as opened:
            os.fsync(opened.fileno())

    def append_commitment(self, client: int, round: int, commitment: str) -> bool:
        """Record what a device has committed to.

        Args:
            client: its number.
            round: of the timeline.
            commitment: of the device.

        Returns:
            whether it was recorded; false if the device had committed to the same before
        """
        hashed = self._hash("commitment", client, commitment)
        return self._append(self.subject(client), hashed, round, COMMITTED, commitment)

    def _append(self, subject: str, hashed: str, round: int, state: str, content: str = "") -> bool:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            if execute("SELECT 1 FROM entries WHERE request = ? AND state = ?", (hashed, state)).fetchone():
                execute("ROLLBACK")
                return False
            last, previous = execute(_LAST).fetchone() or (0, GENESIS)
            row = LedgerEntry(last + 1, subject, hashed, round, state, previous, "", content)
            row = replace(row, hash=_digest(row))
            execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(vars(row).values()))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        return True


def broken_link(entries: Sequence[LedgerEntry]) -> str | None:
    """Check the chain of rows; return one line that names the first wrong row, or None."""
    previous = GENESIS
    for expected, e in enumerate(entries, start=1):
        if e.position != expected:
            return f"row {expected} is missing (row {e.position} stands in its place)"
        if e.previous != previous:
            return f"row {e.position} does not follow the row before it"
        if e.hash != _digest(e):
            return f"row {e.position} ({printable(e.state)} in round {e.round}) was changed"
        previous = e.hash
    return None


def missing_end(entries: Sequence[LedgerEntry]) -> str:
    """Describe in one line that a noted head is none of these rows."""
    return f"the last row that was noted elsewhere is missing (row {len(entries)} is the last here)"


def printable(text: str) -> str:
    """Escape and cut a word of a row or a file if it cannot be printed as it is in a line."""
    return text if text.isprintable() and len(text) <= _LONGEST_WORD else ascii(text[:_LONGEST_WORD])


def _entry(number: int, row: Sequence[object]) -> LedgerEntry:
    for (name, kind), value in zip(_TYPES.items(), row, strict=False):
        if not isinstance(value, kind):
            raise TypeError(f"row {number}: its {name} is {type(value).__name__}, not {kind.__name__}")
    return LedgerEntry(*row)  # type: ignore[arg-type]


def _keyed(salt: bytes, *parts: str | int) -> str:
    return hmac.new(salt, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def _digest(e: LedgerEntry) -> str:
    row: list[object] = [e.position, e.subject, e.request, e.round, e.state, e.previous]
    row += [e.content] if e.content else []  # rows of requests are hashed as in earlier versions
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


def _salt_file(path: Path) -> Path:
    return path.with_suffix(".salt")


def _keep_salt(path: Path, salt: bytes | None) -> None:
    file = _salt_file(path)
    if file.exists() and file.stat().st_size:
        if salt is not None and salt != file.read_bytes():
            raise ValueError(f"{file} holds another salt than this run has: the ledger is of another run")
        return
    if not salt:
        raise ValueError(f"{file} is missing, and no salt is given")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(salt)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
