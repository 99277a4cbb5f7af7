"""The files of a vault: an index of one generation, and raw arrays that are memory-mapped.

index.json                          current generation, its utterances in order, checksums of the arrays
audio-<generation>.i16              all PCM, one utterance after another
<feature name>-<generation>.f32     derived features, one frame after another; rebuilt whenever missing
<feature name>-<generation>.f16     the same in float16
<feature name>-<generation>.frames  number of frames of each utterance
tickets.<slot>-<generation>.tickets what was noted of each training utterance (``vault.tickets``)
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedunlearn.audio import PCM
from fedunlearn.files import write_atomically
from fedunlearn.links import discard, has_other_names, is_abandoned, is_plain, wipe
from fedunlearn.vault.index import INDEX, Index, VaultEntry
from fedunlearn.vault.tickets import SUFFIX as TICKETS

Derived = Mapping[str, Mapping[str, Tensor]]
"""feature name -> utterance -> features [T, D]"""

FEATURES: dict[str, np.dtype[Any]] = {".f32": np.dtype(np.float32), ".f16": np.dtype(np.float16)}
"""ending of a file with features -> type of its values"""
ARRAYS = {".i16", ".frames", TICKETS, *FEATURES}


class DamagedVault(Exception):
    """A vault's files do not hold what its index says; ``str(error)`` names the file."""


def stamp(folder: Path) -> tuple[int, int, int] | None:
    """Return a value that changes when the index is written or the vault is replaced; None = no vault."""
    # Every purge, and every new vault, writes the index anew under another name and renames it.
    with suppress(FileNotFoundError):
        status = (folder / "index.json").stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None


@dataclass(frozen=True)
class Stored:
    """An array file with the rows of all utterances, one after another.

    Attributes:
        array: all rows: PCM [S], or features [T, D].
        start: utterance -> its first row.
        count: utterance -> its number of rows.
    """

    array: npt.NDArray[Any]
    start: Mapping[str, int]
    count: Mapping[str, int]

    @classmethod
    def audio(cls, path: Path, entries: Iterable[VaultEntry]) -> "Stored":
        """Map the PCM [S] of all utterances.

        Raises:
            DamagedVault: the file is missing or of another size.
        """
        counts = {e.id: e.samples for e in entries}
        return cls(_map(path, np.int16, sum(counts.values())), _starts(counts), counts)

    @classmethod
    def features(cls, path: Path, ids: Sequence[str], dims: int | None = None) -> "Stored":
        """Map the features [T, D] of all utterances.

        Args:
            path: of the array.
            ids: all utterances in vault order.
            dims: D; None = computed from the file's size.

        Raises:
            DamagedVault: the file is missing or of another size.
        """
        frames = np.fromfile(path.with_suffix(".frames"), np.int64)
        if len(frames) != len(ids):
            raise DamagedVault(
                f"{path.with_suffix('.frames')}: is of {len(frames)} utterances, not {len(ids)}"
            )
        if dims is None:
            dims = path.stat().st_size // (FEATURES[path.suffix].itemsize * int(frames.sum()))
        counts = dict(zip(ids, frames.tolist(), strict=True))
        values = _map(path, FEATURES[path.suffix], sum(counts.values()) * dims)
        return cls(values.reshape(-1, dims), _starts(counts), counts)

    def rows(self, utterance: str) -> npt.NDArray[Any]:
        """Return the rows of one utterance.

        Raises:
            KeyError: it is not here.
        """
        first = self.start[utterance]
        return self.array[first : first + self.count[utterance]]


def write_generation(
    folder: Path,
    generation: int,
    recordings: Sequence[tuple[VaultEntry, PCM]],
    classes: int,
    derived: Derived,
    new: bool = False,
) -> None:
    """Write all arrays of a generation, and then the index.

    Args:
        folder: of the vault.
        generation: its number.
        recordings: entry and PCM [S] of each utterance, in vault order.
        classes: number of emotions in the corpus.
        derived: features to store with them.
        new: the vault is not in use yet, so that files are just written.
    """
    digests: dict[str, str] = {}
    pcm = [samples for _, samples in recordings]
    audio = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    digests |= _write(new, folder / f"audio-{generation}.i16", audio.tobytes())
    for name, features in derived.items() if recordings else ():
        rows = [features[entry.id] for entry, _ in recordings]
        digests |= write_features(folder / f"{name}-{generation}{suffix_of(rows[0].dtype)}", rows, new)
    Index(generation, classes, tuple(entry for entry, _ in recordings), digests).write(folder, new)


def write_vault(
    folder: Path,
    recordings: Sequence[tuple[VaultEntry, PCM]],
    classes: int,
    derived: Derived | None = None,
) -> None:
    """Make a vault from recordings; the caller flushes the disk (os.sync) to make it durable.

    Args:
        folder: to be made.
        recordings: entry and PCM, int16 [S], of each utterance; the audio is copied.
        classes: number of emotions in the corpus.
        derived: features of at least these recordings, if they are known already.

    Raises:
        ValueError: an id comes twice, or an entry does not describe its recording (int16, its length).
    """
    _check_recordings(recordings)
    folder.mkdir(parents=True)
    write_generation(folder, 1, recordings, classes, derived or {}, new=True)


