"""Whether a device holds what its index says, and nothing of what its receipts say was deleted.

It only reads, and holds the vault's lock meanwhile, so that a run may be going on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.audio import BadAudio, decode, to_float
from fedunlearn.deletion.purge import kept_fingerprints
from fedunlearn.deletion.receipts import BadReceipt, read_receipt
from fedunlearn.errors import BadInput
from fedunlearn.files import lock_folder
from fedunlearn.vault.additions import waiting_recordings
from fedunlearn.vault.arrays import ARRAYS, is_as_written
from fedunlearn.vault.index import Index
from fedunlearn.vault.tickets import SUFFIX as TICKETS
from fedunlearn.vault.traces import Fingerprints, find_traces


@dataclass(frozen=True)
class DeviceCheck:
    """What was found in a device's folder.

    Attributes:
        problems: what is damaged or left, one line each; empty = all agrees.
        arrays: number of arrays with a checksum.
        receipts: number of receipts.
        fingerprints: number of fingerprints that were searched for.
        files: number of files that were searched.
        bytes: number of bytes in them.
    """

    problems: tuple[str, ...]
    arrays: int
    receipts: int
    fingerprints: int
    files: int
    bytes: int


def check_device(vault: Path, deleted: Sequence[Path] = ()) -> DeviceCheck:
    """Compare a vault's arrays and receipts with its index, and search it for deleted recordings.

    It searches for the given recordings, and for those whose purge was not verified: of these alone the
    vault still has fingerprints.

    Args:
        vault: its folder.
        deleted: sound files of recordings that were deleted.

    Raises:
        BadInput: the index or a sound file cannot be read.
    """
    wanted = Fingerprints.of([])
    try:
        for file in deleted:
            pcm = decode(file)
            wanted |= Fingerprints.of([pcm, to_float(pcm)])
    except BadAudio as error:
        raise BadInput(f"--deleted {error}") from error
    with lock_folder(vault):
        try:
            index = Index.read(vault)
            evidence = kept_fingerprints(vault)
        except (OSError, ValueError) as error:
            raise BadInput(str(error)) from error
        problems = [*_check_arrays(vault, index), *_check_waiting(vault)]
        receipts, contradictions = _check_receipts(vault, index)
        for request, own in evidence.items():
            problems.append(f"{vault}: request {request} was purged, but its purge is not verified")
            wanted |= own
        found = find_traces([vault], wanted)
    problems += contradictions
    problems += [f"{path}: holds a deleted recording, or a part of one" for path in sorted(found.found)]
    if len(wanted):
        problems += [f"{path}: {why}; it could not be searched" for path, why in found.unsearched.items()]
    return DeviceCheck(
        tuple(problems), len(index.sha256 or {}), receipts, len(wanted), found.files, found.bytes
    )


def _check_arrays(vault: Path, index: Index) -> list[str]:
    problems = []
    if index.sha256 is None:
        return [f"{vault}: its index has no checksums, so that its arrays cannot be checked"]
    for name in index.sha256:
        if not (vault / name).is_file():
            problems.append(f"{vault / name}: is missing")
        elif not is_as_written(vault / name, index):
            problems.append(f"{vault / name}: does not match its checksum; it was cut or changed")
    size, samples = vault / f"audio-{index.generation}.i16", sum(e.samples for e in index.entries)
    if size.is_file() and size.stat().st_size != 2 * samples:
        problems.append(f"{size}: is not as long as the index says")
    for path in sorted(vault.iterdir()):
        stray = path.suffix in ARRAYS and path.stem.rpartition("-")[2] != str(index.generation)
        unknown = path.suffix in ARRAYS - {TICKETS} and path.name not in index.sha256
        if stray or unknown:
            problems.append(f"{path}: is an array that the index does not name")
    return problems


def _check_receipts(vault: Path, index: Index) -> tuple[int, list[str]]:
    """Count the receipts, and list what contradicts them, one line each."""
    held, problems, count = {entry.id for entry in index.entries}, list[str](), 0
    for path in sorted((vault / "receipts").glob("*.json")):
        count += 1
        try:
            left = sorted(held & set(read_receipt(path).removed))
        except (BadReceipt, OSError) as error:
            problems.append(str(error))
            continue
        if left:
            problems.append(f"{path}: says that {left[0]} was removed, but the device holds it")
    return count, problems


def _check_waiting(vault: Path) -> list[str]:
    return [f"{found.file}: {found.problem}" for found in waiting_recordings(vault) if found.problem]
