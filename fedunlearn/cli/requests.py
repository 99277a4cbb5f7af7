"""``fedunlearn delete``, ``withdraw`` and ``requests``: the requests that people file, at any moment.

A command leaves a file in the device's inbox, in the run folder; the device finds it at the server's next
query. Nothing heavy is imported, so that a command takes no time.
"""

import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedunlearn.cli.device import (
    ClientOption,
    NamedDevice,
    RunOption,
    VaultOption,
    find_device,
    list_clients,
    read_index,
)
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.config.fields import LARGEST
from fedunlearn.console import Screen, say
from fedunlearn.deletion.admission import admit, devices_of
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.receipts import receipt_of
from fedunlearn.deletion.request import DeletionRequest, RequestState, has_passed
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.ledger import LedgerReader
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.additions import labels_of, waiting_recordings
from fedunlearn.vault.index import VaultEntry

_ANY_ROUND = sys.maxsize
_ID_WIDTH = 16


def delete(
    run: RunOption = None,
    client: ClientOption = None,
    vault: VaultOption = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="More ids, after --utterances ID.", show_default=False),
    ] = None,
    utterances: Annotated[
        list[str] | None, typer.Option(metavar="ID...", help="These utterances.", show_default=False)
    ] = None,
    speaker: Annotated[str, typer.Option(help="All of one speaker, on every device that has any.")] = "",
    emotion: Annotated[str, typer.Option(help="All of one emotion.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Everything on this device.")] = False,
    deadline: Annotated[int | None, typer.Option(help="Rounds within which it should be verified.")] = None,
    reason: Annotated[str, typer.Option(help="In your own words; stays on the device.")] = "",
) -> None:
    """Delete recordings of a device: exactly one of --utterances, --speaker, --emotion and --all.

    Exit codes: 0 the device will find the request; 2 it cannot be served, and nothing was filed.
    """
    options = _DeletionOptions(
        tuple([*(utterances or []), *(more or [])]),
        bool(utterances),
        speaker,
        emotion,
        all_,
        deadline,
        reason,
    )
    raise SystemExit(run_command(lambda: _delete(run, client, vault, options)))


def withdraw(
    request: Annotated[
        str,
        typer.Option(help="Its id, as `fedunlearn delete` gave it, or how that begins (4 digits or more)."),
    ],
    run: RunOption = None,
    client: ClientOption = None,
    vault: VaultOption = None,
) -> None:
    """Withdraw a request, on every device that it concerns. Too late once a device has unlearned."""
    raise SystemExit(run_command(lambda: _withdraw(find_device(run, client, vault), request)))


def requests(
    run: RunOption = None,
    client: Annotated[int | None, typer.Option(help="Of this client alone.")] = None,
    vault: VaultOption = None,
) -> None:
    """Show every request and its state, on the devices and at the server, and what still waits."""
    raise SystemExit(run_command(lambda: _requests(run, client, vault)))


@dataclass(frozen=True)
class _DeletionOptions:
    utterances: tuple[str, ...]
    named: bool
    speaker: str
    emotion: str
    all: bool
    deadline: int | None
    reason: str

    def request(self) -> FiledRequest:
        choices = {"named": self.named, "speaker": self.speaker, "emotion": self.emotion, "all": self.all}
        chosen = [what for what, given in choices.items() if given]
        problems = []
        if len(chosen) != 1:
            problems.append("give exactly one of --utterances, --speaker, --emotion and --all")
        elif self.utterances and not self.named:
            problems.append(f"{self.utterances[0]}: ids of utterances follow --utterances")
        if self.deadline is not None and not 1 <= self.deadline <= LARGEST:
            problems.append(
                f"--deadline {self.deadline}: give at least 1 round and at most {LARGEST}, or leave it out"
            )
        if problems:
            raise BadInput(problems)
        name = secrets.token_hex(8)
        return FiledRequest(
            name,
            chosen[0],
            f"person-{name}",
            0,
            self.emotion,
            self.speaker,
            tuple(dict.fromkeys(self.utterances)),
            self.deadline,
            reason=self.reason,
        )