def _check_recordings(recordings: Sequence[tuple[VaultEntry, PCM]]) -> None:
    seen: set[str] = set()
    for entry, pcm in recordings:
        if entry.id in seen:
            raise ValueError(f"vault: {entry.id} comes twice")
        seen.add(entry.id)
        if pcm.dtype != np.int16 or pcm.shape != (entry.samples,):
            wanted = f"its entry says int16 ({entry.samples},)"
            raise ValueError(f"vault: {entry.id} is {pcm.dtype} {pcm.shape}, {wanted}")


def suffix_of(dtype: torch.dtype) -> str:
    """Return the ending of a file with features.

    Args:
        dtype: float32 or float16.
    """
    return ".f16" if dtype == torch.float16 else ".f32"


def write_features(path: Path, features: Sequence[Tensor], new: bool = False) -> dict[str, str]:
    """Write the features of all utterances, and the file with their numbers of frames.

    Args:
        path: of the features; its ending says in which type they are written.
        features: [T, D] of each utterance, in vault order.
        new: the vault is not in use yet, so that files are just written.

    Returns:
        name -> digest of both files, for the index
    """
    frames = np.array([len(f) for f in features], np.int64)
    values = torch.cat(list(features)).numpy().astype(FEATURES[path.suffix], copy=False)
    written = _write(new, path.with_suffix(".frames"), frames.tobytes())
    return written | _write(new, path, values.tobytes())


def read_derived(paths: Iterable[Path], everyone: Sequence[str], kept: Iterable[str]) -> Derived:
    """Read the stored features of some utterances.

    Args:
        paths: of the features.
        everyone: ids of all utterances, in vault order.
        kept: ids of those that are read.
    """
    found = {p.stem.rpartition("-")[0]: Stored.features(p, everyone) for p in paths}
    ids = tuple(kept)
    return {
        name: {i: torch.from_numpy(np.array(features.rows(i))) for i in ids}
        for name, features in found.items()
    }


def _write(new: bool, path: Path, content: bytes) -> dict[str, str]:
    if new:
        path.write_bytes(content)
    else:
        write_atomically(path, content)
    return {path.name: hashlib.sha256(content).hexdigest()}


def is_as_written(path: Path, index: Index) -> bool:
    """Tell whether an array matches its checksum; also true if the index has none.

    A process reads a file again only if it was written in the meantime.
    """
    if not is_plain(path):
        return False
    if index.sha256 is None:
        return True
    status = path.stat()
    return index.sha256.get(path.name) == _digest(path, status.st_ino, status.st_mtime_ns, status.st_size)


def check_audio(path: Path, index: Index) -> None:
    """Check that the audio of a vault matches its checksum.

    Raises:
        DamagedVault: it does not, or is a link.
    """
    if path.is_symlink():
        raise DamagedVault(f"{path}: is a link, which cannot be wiped; put what it leads to in its place")
    if not is_as_written(path, index):
        raise DamagedVault(f"{path}: its bytes do not match the checksum in {INDEX}; it was cut or changed")


@lru_cache(maxsize=1 << 14)
def _digest(path: Path, inode: int, written: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wipe_strays(folder: Path, generation: int) -> None:
    """Wipe what an interrupted purge, or any interrupted writing, left; the folder must be locked.

    A stray array with another name (hard link) may belong to another program. It stays, so that the search
    for traces looks into it.

    Args:
        folder: of the vault.
        generation: the current one.
    """
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        stale = path.suffix in ARRAYS and path.stem.rpartition("-")[2] != str(generation)
        if stale and not has_other_names(path):
            with suppress(FileNotFoundError):
                wipe(path)
        elif path.suffix == ".tmp" and _is_abandoned(path):
            discard(path)


def wipe_arrays(folder: Path, generation: int) -> None:
    """Wipe the arrays of a superseded generation, under all their names: they were written here.

    Args:
        folder: of the vault.
        generation: the superseded one.
    """
    for path in list(folder.iterdir()):
        if path.suffix in ARRAYS and path.stem.rpartition("-")[2] == str(generation):
            wipe(path)


def _is_abandoned(temporary: Path) -> bool:
    """Tell whether no process writes this file any more; its name is .<name>.<process>.tmp."""
    name = temporary.stem.removeprefix(".").rpartition(".")[0]
    # These are written under the lock, which this process holds.
    return Path(name).suffix in ARRAYS or name == INDEX or is_abandoned(temporary)


def _map(path: Path, dtype: npt.DTypeLike, values: int) -> npt.NDArray[Any]:
    size, expected = path.stat().st_size if path.exists() else None, values * np.dtype(dtype).itemsize
    if size != expected:
        held = "is missing" if size is None else f"holds {size} bytes"
        raise DamagedVault(f"{path}: {held}, but the vault's index speaks of {expected} bytes")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)


def _starts(counts: Mapping[str, int]) -> dict[str, int]:
    ends = np.cumsum(list(counts.values()), dtype=np.int64)
    return dict(zip(counts, (ends - np.array(list(counts.values()), np.int64)).tolist(), strict=True))
