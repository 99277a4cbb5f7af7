"""How a vault lies on disk: an index of one generation, and raw arrays that are read by memory map.

index.json                      which generation is current, and its utterances in order
audio-<generation>.i16          all PCM, one utterance after another
<feature name>-<generation>.f32 derived features, frames after frames; rebuilt whenever missing
<feature name>-<generation>.frames  how many frames each utterance has
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedunlearn.audio import PCM
from fedunlearn.run_folder import wipe, write_atomically
from fedunlearn.vault_index import Entry, Index

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
    def audio(cls, path: Path, entries: Iterable[Entry]) -> "Stored":
        """PCM [S]. Raises DamagedVault."""
        counts = {e.id: e.samples for e in entries}
        return cls(_map(path, np.int16, sum(counts.values())), _starts(counts), counts)

    @classmethod
    def features(cls, path: Path, ids: Sequence[str], dims: int | None = None) -> "Stored":
        """Features [T, D]; D is what the file's size says, unless it is known. Raises DamagedVault."""
        frames = np.fromfile(path.with_suffix(".frames"), np.int64)
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
    recordings: Sequence[tuple[Entry, PCM]],
    classes: int,
    derived: Derived,
    new: bool = False,
) -> None:
    """Write all arrays, and then the index. A ``new`` vault, which nobody reads yet, is just written."""
    pcm = [samples for _, samples in recordings]
    audio = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    _write(new, folder / f"audio-{generation}.i16", audio.tobytes())
    for name, features in derived.items() if recordings else ():
        write_features(
            folder / f"{name}-{generation}.f32", [features[entry.id] for entry, _ in recordings], new
        )
    Index(generation, classes, tuple(entry for entry, _ in recordings)).write(folder, new)


def write_features(path: Path, features: Sequence[Tensor], new: bool = False) -> None:
    """Write the features [T, D] of all utterances, in vault order, and how many frames each has."""
    frames = np.array([len(f) for f in features], np.int64)
    _write(new, path.with_suffix(".frames"), frames.tobytes())
    values = torch.cat(list(features)).numpy().astype(np.float32, copy=False)
    _write(new, path, values.tobytes())


def _write(new: bool, path: Path, content: bytes) -> None:
    if new:
        path.write_bytes(content)
    else:
        write_atomically(path, content)


def wipe_strays(folder: Path, generation: int) -> None:
    """Wipe what an interrupted purge, or any interrupted writing, left. To be called ``alone_in`` it."""
    for path in folder.rglob("*"):
        stale = path.suffix in ARRAYS and path.stem.rpartition("-")[2] != str(generation)
        if stale or (path.suffix == ".tmp" and _is_abandoned(path)):
            with suppress(FileNotFoundError):
                wipe(path)


def _is_abandoned(temporary: Path) -> bool:
    """Whether nobody is writing this file any more: its name is .<name>.<process>.tmp."""
    name, _, process = temporary.stem.removeprefix(".").rpartition(".")
    if Path(name).suffix in ARRAYS or name == "index.json":
        return True  # who writes these is alone
    if not process.isdecimal() or int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


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