def _delete(run: Path | None, client: int | None, vault: Path | None, options: _DeletionOptions) -> int:
    problems: list[str] = []
    try:
        device = find_device(run, client, vault)
    except BadInput as error:
        problems += error.problems
    try:
        request = options.request()
    except BadInput as error:
        problems += error.problems
    if problems:
        raise BadInput(problems)
    preview = _preview(device.vault, device.client, request)
    if preview.state is RequestState.REFUSED:
        raise BadInput(f"{device.name}: {preview.note}; nothing was filed")
    served = [preview]
    if request.what == "speaker" and device.run is not None:
        others = (c for c in device.run.clients() if c != device.client)
        parts = (_preview(device.run.vault(other), other, request) for other in others)
        served += [part for part in parts if part.state is RequestState.RAISED]
    request = replace(request, devices=len(served))
    for part in sorted(served, key=lambda r: r.client):
        Inbox(device.vault if device.run is None else device.run.vault(part.client)).file(request)
    say(f"Request {request.id}: {_describe(served, device.name)}.")
    if any(part.count and part.held_out for part in served):
        total = sum(len(part.held_out) for part in served if part.count)
        say(f"Of the same speech {_number_of(total, 'held-out utterance')} will be removed, too.")
    if device.run is None:
        more = devices_of(device.vault).get(request.speaker, 1) - 1 if request.what == "speaker" else 0
        if more:
            say(f"It is for this device alone; {_number_of(more, 'more device')} may hold speech of theirs.")
        say("The device finds it at the next query of a run.")
    else:
        say(
            "The device finds it at the next query; if no run is going on: "
            f"python simulations/run.py --resume --out {shlex.quote(str(device.run.path))}"
        )
    return EXIT_OK


def _describe(parts: Sequence[DeletionRequest], device: str) -> str:
    first = parts[0]
    text = f"{device} deletes {_amount(first)}"
    if len(parts) > 1:
        others = ", ".join(f"{_amount(p)} of client {p.client}" for p in parts[1:])
        text += f"; the same request goes to {len(parts) - 1} more of the speaker's devices: {others}"
    return text


def _amount(part: DeletionRequest) -> str:
    """Count what is unlearned or, where that is nothing, what is removed all the same."""
    if part.count:
        return _number_of(part.count)
    return _number_of(part.held_out_count, "held-out utterance")


def _number_of(count: int, what: str = "utterance") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _preview(folder: Path, client: int, request: FiledRequest) -> DeletionRequest:
    """Admit a request as the device would if it read it now, after all that was filed before."""
    entries, inbox = _entries(folder), Inbox(folder).waiting()
    known = list(RequestStore(folder).all())
    for earlier in (w.request for w in inbox if w.request and all(w.id != r.id for r in known)):
        known.append(admit(earlier, client, entries, known, _ANY_ROUND))
    return admit(request, client, entries, known, _ANY_ROUND)


def _withdraw(device: NamedDevice, request: str) -> int:
    vaults = {device.client: device.vault}
    if device.run is not None:
        vaults = {client: device.run.vault(client) for client in device.run.clients()}
    request = _whole_id(device, request)
    found = {c: states[request] for c, vault in vaults.items() if request in (states := _states(vault))}
    if device.client not in found:
        raise BadInput(f"--request {request}: {device.name} has none of that id; see `fedunlearn requests`")
    waiting = {
        c: state
        for c, state in found.items()
        if state in {"filed", RequestState.RAISED, RequestState.ACCEPTED}
    }
    if device.client not in waiting:
        raise BadInput(f"--request {request}: cannot be withdrawn, it is {found[device.client]}")
    for other in waiting:
        Inbox(vaults[other]).file_withdrawal(request)
    where = f"client{'s' if len(waiting) > 1 else ''} {', '.join(map(str, waiting))}"
    say(f"Request {request}: to be withdrawn at {device.name if device.run is None else where}.")
    say("The device honours it at the next query, unless it has unlearned by then.")
    return EXIT_OK


