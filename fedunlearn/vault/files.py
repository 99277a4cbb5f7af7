"""How a vault lies on disk: an index of one generation, and raw arrays that are read by memory map.

index.json                      which generation is current, its utterances in order, the arrays' checksums
audio-<generation>.i16          all PCM, one utterance after another
<feature name>-<generation>.f32 derived features, frames after frames; rebuilt whenever missing
<feature name>-<generation>.frames  how many frames each utterance has
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

Derived = Mapping[str, Mapping[str, Tensor]]
"""feature name -> utterance -> features [T, D]"""

ARRAYS = {".i16", ".f32", ".frames"}


class DamagedVault(Exception):
    """A vault whose files do not hold what its index says; ``str(error)`` names the file."""


def stamp(folder: Path) -> tuple[int, int, int] | None:
    """What changes whenever the index is written, or another vault takes its place; None = no vault."""
    # Every purge, and every new vault, writes the index anew under another name and renames it.
    with suppress(FileNotFoundError):
        status = (folder / "index.json").stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None


@dataclass(frozen=True)
class Stored:
    """One array file: the rows of all utterances, one after another, and where each begins."""

    array: npt.NDArray[Any]
    start: Mapping[str, int]
    count: Mapping[str, int]

    @classmethod
    def audio(cls, path: Path, entries: Iterable[VaultEntry]) -> "Stored":
        """PCM [S]. Raises DamagedVault."""
        counts = {e.id: e.samples for e in entries}
        return cls(_map(path, np.int16, sum(counts.values())), _starts(counts), counts)

    @classmethod
    def features(cls, path: Path, ids: Sequence[str], dims: int | None = None) -> "Stored":
        """Features [T, D]; D is what the file's size says, unless it is known. Raises DamagedVault."""
        frames = np.fromfile(path.with_suffix(".frames"), np.int64)
        if len(frames) != len(ids):
            raise DamagedVault(
                f"{path.with_suffix('.frames')}: is of {len(frames)} utterances, not {len(ids)}"
            )
        if dims is None:
            dims = path.stat().st_size // (np.dtype(np.float32).itemsize * int(frames.sum()))
        counts = dict(zip(ids, frames.tolist(), strict=True))
        values = _map(path, np.float32, sum(counts.values()) * dims)
        return cls(values.reshape(-1, dims), _starts(counts), counts)

    def rows(self, utterance: str) -> npt.NDArray[Any]:
        """One utterance's. Raises KeyError where it is not here."""
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
    """Write all arrays, and then the index. A ``new`` vault, which nobody reads yet, is just written."""
    digests: dict[str, str] = {}
    pcm = [samples for _, samples in recordings]
    audio = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    digests |= _write(new, folder / f"audio-{generation}.i16", audio.tobytes())
    for name, features in derived.items() if recordings else ():
        digests |= write_features(
            folder / f"{name}-{generation}.f32", [features[entry.id] for entry, _ in recordings], new
        )
    Index(generation, classes, tuple(entry for entry, _ in recordings), digests).write(folder, new)


def write_features(path: Path, features: Sequence[Tensor], new: bool = False) -> dict[str, str]:
    """Write the features [T, D] of all utterances, in vault order, and how many frames each has.

    Returns:
        the digests of both files, for the index
    """
    frames = np.array([len(f) for f in features], np.int64)
    values = torch.cat(list(features)).numpy().astype(np.float32, copy=False)
    written = _write(new, path.with_suffix(".frames"), frames.tobytes())
    return written | _write(new, path, values.tobytes())


def _write(new: bool, path: Path, content: bytes) -> dict[str, str]:
    if new:
        path.write_bytes(content)
    else:
        write_atomically(path, content)
    return {path.name: hashlib.sha256(content).hexdigest()}


def is_as_written(path: Path, index: Index) -> bool:
    """Whether an array holds what the index says; True, too, where the index is of an earlier version.

    A process reads a file again only where it was written meanwhile.
    """
    if not is_plain(path):
        return False
    if index.sha256 is None:
        return True
    status = path.stat()
    return index.sha256.get(path.name) == _digest(path, status.st_ino, status.st_mtime_ns, status.st_size)


def check_audio(path: Path, index: Index) -> None:
    """See that the audio of a vault is what was recorded. Raises DamagedVault."""
    if path.is_symlink():
        raise DamagedVault(f"{path}: is a link, which cannot be wiped; put what it leads to in its place")
    if not is_as_written(path, index):
        raise DamagedVault(f"{path}: its bytes do not match the checksum in {INDEX}; it was cut or changed")


@lru_cache(maxsize=1 << 14)
def _digest(path: Path, inode: int, written: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wipe_strays(folder: Path, generation: int) -> None:
    """Wipe what an interrupted purge, or any interrupted writing, left. To be called ``lock_folder`` it.

    A stray array that has another name somewhere may be anybody's file. It stays as it is, for the search to
    look into: gone from here, it would be hidden.
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
    """Wipe the arrays of a generation that is over, under all their names: they were written here."""
    for path in list(folder.iterdir()):
        if path.suffix in ARRAYS and path.stem.rpartition("-")[2] == str(generation):
            wipe(path)


def _is_abandoned(temporary: Path) -> bool:
    """Whether nobody is writing this file any more: its name is .<name>.<process>.tmp."""
    name = temporary.stem.removeprefix(".").rpartition(".")[0]
    # Who writes these is alone.
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
