"""Compares a run's ledger with what other files, in the run folder and outside, say about it.

The chain of hashes shows that a ledger is consistent in itself; but a forged one is consistent, too. So its
rows are compared with the heads that results.json, the checkpoints and the receipts contain, with the
requests in results.json, with the devices' own request stores, with the models in the run folder, and with
every receipt. Nothing is signed: whoever can write the whole run folder can forge all of these, except for
what is kept outside. What the rows say of models is compared with the run computed again by ``replay``.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fedunlearn.audit.ledger_notes import (
    LedgerNotes,
    NotedLedger,
    RequestKey,
    read_copy,
    read_notes,
    read_stores,
)
from fedunlearn.deletion.receipts import Receipt, every_receipt
from fedunlearn.deletion.request import FOLLOWS, OVERDUE, RequestState
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.ledger import (
    GENESIS,
    DamagedLedger,
    LedgerEntry,
    LedgerReader,
    RoundDigests,
    UnreadableLedger,
    broken_link,
    missing_end,
    printable,
)
from fedunlearn.run_folder import RunFolder


@dataclass(frozen=True)
class LedgerCheck:
    """The result of checking a ledger.

    Attributes:
        rows: number of rows.
        head: hash of the last row.
        contradictions: one line each; empty = everything agrees.
        compared: what the ledger was compared with, such as "3 receipts"; empty = there was nothing.
        names_rows: whether the salt exists, without which no row can be linked to a request.
    """

    rows: int
    head: str
    contradictions: tuple[str, ...]
    compared: tuple[str, ...]
    names_rows: bool


def check_ledger(run: RunFolder, head: str = "", receipts: Sequence[Path] = ()) -> LedgerCheck:
    """Check a run's ledger against everything that other files say about it.

    It works while the run is in progress. It changes no file and makes none.

    Args:
        run: the folder.
        head: a head of the ledger that was noted outside; empty = none.
        receipts: copies that are kept outside.

    Raises:
        BadInput: there is no ledger, a file cannot be read, or an argument is no head or no receipt.
        RunFailed: the file is no ledger.
    """
    if head and not re.fullmatch("[0-9a-f]{64}", head):
        raise BadInput(f"--head {printable(head)}: a head has 64 hexadecimal digits")
    copies = tuple((f"--receipt {path}", read_copy(path)) for path in receipts)
    # Notes first: a run in progress may add rows, but what was noted about earlier rows stays true.
    notes = read_notes(run, head, copies)
    with open_ledger(run) as ledger:
        entries = ledger.entries()
    last = entries[-1].hash if entries else GENESIS
    if broken := broken_link(entries):
        return LedgerCheck(len(entries), last, (f"{run.ledger}: {broken}",), (), ledger.salt is not None)
    comparison = _Comparison(run, ledger, entries, notes)
    contradictions = (*notes.unusable, *comparison.contradictions())
    return LedgerCheck(len(entries), last, contradictions, comparison.compared(), ledger.salt is not None)


@contextmanager
def open_ledger(run: RunFolder) -> Iterator[LedgerReader]:
    """Open the ledger of a run folder for reading.

    Args:
        run: the folder.

    Raises:
        BadInput: there is no ledger, or it cannot be read.
        RunFailed: the file is no ledger.
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

_FIRST, _UNLEARN = "calibrate", "unlearn"
"""phases: of the first row of a model, and of rows with the model that requests were applied to"""
_ENDS = {
    RequestState.PURGED: {RequestState.PURGED, RequestState.VERIFIED},
    RequestState.VERIFIED: {RequestState.PURGED, RequestState.VERIFIED},
    RequestState.WITHDRAWN: {RequestState.WITHDRAWN},
    RequestState.REFUSED: {RequestState.REFUSED},
}
"""state in the ledger -> states that the device's request store may have then"""


