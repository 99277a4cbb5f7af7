"""``fedunlearn ledger show`` and ``ledger verify``: what became of every request, and proof of it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fedunlearn.cli.guard import guarded
from fedunlearn.console import Screen, say
from fedunlearn.deletion import RequestBook
from fedunlearn.errors import EXIT_OK, BadInput, RunFailed
from fedunlearn.ledger import DamagedLedger, LedgerReader
from fedunlearn.run_folder import RunFolder

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; a run may be going on in it.")]
_SHOWN = 12
"""hexadecimal digits of a hash"""


def show(folder: Folder) -> None:
    """Show every row, with client and request named where the salt and the run folder tell them."""
    raise SystemExit(guarded(lambda: _show(RunFolder(folder))))


def verify(
    folder: Folder,
    head: Annotated[str, typer.Option(metavar="HASH", help="A head noted elsewhere.")] = "",
) -> None:
    """Prove that no row was changed, dropped or reordered, also against the heads that the run noted.

    Exit codes: 0 the ledger is whole; 3 it is not, and the first bad row is named.
    """
    raise SystemExit(guarded(lambda: _verify(RunFolder(folder), head)))


def _show(run: RunFolder) -> int:
    with _opened(run) as ledger:
        names = _names(run, ledger)
        table = Table(title=f"Ledger of {run.path}")
        for heading in ("row", "round", "client", "request", "state", "hash"):
            right = heading in {"row", "round"}
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        for e in ledger.entries():
            client, request = names.get(e.request, (e.subject[:_SHOWN], e.request[:_SHOWN]))
            table.add_row(str(e.position), str(e.round), client, request, e.state, e.hash[:_SHOWN])
    Screen().table(table)
    return EXIT_OK


def _verify(run: RunFolder, head: str) -> int:
    if head and not re.fullmatch("[0-9a-f]{64}", head):
        raise BadInput(f"--head {head}: a head has 64 hexadecimal digits")
    # The heads first: a run that is going on may add rows, but never takes back what it noted.
    noted = [*([("--head", head)] if head else []), *_noted_heads(run)]
    with _opened(run) as ledger:
        if broken := ledger.verify():
            raise RunFailed(f"{ledger.path}: {broken}")
        for place, one in noted:
            if cut := ledger.verify(one):
                raise RunFailed(f"{ledger.path}: {cut} (head noted in {place})")
        rows, last = len(ledger.entries()), ledger.head()
    agrees = f"; agrees with {len(noted)} noted head{'' if len(noted) == 1 else 's'}" if noted else ""
    say(f"{run.ledger}: {rows} rows, whole{agrees}; head {last}")
    return EXIT_OK


@contextmanager
def _opened(run: RunFolder) -> Iterator[LedgerReader]:
    try:
        ledger = LedgerReader(run.ledger)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(f"{run.path}: is no run folder (there is no {run.ledger.name} in it)") from error
    with ledger:
        try:
            yield ledger
        except DamagedLedger as error:
            raise RunFailed(str(error)) from error


def _noted_heads(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Where the run itself noted what the head was: in its results, and beside its checkpoints."""
    manifests = sorted(run.checkpoints.rglob("*.safetensors.json"))
    for file in (run.results, *manifests):
        noted = _json(file)
        head = noted.get("ledger", {}).get("head") if file == run.results else noted.get("ledger_head")
        if isinstance(head, str):
            yield str(file.relative_to(run.path)), head


def _names(run: RunFolder, ledger: LedgerReader) -> dict[str, tuple[str, str]]:
    """Hash of a request -> (client, request id), for all that the run folder knows; none without the salt."""
    if ledger.salt is None:
        return {}
    known = {(r.id, client) for client in run.clients() for r in RequestBook(run.vault(client)).all()}
    known |= {(str(r["id"]), int(r["client"])) for r in _json(run.results).get("requests", [])}
    return {ledger.hashed(request, client): (str(client), request) for request, client in known}


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