def _whole_id(device: NamedDevice, start: str) -> str:
    """Return the one id of a device's requests that begins so; what was given where there is none."""
    states = _states(device.vault)
    ids = [start] if start in states else [i for i in states if len(start) >= 4 and i.startswith(start)]
    if len(ids) > 1:
        raise BadInput(f"--request {start}: {device.name} has {len(ids)} that begin so: {', '.join(ids)}")
    return ids[0] if ids else start


def _requests(run: Path | None, client: int | None, vault: Path | None) -> int:
    if vault is not None or run is None:
        devices = [find_device(run, client, vault)]
    else:
        folder = RunFolder(run)
        clients = list_clients(folder, client)
        devices = [NamedDevice(folder.vault(c), c, folder) for c in (clients if client is None else [client])]
    place = vault or run
    table = Table(title=f"Requests in {place}")
    table.add_column("id", no_wrap=True, min_width=_ID_WIDTH)
    for heading in ("client", "what", "utterances", "raised", "deadline", "state", "note"):
        table.add_column(
            heading, justify="right" if heading in {"utterances", "raised", "deadline"} else "left"
        )
    for device in devices:
        for row in _rows(device):
            table.add_row(row[0], str(device.client), *row[1:])
    if table.row_count:
        Screen().table(table)
        say("Rounds leave out recovery rounds in the middle of learning; the ledger counts those, too.")
        receipts = f"{vault}/receipts" if vault else f"{RunFolder(run or Path()).vaults}/client-NNNN/receipts"
        say(f"Of what is purged there is a receipt: {receipts}/ID.json")
    else:
        say(f"No requests in {place}.")
    return EXIT_OK


def _rows(device: NamedDevice) -> list[tuple[str, ...]]:
    waiting = Inbox(device.vault).waiting()
    stored = RequestStore(device.vault).all()
    recorded = {}
    if device.run is not None:
        recorded = _recorded(device.run, device.client, [r.id for r in stored])
    leaving = {w.withdraws for w in waiting if w.withdraws}
    rows: list[tuple[str, ...]] = [
        (
            r.id,
            r.what,
            str(r.count + r.held_out_count),
            str(r.round),
            "" if r.deadline is None else str(r.round + r.deadline),
            f"{state}, to be withdrawn" if r.id in leaving else str(state),
            r.note,
        )
        for r in stored
        for state in [_furthest_state(r, recorded.get(r.id), device.vault)]
    ]
    known = {row[0] for row in rows}
    for request in (w.request for w in waiting if w.request and w.id not in known):
        rows.append((request.id, request.what, "", "", "", "filed", "the device has not read it yet"))
    return rows


def _furthest_state(request: DeletionRequest, recorded: RequestState | None, vault: Path) -> RequestState:
    """Return how far a request has come, by the device's request store and by the ledger."""
    state = request.state
    if (
        recorded
        and state not in {RequestState.WITHDRAWN, RequestState.REFUSED}
        and not has_passed(state, recorded)
    ):
        state = recorded
    # The device does not learn that it was verified; the receipt is written when nothing of it was found.
    return (
        RequestState.VERIFIED
        if state is RequestState.PURGED and receipt_of(vault, request.id).exists()
        else state
    )


def _recorded(run: RunFolder, client: int, ids: Sequence[str]) -> dict[str, RequestState]:
    """Read the states of a client's requests in the ledger; empty where it cannot be read."""
    try:
        with LedgerReader(run.ledger) as ledger:
            known = {request: ledger.states(request, client) for request in ids}
    except Exception:
        return {}
    named = {request: [s for s in states if s in set(RequestState)] for request, states in known.items()}
    return {request: RequestState(states[-1]) for request, states in named.items() if states}


def _states(vault: Path) -> dict[str, str]:
    filed = {w.id: "filed" for w in Inbox(vault).waiting() if w.request}
    return filed | {r.id: r.state for r in RequestStore(vault).all()}


def _entries(vault: Path) -> Mapping[str, VaultEntry]:
    """What the device holds once it has taken in the recordings that wait in its inbox."""
    entries = {e.id: e for e in read_index(vault).entries}
    if waiting := [found.about for found in waiting_recordings(vault) if found.about]:
        labels = labels_of(vault)
        entries |= {about.id: about.entry(labels) for about in waiting if about.emotion in labels}
    return entries