class _Comparison:
    """Compares a ledger whose chain is consistent with the notes about it."""

    def __init__(
        self, run: RunFolder, ledger: LedgerReader, entries: Sequence[LedgerEntry], notes: LedgerNotes
    ) -> None:
        self._run, self._ledger, self._entries, self._notes = run, ledger, entries, notes
        self._positions = {GENESIS: 0} | {e.hash: e.position for e in entries}
        self._rows: dict[str, list[LedgerEntry]] = {}
        """hash of a request -> its rows"""
        for entry in filter(lambda row: row.is_of_request, entries):
            self._rows.setdefault(entry.request, []).append(entry)
        self._linked = ledger.salt is not None
        """whether rows can be linked to requests"""

    def compared(self) -> tuple[str, ...]:
        """List what the ledger could be compared with."""
        heads = [head for _, head in self._notes.heads if head != GENESIS or not self._entries]
        receipts = [r for _, _, r in self._notes.receipts] + [r for _, r in self._notes.copies]
        telling = [r for r in receipts if self._linked or r.rows or r.head_at_purge]
        counts = {"noted head": len(heads), "receipt": len(telling)}
        return tuple(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items() if n)

    def contradictions(self) -> Iterator[str]:
        """Find all contradictions, as one line each."""
        yield from self._check_heads()
        yield from self._check_states()
        if self._linked and self._rows and not any(self._rows_of(key) for key in self._notes.keys):
            if self._notes.keys:
                yield (
                    f"{self._run.ledger}: no row is of any request that this run knows; the rows, or the "
                    "salt beside them, are of another run"
                )
            self._linked = False
        if self._notes.results:
            yield from self._check_results(self._notes.results)
            yield from _check_checkpoints(self._run, self._entries, self._notes.results)
        models = _models_of(self._entries)
        for place, client, receipt in self._notes.receipts:
            yield from self._check_receipt(place, client, receipt)
            yield from _check_model(place, receipt, models, self._entries, self._positions)
        for place, receipt in self._notes.copies:
            yield from self._check_copy(place, receipt)
            yield from _check_model(place, receipt, models, self._entries, self._positions)
        if self._linked:
            yield from self._check_stores()
            yield from self._check_rows()

    def _rows_of(self, key: RequestKey) -> list[LedgerEntry]:
        return self._rows.get(self._ledger.hashed(*key), [])

    def _check_heads(self) -> Iterator[str]:
        noted = list(self._notes.heads)
        for place, receipt in (*((p, r) for p, _, r in self._notes.receipts), *self._notes.copies):
            noted += [(place, head) for head in (receipt.head, receipt.head_at_purge) if head]
        missing: dict[str, str] = {}
        for place, head in noted:
            if head not in self._positions:
                missing.setdefault(head, place)
        for place in missing.values():
            yield f"{self._run.ledger}: {missing_end(self._entries)} (head noted in {place})"

    def _check_states(self) -> Iterator[str]:
        for row in (e for e in self._entries if e.is_of_model):
            if not _model_in(row):
                yield self._at(row, "it is of a model, and contains no digest")
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

    def _check_results(self, results: NotedLedger) -> Iterator[str]:
        place, known = self._run.results, self._positions.get(results.head)
        if None not in (known, results.entries) and known != results.entries:
            yield f"{place}: says that the ledger had {results.entries} rows, and its head is row {known}"
        if not self._linked:
            return
        reported_rows: set[int] = set()
        for reported in results.requests:
            rows = {row.state: row for row in self._rows_of(reported.key)}
            whose = _named(reported.key)
            reported_rows |= {row.position for row in rows.values() if row.state == OVERDUE}
            for state, round in reported.history or ((reported.state, None),):
                row = rows.get(state)
                if row is None:
                    yield f"{place}: {whose} was {state}, and no row of the ledger says so"
                    break
                reported_rows.add(row.position)
                if round not in (None, row.round):
                    yield self._at(row, f"says round {row.round} of {whose}, {place.name} says {round}")
        if results.complete and results.entries is not None:
            for row in self._entries[: results.entries]:
                if row.is_of_request and row.position not in reported_rows:
                    yield self._at(row, f"{place.name} knows nothing of it")

    def _check_receipt(self, place: str, client: int | None, receipt: Receipt) -> Iterator[str]:
        for noted in receipt.rows:
            row = self._entries[noted.position - 1] if noted.position <= len(self._entries) else None
            if row is None or (row.hash, row.state, row.round) != (noted.hash, noted.state, noted.round):
                what = f"row {noted.position} ({printable(noted.state)} in round {noted.round})"
                yield f"{place}: {what} is {'not' if row is None else 'another one'} in the ledger"
                break
        if client is None or not self._linked:
            return
        key = receipt.request, client
        rows = {row.state: row.position for row in self._rows_of(key)}
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

    def _check_copy(self, place: str, copy: Receipt) -> Iterator[str]:
        ours = [(p, client, r) for p, client, r in self._notes.receipts if r.request == copy.request]
        same = [client for _, client, r in ours if r.permanent == copy.permanent]
        yield from self._check_receipt(place, same[0] if same else None, copy)
        if not ours:
            yield f"{place}: no device of this run has a receipt of request {copy.request}"
        elif not same:
            there, _, other = ours[0]
            parts = {*other.permanent, *copy.permanent}
            differ = sorted(p for p in parts if other.permanent.get(p) != copy.permanent.get(p))
            yield f"{place}: differs from {there} in {', '.join(map(printable, differ))}"

    def _check_stores(self) -> Iterator[str]:
        for key, request in self._notes.stores.items():
            if request.state in {
                RequestState.UNLEARNED,
                RequestState.PURGED,
                RequestState.VERIFIED,
            } and not self._rows_of(key):
                place = self._run.vault(key[1]) / "requests.json"
                yield f"{place}: {_named(key)} is {request.state}, and no row of the ledger is of it"

    def _check_rows(self) -> Iterator[str]:
        """Compare the rows with the devices' own files, which are written before the ledger."""
        if not self._run.clients():
            return
        stores = read_stores(self._run, [])
        receipts = {(path.stem, client) for client, path in every_receipt(self._run)}
        owners = {self._ledger.hashed(*key): key for key in {*stores, *self._notes.keys}}
        for request, rows in self._rows.items():
            key = owners.get(request)
            if key is None or key not in stores:
                yield self._at(rows[0], "its request is in no device's store")
                continue
            if rows[0].subject != self._ledger.subject(key[1]):
                yield self._at(rows[0], f"{_named(key)} is not of the client that it names")
            for row in rows:
                ends = _ENDS.get(RequestState(row.state)) if row.state in _STATES else None
                if ends and stores[key].state not in ends:
                    yield self._at(
                        row, f"says {row.state}, in the device's store {_named(key)} is {stores[key].state}"
                    )
                if row.state == RequestState.VERIFIED and key not in receipts:
                    yield self._at(row, f"says verified, and there is no receipt of {_named(key)}")

    def _at(self, row: LedgerEntry, what: str) -> str:
        return f"{self._run.ledger}: row {row.position}: {what}"


