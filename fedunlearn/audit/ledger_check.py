"""Does a run's ledger agree with what was noted of it elsewhere, in the run folder and outside?

The chain of hashes shows that a ledger is whole in itself; one that was made anew is whole, too. So its rows
are compared with the heads that results.json, the checkpoints and the receipts noted, with the requests in
results.json, with the devices' own books, and with every receipt. Nothing is signed: whoever may write the
whole run folder can make all of these anew, except what somebody keeps outside.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fedunlearn.audit.ledger_notes import (
    LedgerNotes,
    NotedLedger,
    RequestKey,
    read_books,
    read_copy,
    read_notes,
)
from fedunlearn.deletion.receipts import Receipt, every_receipt
from fedunlearn.deletion.request import FOLLOWS, OVERDUE, RequestState
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.ledger import (
    GENESIS,
    DamagedLedger,
    LedgerEntry,
    LedgerReader,
    UnreadableLedger,
    broken_link,
    missing_end,
    printable,
)
from fedunlearn.run_folder import RunFolder


@dataclass(frozen=True)
class LedgerCheck:
    """What a ledger was compared with, and what came of it.

    Attributes:
        rows: how many there are.
        head: hash of the last one.
        contradictions: one line each; none = everything agrees.
        compared: what the ledger was compared with, such as "3 receipts"; none = nothing there says anything
            of it.
        names_rows: whether the salt was there, without which no row can be linked to a request.
    """

    rows: int
    head: str
    contradictions: tuple[str, ...]
    compared: tuple[str, ...]
    names_rows: bool


def check_ledger(run: RunFolder, head: str = "", receipts: Sequence[Path] = ()) -> LedgerCheck:
    """Compare a run's ledger with everything that was noted of it.

    Works while the run is going on. Nothing is changed and no file is made.

    Args:
        run: the folder.
        head: that somebody noted outside; empty = none.
        receipts: copies that somebody keeps outside.

    Raises:
        BadInput: there is no ledger, it or another file cannot be read, or what the caller gave is no head or
            no receipt.
        RunFailed: the file is no ledger.
    """
    if head and not re.fullmatch("[0-9a-f]{64}", head):
        raise BadInput(f"--head {printable(head)}: a head has 64 hexadecimal digits")
    copies = tuple((f"--receipt {path}", read_copy(path)) for path in receipts)
    # Notes first: a run that is going on may add rows, but never takes back what was noted of earlier ones.
    notes = read_notes(run, head, copies)
    with opened_ledger(run) as ledger:
        entries = ledger.entries()
    last = entries[-1].hash if entries else GENESIS
    if broken := broken_link(entries):
        return LedgerCheck(len(entries), last, (f"{run.ledger}: {broken}",), (), ledger.salt is not None)
    comparison = _Comparison(run, ledger, entries, notes)
    contradictions = (*notes.unusable, *comparison.contradictions())
    return LedgerCheck(len(entries), last, contradictions, comparison.made(), ledger.salt is not None)


@contextmanager
def opened_ledger(run: RunFolder) -> Iterator[LedgerReader]:
    """The ledger of a run folder, to be read.

    Raises:
        BadInput: there is none, or it cannot be read.
        RunFailed: it is none.
    """
    try:
        ledger = LedgerReader(run.ledger)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(f"{run.path}: is no run folder (there is no {run.ledger.name} in it)") from error
    except UnreadableLedger as error:
        raise BadInput(str(error)) from error
    except DamagedLedger as error:
        raise RunFailed(str(error)) from error
    with ledger:
        try:
            yield ledger
        except UnreadableLedger as error:
            raise BadInput(str(error)) from error
        except DamagedLedger as error:
            raise RunFailed(str(error)) from error


# ---- comparing -------------------------------------------------------------------------------------------

_ENDS = {
    RequestState.PURGED: {RequestState.PURGED, RequestState.VERIFIED},
    RequestState.VERIFIED: {RequestState.PURGED, RequestState.VERIFIED},
    RequestState.WITHDRAWN: {RequestState.WITHDRAWN},
    RequestState.REFUSED: {RequestState.REFUSED},
}
"""state in the ledger -> what the device's book says then"""


