"""``fedunlearn vault add``, ``list``, ``delete`` and ``verify``: the recordings that one device holds.

Adding and deleting leave a file in the device's inbox; the device finds it at the server's next query.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedunlearn.cli.device import ClientOption, NamedDevice, RunOption, VaultOption, find_device, read_index
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.requests import delete as delete
from fedunlearn.console import Screen, errors, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK
from fedunlearn.ledger import printable
from fedunlearn.vault.additions import waiting_files, waiting_recordings
from fedunlearn.vault.index import VaultEntry

_SAMPLE_RATE = 16_000
"""Hz, of what a vault holds"""


def add(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Sound files of one label and speaker.")
    ],
    label: Annotated[str, typer.Option(help="The emotion; one of those that the model tells apart.")],
    run: RunOption = None,
    client: ClientOption = None,
    vault: VaultOption = None,
    speaker: Annotated[str, typer.Option(help="Who speaks; needed where the device holds several.")] = "",
) -> None:
    """Add recordings to a device; it trains on them from the next round on, until they are deleted.

    Exit codes: 0 the device will find them; 2 one cannot be used, and none was added.
    """
    raise SystemExit(run_command(lambda: _add(find_device(run, client, vault), files, label, speaker)))


def list_(run: RunOption = None, client: ClientOption = None, vault: VaultOption = None) -> None:
    """List the recordings that a device holds, and those that wait to be taken in."""
    raise SystemExit(run_command(lambda: _list(find_device(run, client, vault))))


def verify(
    run: RunOption = None,
    client: ClientOption = None,
    vault: VaultOption = None,
    deleted: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A recording that was deleted; search for it. May be repeated."),
    ] = None,
) -> None:
    """Compare a device's files with its index and receipts, and search them for deleted recordings.

    A purge wipes the fingerprints of what it deleted once it has searched for them, so that a later search
    needs the recording itself (--deleted FILE); where a purge was not verified, its fingerprints are there.

    Exit codes: 0 all agrees, nothing was found; 2 a file cannot be read; 3 something is damaged or was found.
    """
    raise SystemExit(run_command(lambda: _verify(find_device(run, client, vault), deleted or [])))


# ---- add -------------------------------------------------------------------------------------------------


def _add(device: NamedDevice, files: Sequence[Path], label: str, speaker: str) -> int:
    from fedunlearn.vault.new_recordings import add_files

    added, notes = add_files(device.vault, files, label, speaker)
    for note in notes:
        warn(note)
    for one in added:
        said = f", said by {one.speaker}" if one.speaker else ""
        say(f"{one.id}: {one.samples / _SAMPLE_RATE:.2f} s, {one.emotion}{said}")
    many = "1 recording waits" if len(added) == 1 else f"{len(added)} recordings wait"
    say(f"{many} for {device.name}, which takes them in at the next query of a run.")
    return EXIT_OK


# ---- list ------------------------------------------------------------------------------------------------


def _list(device: NamedDevice) -> int:
    entries = read_index(device.vault).entries
    table = Table(title=Text(f"Recordings of {device.name}"))
    for heading in ("id", "emotion", "speaker", "set", "seconds", "since"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", no_wrap=True)
    waiting = [found for found in waiting_recordings(device.vault) if found.about]
    rows = [(e.id, e.emotion, e.speaker, e.split, e.samples, _since(e)) for e in entries]
    held = {e.id for e in entries}
    rows += [
        (w.about.id, w.about.emotion, w.about.speaker, "train", w.about.samples, "waits to be taken in")
        for w in waiting
        if w.about and w.about.id not in held
    ]
    for name, emotion, speaker, split, samples, since in rows:
        seconds = f"{samples / _SAMPLE_RATE:.2f}"
        table.add_row(*(Text(printable(cell)) for cell in (name, emotion, speaker, split, seconds, since)))
    Screen().table(table)
    splits: Mapping[str, int] = Counter(e.split for e in entries)
    added = sum(e.added for e in entries)
    say(
        f"{splits.get('train', 0)} training utterances ({added} added), {splits.get('test', 0)} held out, "
        f"{len(rows) - len(entries)} waiting. The server learns these numbers and nothing else."
    )
    return EXIT_OK


def _since(entry: VaultEntry) -> str:
    if entry.added:
        return f"added after round {entry.recorded}"
    return f"recorded after round {entry.recorded}" if entry.recorded else "the start"


# ---- verify ----------------------------------------------------------------------------------------------


def _verify(device: NamedDevice, deleted: Sequence[Path]) -> int:
    from fedunlearn.audit.device_check import check_device

    found = check_device(device.vault, deleted)
    for line in found.problems:
        errors.labelled("failed:", "red", line)
    if found.problems:
        return EXIT_FAILED
    searched = "no fingerprints to search for"
    if found.fingerprints:
        where = f"{found.files} files ({found.bytes} bytes)"
        searched = f"{where} searched for {found.fingerprints} fingerprints, none found"
    agree = f"{found.arrays} arrays match their checksums, {found.receipts} receipts agree with the index"
    say(f"{device.vault}: {agree}; {searched}")
    if waits := len(waiting_files(device.vault)):
        say(f"{'1 recording waits' if waits == 1 else f'{waits} recordings wait'} to be taken in.")
    return EXIT_OK
