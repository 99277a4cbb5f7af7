"""``fedunlearn ledger show``, ``verify`` and ``receipt``: every request, shown and compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedunlearn.audit.ledger_check import check_ledger, open_ledger
from fedunlearn.audit.ledger_notes import known_requests
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, errors, say
from fedunlearn.deletion.receipts import BadReceipt, every_receipt, read_receipt
from fedunlearn.errors import EXIT_FAILED, EXIT_NOT_COMPARED, EXIT_OK, BadInput
from fedunlearn.files import write_atomically
from fedunlearn.ledger import printable
from fedunlearn.run_folder import RunFolder

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; a run may be going on in it.")]
_SHOWN = 12
"""hexadecimal digits of a hash"""
_MOST = 50
"""contradictions that are named one by one"""


def show(folder: Folder) -> None:
    """Show every row, with client and request named where the salt and the run folder tell them."""
    raise SystemExit(run_command(lambda: _show(RunFolder(folder))))


def verify(
    folder: Folder,
    head: Annotated[str, typer.Option(metavar="HASH", help="A head noted elsewhere.")] = "",
    receipt: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A copy of a receipt, kept elsewhere; may be repeated."),
    ] = None,
) -> None:
    """Compare the ledger with itself, and with all that was noted of it.

    Rows that were changed, dropped or reordered are found by the chain of hashes; a ledger that was cut or
    made anew, by what receipts, devices' request stores, results.json and checkpoints say of it. Nothing is
    signed: anyone who can write the whole run folder can make all of these anew, too. Only a head or a
    receipt that is kept elsewhere shows that (`fedunlearn ledger receipt`).

    Exit codes: 0 the ledger is whole and agrees with what was noted; 2 a file cannot be read; 3 something
    contradicts something else, one line each; 4 it is whole in itself, and nothing is there to compare with.
    """
    raise SystemExit(run_command(lambda: _verify(RunFolder(folder), head, receipt or [])))


def receipt(
    folder: Folder,
    request: Annotated[str, typer.Option(metavar="ID", help="Whose receipt; see `fedunlearn requests`.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new file, outside of the run folder.")],
    client: Annotated[int | None, typer.Option(help="Of this device, where several have one.")] = None,
) -> None:
    """Copy the receipt of a request to a file that the person keeps; `ledger verify --receipt FILE` compares.

    Exit codes: 0 it is there; 2 there is no such receipt, or the file cannot be written.
    """
    raise SystemExit(run_command(lambda: _copy_receipt(RunFolder(folder), request, client, out)))


def _show(run: RunFolder) -> int:
    with open_ledger(run) as ledger:
        entries = ledger.entries()
        known = known_requests(run) if ledger.salt is not None else ()
        names = {ledger.hashed(*key): (str(key[1]), key[0]) for key in known}
    table = Table(title=Text(f"Ledger of {run.path}"))
    for heading in ("row", "round", "client", "request", "state", "hash"):
        right = heading in {"row", "round"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for e in entries:
        client, request = names.get(e.request, (e.subject[:_SHOWN], e.request[:_SHOWN]))
        cells = (str(e.position), str(e.round), client, request, e.state, e.hash[:_SHOWN])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Screen().table(table)
    return EXIT_OK


def _verify(run: RunFolder, head: str, receipts: Sequence[Path]) -> int:
    check = check_ledger(run, head, receipts)
    if check.contradictions:
        for line in check.contradictions[:_MOST]:
            errors.labelled("failed:", "red", line)
        if len(check.contradictions) > _MOST:
            errors.labelled("failed:", "red", f"and {len(check.contradictions) - _MOST} more")
        return EXIT_FAILED
    agrees = f"agrees with {' and '.join(check.compared)}" if check.compared else "nothing to compare it with"
    unlinked = "" if check.names_rows else "; without the salt, no row can be linked to a request"
    say(f"{run.ledger}: {check.rows} rows, whole; {agrees}{unlinked}; head {check.head}")
    return EXIT_OK if check.compared else EXIT_NOT_COMPARED


def _copy_receipt(run: RunFolder, request: str, client: int | None, out: Path) -> int:
    found = {c: path for c, path in every_receipt(run) if path.stem == request and client in (None, c)}
    if not found:
        raise BadInput(
            f"--request {printable(request)}: {run.path} has no receipt of it; see `fedunlearn requests`"
        )
    if len(found) > 1:
        raise BadInput(f"--request {request}: clients {', '.join(map(str, found))} have one; give --client")
    if out.resolve().is_relative_to(run.path.resolve()):
        raise BadInput(f"--out {out}: lies in the run folder; name a place that you keep elsewhere")
    if out.exists() or out.is_symlink() or not out.parent.is_dir():
        raise BadInput(f"--out {out}: {'no such folder' if not out.parent.is_dir() else 'is there already'}")
    ((_, path),) = found.items()
    try:
        read = read_receipt(path)
        write_atomically(out, path.read_bytes())
    except BadReceipt as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from error
    head = read.head or read.head_at_purge
    say(f"{out}: receipt of request {request}" + (f"; the ledger's head in it is {head}" if head else ""))
    say(f"Keep it outside of the run folder; compare: fedunlearn ledger verify {run.path} --receipt {out}")
    return EXIT_OK