class _Comparison:
    """A ledger whose chain is whole, beside what was noted of it."""

    def __init__(
        self, run: RunFolder, ledger: LedgerReader, entries: Sequence[LedgerEntry], notes: LedgerNotes
    ) -> None:
        self._run, self._ledger, self._entries, self._notes = run, ledger, entries, notes
        self._positions = {GENESIS: 0} | {e.hash: e.position for e in entries}
        self._rows: dict[str, list[LedgerEntry]] = {}
        """hash of a request -> its rows"""
        for entry in entries:
            self._rows.setdefault(entry.request, []).append(entry)
        self._linked = ledger.salt is not None
        """whether rows can be told to be of a request"""

    def made(self) -> tuple[str, ...]:
        """What the ledger could be compared with."""
        heads = [head for _, head in self._notes.heads if head != GENESIS or not self._entries]
        receipts = [r for _, _, r in self._notes.receipts] + [r for _, r in self._notes.copies]
        telling = [r for r in receipts if self._linked or r.rows or r.head_at_purge]
        counts = {"noted head": len(heads), "receipt": len(telling)}
        return tuple(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items() if n)

    def contradictions(self) -> Iterator[str]:
        """One line each."""
        yield from self._of_heads()
        yield from self._of_states()
        if self._linked and self._entries and not any(self._own(key) for key in self._notes.keys):
            if self._notes.keys:
                yield (
                    f"{self._run.ledger}: no row is of any request that this run knows; the rows, or the "
                    "salt beside them, are of another run"
                )
            self._linked = False
        if self._notes.results:
            yield from self._of_results(self._notes.results)
        for place, client, receipt in self._notes.receipts:
            yield from self._of_receipt(place, client, receipt)
        for place, receipt in self._notes.copies:
            yield from self._of_copy(place, receipt)
        if self._linked:
            yield from self._of_books()
            yield from self._of_rows()

    def _own(self, key: RequestKey) -> list[LedgerEntry]:
        return self._rows.get(self._ledger.hashed(*key), [])

    def _of_heads(self) -> Iterator[str]:
        noted = list(self._notes.heads)
        for place, receipt in (*((p, r) for p, _, r in self._notes.receipts), *self._notes.copies):
            noted += [(place, head) for head in (receipt.head, receipt.head_at_purge) if head]
        missing: dict[str, str] = {}
        for place, head in noted:
            if head not in self._positions:
                missing.setdefault(head, place)
        for place in missing.values():
            yield f"{self._run.ledger}: {missing_end(self._entries)} (head noted in {place})"

    def _of_states(self) -> Iterator[str]:
        for rows in self._rows.values():
            for row in rows:
                if row.subject != rows[0].subject:
                    yield self._at(row, f"its client is another one than in row {rows[0].position}")
            steps = [row for row in rows if row.state != OVERDUE]
            strange = [row for row in steps if row.state not in _STATES]
            for row in strange:
                yield self._at(row, f"{printable(row.state)} is no state of a request")
            if strange:
                continue
            if rows[0].state != RequestState.RAISED:
                yield self._at(rows[0], f"a request begins as {rows[0].state}, not as raised")
            for one, following in pairwise(steps):
                if following.state not in FOLLOWS[RequestState(one.state)]:
                    yield self._at(
                        following, f"a request that was {one.state} cannot become {following.state}"
                    )

    def _of_results(self, results: NotedLedger) -> Iterator[str]:
        place, known = self._run.results, self._positions.get(results.head)
        if None not in (known, results.entries) and known != results.entries:
            yield f"{place}: says that the ledger had {results.entries} rows, and its head is row {known}"
        if not self._linked:
            return
        told: set[int] = set()
        for reported in results.requests:
            rows = {row.state: row for row in self._own(reported.key)}
            whose = _named(reported.key)
            told |= {row.position for row in rows.values() if row.state == OVERDUE}
            for state, round in reported.history or ((reported.state, None),):
                row = rows.get(state)
                if row is None:
                    yield f"{place}: {whose} was {state}, and no row of the ledger says so"
                    break
                told.add(row.position)
                if round not in (None, row.round):
                    yield self._at(row, f"says round {row.round} of {whose}, {place.name} says {round}")
        if results.complete and results.entries is not None:
            for row in self._entries[: results.entries]:
                if row.position not in told:
                    yield self._at(row, f"{place.name} knows nothing of it")

    def _of_receipt(self, place: str, client: int | None, receipt: Receipt) -> Iterator[str]:
        for noted in receipt.rows:
            row = self._entries[noted.position - 1] if noted.position <= len(self._entries) else None
            if row is None or (row.hash, row.state, row.round) != (noted.hash, noted.state, noted.round):
                what = f"row {noted.position} ({printable(noted.state)} in round {noted.round})"
                yield f"{place}: {what} is {'not' if row is None else 'another one'} in the ledger"
                break
        if client is None or not self._linked:
            return
        key = receipt.request, client
        rows = {row.state: row.position for row in self._own(key)}
        if not rows:
            yield f"{place}: no row of the ledger is of {_named(key)}"
            return
        end = self._positions.get(receipt.head_at_purge, len(self._entries))
        for state in (
            RequestState.RAISED,
            RequestState.ACCEPTED,
            *([RequestState.APPLIED] if receipt.learned else []),
        ):
            if rows.get(state, end + 1) > end:
                yield f"{place}: {_named(key)} was {state} before its purge, and no row of the ledger says so"
        if receipt.rows and {row.position for row in receipt.rows} - set(rows.values()):
            yield f"{place}: some of the rows in it are not of {_named(key)}"

    def _of_copy(self, place: str, copy: Receipt) -> Iterator[str]:
        ours = [(p, client, r) for p, client, r in self._notes.receipts if r.request == copy.request]
        same = [client for _, client, r in ours if r.permanent == copy.permanent]
        yield from self._of_receipt(place, same[0] if same else None, copy)
        if not ours:
            yield f"{place}: no device of this run has a receipt of request {copy.request}"
        elif not same:
            there, _, other = ours[0]
            parts = {*other.permanent, *copy.permanent}
            differ = sorted(p for p in parts if other.permanent.get(p) != copy.permanent.get(p))
            yield f"{place}: differs from {there} in {', '.join(map(printable, differ))}"

    def _of_books(self) -> Iterator[str]:
        for key, request in self._notes.books.items():
            if request.state in {
                RequestState.UNLEARNED,
                RequestState.PURGED,
                RequestState.VERIFIED,
            } and not self._own(key):
                place = self._run.vault(key[1]) / "requests.json"
                yield f"{place}: {_named(key)} is {request.state}, and no row of the ledger is of it"

    def _of_rows(self) -> Iterator[str]:
        """What rows say of the devices; these wrote it down before the ledger did."""
        if not self._run.clients():
            return
        books = read_books(self._run, [])
        receipts = {(path.stem, client) for client, path in every_receipt(self._run)}
        owners = {self._ledger.hashed(*key): key for key in {*books, *self._notes.keys}}
        for request, rows in self._rows.items():
            key = owners.get(request)
            if key is None or key not in books:
                yield self._at(rows[0], "its request is in no device's book")
                continue
            if rows[0].subject != self._ledger.subject(key[1]):
                yield self._at(rows[0], f"{_named(key)} is not of the client that it names")
            for row in rows:
                ends = _ENDS.get(RequestState(row.state)) if row.state in _STATES else None
                if ends and books[key].state not in ends:
                    yield self._at(
                        row, f"says {row.state}, in the device's book {_named(key)} is {books[key].state}"
                    )
                if row.state == RequestState.VERIFIED and key not in receipts:
                    yield self._at(row, f"says verified, and there is no receipt of {_named(key)}")

    def _at(self, row: LedgerEntry, what: str) -> str:
        return f"{self._run.ledger}: row {row.position}: {what}"


_STATES = {str(state) for state in RequestState}


def _named(key: RequestKey) -> str:
    return f"request {printable(key[0])} of client {key[1]}"