_STATES = {str(state) for state in RequestState}


def _model_in(row: LedgerEntry) -> str:
    """The digest of the model in a row; empty where there is none."""
    try:
        return RoundDigests.of_text(row.content).model
    except ValueError:
        return ""


def _models_of(entries: Sequence[LedgerEntry]) -> Mapping[tuple[int, str], int] | None:
    """(round, digest) of each model that requests were applied to -> its row; None = an earlier version's."""
    models = [e for e in entries if e.is_of_model]
    if not models or models[0].state != _FIRST:
        return None
    return {(e.round, _model_in(e)): e.position for e in models if e.state == _UNLEARN}


def _check_model(
    place: str,
    receipt: Receipt,
    models: Mapping[tuple[int, str], int] | None,
    entries: Sequence[LedgerEntry],
    positions: Mapping[str, int],
) -> Iterator[str]:
    """Compare the model in a receipt with those in the ledger."""
    if models is None or receipt.model is None:
        return
    round, digest = receipt.model
    row = models.get((round, digest))
    if row is None:
        yield f"{place}: the model of round {round} in it, {digest[:12]}..., is not in the ledger"
    elif row > positions.get(receipt.head_at_purge, row):
        yield f"{place}: the model in it is row {row} of the ledger, which was written after the purge"
    elif receipt.model_before and not any(
        e.is_of_model and _model_in(e) == receipt.model_before for e in entries[: row - 1]
    ):
        before = f"{receipt.model_before[:12]}..."
        yield f"{place}: the model before unlearning in it, {before}, is in no row before row {row}"


def _check_checkpoints(run: RunFolder, entries: Sequence[LedgerEntry], results: NotedLedger) -> Iterator[str]:
    """Compare the models in the run folder with the last ones that the ledger had at the run's end."""
    if not results.complete or results.entries is None:
        return
    models = [e for e in entries[: results.entries] if e.is_of_model]
    unlearned = [e for e in models if e.state == _UNLEARN]
    for name, rows in (("recovered", models[-1:]), ("unlearned", unlearned or models[-1:])):
        file = run.checkpoints / f"{name}.safetensors"
        # The file of a model is hashed as the model itself is (``weights_digest``).
        if rows and file.is_file() and _sha256(file) not in {_model_in(row) for row in rows}:
            yield f"{file}: is not the model of row {rows[-1].position} of the ledger"


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from error


def _named(key: RequestKey) -> str:
    return f"request {printable(key[0])} of client {key[1]}"
