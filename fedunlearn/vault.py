"""A device's store: audio and everything derived from it go in, a forget set comes out, purged is gone.

Files of one vault (raw arrays, read by memory map):
    index.json                      which generation is current, and its utterances in order
    audio-<generation>.i16          all PCM, one utterance after another
    <feature name>-<generation>.f32 derived features, frames after frames; rebuilt whenever missing
    <feature name>-<generation>.frames  how many frames each utterance has
    requests.json                   the device's own deletion requests (deletion.py)

Every purge makes a new generation: the remaining data is written anew (compacted), the index is switched
by one atomic rename, and the old generation's files are overwritten with zeros and unlinked. A vault that
is opened finds and wipes whatever an interrupted purge left of other generations.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.examples import Examples, ForgetSet, pad_features
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Split
from fedunlearn.run_folder import write_atomically

Derived = Mapping[str, Mapping[str, Tensor]]
"""feature name -> utterance -> features [T, D]"""

_WINDOW = 64
"""samples"""


class DamagedVault(Exception):
    """A vault whose files do not hold what its index says; ``str(error)`` names the file."""


@dataclass(frozen=True)
class Entry:
    """One utterance as its device knows it.

    Attributes:
        label: the emotion's class. samples: its length.
        speaker: who speaks; empty = one person per device, as far as this vault knows.
        recorded: rounds done when it was recorded; 0 = there from the start.
    """

    id: str
    emotion: str
    label: int
    split: Split
    samples: int
    speaker: str = ""
    recorded: int = 0


class Vault:
    """One device's store, opened for reading.

    Args:
        folder: where ``build`` made it.

    Raises:
        DamagedVault: the audio is missing or of another length than the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def _open(self) -> None:
        self._stamp = _stamp(self.folder)
        index = _read_index(self.folder)
        self.generation: int = index["generation"]
        self.classes: int = index["classes"]
        self.entries: dict[str, Entry] = {e["id"]: Entry(**e) for e in index["utterances"]}
        self._features: dict[str, _Stored] = {}
        self._audio_path = self._path("audio", "i16")
        self._audio = _Stored.audio(self._audio_path, self.entries.values())
        self._wipe_strays()

    @classmethod
    def build(
        cls,
        folder: Path,
        recordings: Sequence[tuple[Entry, PCM]],
        classes: int,
        derived: Derived | None = None,
    ) -> "Vault":
        """Make a vault from recordings; the audio is copied.

        Args:
            folder: to be made.
            recordings: what it shall hold.
            classes: emotions in the corpus.
            derived: features of at least these recordings, where they are known already.

        Raises:
            ValueError: an id comes twice, or an entry does not describe its recording (int16, its length).
        """
        _check_recordings(recordings)
        folder.mkdir(parents=True)
        _write_generation(folder, 1, recordings, classes, derived or {})
        return cls(folder)

    @property
    def is_current(self) -> bool:
        """Whether this is still the vault on disk: no purge since, no other vault in its place."""
        return self._stamp == _stamp(self.folder)

    def is_untouched(self, entries: Sequence[Entry], classes: int) -> bool:
        """Whether it holds what ``build`` made of these entries, and nothing was added or purged since."""
        built = {"index.json", self._audio_path.name} | {
            path.name for path in self.folder.iterdir() if path.suffix in {".f32", ".frames"}
        }
        return (self.generation, self.classes, tuple(self.entries.values())) == (
            1,
            classes,
            tuple(entries),
        ) and {path.name for path in self.folder.iterdir()} == built

    def ids(self, split: Split, by: int | None = None) -> tuple[str, ...]:
        """The utterances of one split, in vault order.

        Args:
            by: rounds done; what is recorded later does not exist yet. None = all that is ever recorded.
        """
        chosen = (e for e in self.entries.values() if e.split == split)
        return tuple(e.id for e in chosen if by is None or e.recorded <= by)

    def read_audio(self, utterance: str) -> PCM:
        """One utterance's PCM, int16 [S]. Raises KeyError where this vault does not hold it."""
        return self._audio.rows(utterance).astype(np.int16, copy=True)

    def read_features(self, utterance: str, model: EmotionModel) -> Tensor:
        """One utterance's derived features [T, D], from the store if ``derive`` was called, else made now.

        Raises:
            KeyError: this vault does not hold the utterance.
        """
        stored = self._stored_features(model)
        if stored is None:
            return model.features_of(self.read_audio(utterance))
        return torch.from_numpy(np.array(stored.rows(utterance), np.float32))

    def examples(self, ids: Iterable[str], model: EmotionModel) -> Examples:
        """Derived features and labels of these utterances, in this order."""
        ids = tuple(ids)
        return pad_features([self.read_features(i, model) for i in ids], [self.entries[i].label for i in ids])

    def forget_set(self, ids: Iterable[str], model: EmotionModel) -> ForgetSet:
        """D_f: these utterances' features, labels and waveforms. Nothing else is read."""
        ids = tuple(ids)
        waveform, samples = pad([to_float(self.read_audio(i)) for i in ids])
        return ForgetSet(self.examples(ids, model), waveform, samples)

    def derive(self, model: EmotionModel) -> None:
        """Compute and store the features of all utterances, unless they are stored already."""
        if self._stored_features(model) is not None or not self.entries:
            return
        features = [model.features_of(self.read_audio(i)) for i in self.entries]
        _write_features(self._path(model.feature_name, "f32"), features)

    def purge(self, ids: Iterable[str]) -> int:
        """Remove utterances for good: audio and features, with no copy left in this vault.

        Idempotent: ids that are not here are ignored. Returns the number removed. Where an earlier purge was
        interrupted, this one first reads what is on disk and wipes what that one left.
        """
        self._open()
        gone = set(ids) & self.entries.keys()
        if not gone:
            return 0
        kept = [(e, self.read_audio(e.id)) for e in self.entries.values() if e.id not in gone]
        _write_generation(self.folder, self.generation + 1, kept, self.classes, self._derived(kept))
        self._open()
        return len(gone)

    def fingerprints(self, ids: Iterable[str], model: EmotionModel) -> list[bytes]:
        """Byte strings that betray these utterances: the most varied piece of the PCM and of the features.

        Pieces of few values (silence, clipping) and those that a kept utterance shares (a duplicate) prove
        nothing and are left out.
        """
        chosen = set(ids)
        windows: list[bytes] = []
        for utterance in chosen:
            features = self.read_features(utterance, model).numpy().ravel()
            for piece in (_most_varied(self.read_audio(utterance)), _most_varied(features)):
                if len(np.unique(piece)) > _WINDOW // 8:
                    windows.append(piece.tobytes())
        kept = [i for i in self.entries if i not in chosen]
        remaining = b"".join(
            self.read_audio(i).tobytes() + self.read_features(i, model).numpy().tobytes() for i in kept
        )
        return [w for w in windows if w not in remaining]

    def holds_any(self, windows: Sequence[bytes]) -> bool:
        """Whether any file of this vault contains any of these byte strings. For verifying a purge."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if any(window in content for window in windows):
                    return True
        return False

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}-{self.generation}.{suffix}"

    def _stored_features(self, model: EmotionModel) -> "_Stored | None":
        name = model.feature_name
        path = self._path(name, "f32")
        if name not in self._features and path.exists():
            frames = np.fromfile(path.with_suffix(".frames"), np.int64)
            self._features[name] = _Stored.features(path, model.dims, tuple(self.entries), frames)
        return self._features.get(name)

    def _derived(self, kept: Iterable[tuple[Entry, PCM]]) -> Derived:
        """All stored features of these utterances."""
        found = {}
        for path in self.folder.glob(f"*-{self.generation}.f32"):
            frames = np.fromfile(path.with_suffix(".frames"), np.int64)
            dims = path.stat().st_size // (np.dtype(np.float32).itemsize * int(frames.sum()))
            stored = _Stored.features(path, dims, tuple(self.entries), frames)
            name = path.stem.rpartition("-")[0]
            found[name] = {e.id: torch.from_numpy(np.array(stored.rows(e.id))) for e, _ in kept}
        return found

    def _wipe_strays(self) -> None:
        for path in self.folder.iterdir():
            generation = path.stem.rpartition("-")[2]
            stale = path.suffix in {".i16", ".f32", ".frames"} and generation != str(self.generation)
            if stale or path.suffix == ".tmp":
                wipe(path)


@dataclass(frozen=True)
class _Stored:
    """One array file: the rows of all utterances, one after another, and where each begins."""

    array: npt.NDArray[Any]
    start: Mapping[str, int]
    count: Mapping[str, int]

    @classmethod
    def audio(cls, path: Path, entries: Iterable[Entry]) -> "_Stored":
        counts = {e.id: e.samples for e in entries}
        return cls(_map(path, np.int16, sum(counts.values())), _starts(counts), counts)

    @classmethod
    def features(cls, path: Path, dims: int, ids: Sequence[str], frames: npt.NDArray[np.int64]) -> "_Stored":
        counts = dict(zip(ids, frames.tolist(), strict=True))
        values = _map(path, np.float32, sum(counts.values()) * dims)
        return cls(values.reshape(-1, dims), _starts(counts), counts)

    def rows(self, utterance: str) -> npt.NDArray[Any]:
        first = self.start[utterance]
        return self.array[first : first + self.count[utterance]]


def _map(path: Path, dtype: npt.DTypeLike, values: int) -> npt.NDArray[Any]:
    size, expected = path.stat().st_size if path.exists() else None, values * np.dtype(dtype).itemsize
    if size != expected:
        held = "is missing" if size is None else f"holds {size} bytes"
        raise DamagedVault(f"{path}: {held}, but the vault's index speaks of {expected} bytes")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)


def _most_varied(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The stretch of ``_WINDOW`` values [S] with the most different ones; all of them if there are fewer."""
    whole = len(values) // _WINDOW
    if not whole:
        return values
    windows = values[: whole * _WINDOW].reshape(whole, _WINDOW)
    different = (np.diff(np.sort(windows, axis=1), axis=1) != 0).sum(1)
    most: npt.NDArray[Any] = windows[int(different.argmax())]
    return most


def _check_recordings(recordings: Sequence[tuple[Entry, PCM]]) -> None:
    seen: set[str] = set()
    for entry, pcm in recordings:
        if entry.id in seen:
            raise ValueError(f"vault: {entry.id} comes twice")
        seen.add(entry.id)
        if pcm.dtype != np.int16 or pcm.shape != (entry.samples,):
            wanted = f"its entry says int16 ({entry.samples},)"
            raise ValueError(f"vault: {entry.id} is {pcm.dtype} {pcm.shape}, {wanted}")


def _starts(counts: Mapping[str, int]) -> dict[str, int]:
    ends = np.cumsum(list(counts.values()), dtype=np.int64)
    return dict(zip(counts, (ends - np.array(list(counts.values()), np.int64)).tolist(), strict=True))


def wipe(path: Path) -> None:
    """Overwrite a file with zeros, flush, unlink. (On a copy-on-write disk the old blocks may live on.)"""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for start in range(0, size, 1 << 20):
            file.write(b"\0" * min(1 << 20, size - start))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def _stamp(folder: Path) -> tuple[int, int, int]:
    # Every purge, and every new vault, writes the index anew under another name and renames it.
    status = (folder / "index.json").stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return index


def _write_generation(
    folder: Path, generation: int, recordings: Sequence[tuple[Entry, PCM]], classes: int, derived: Derived
) -> None:
    pcm = [samples for _, samples in recordings]
    audio = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    _write_array(folder / f"audio-{generation}.i16", audio)
    for name, features in derived.items() if recordings else ():
        _write_features(folder / f"{name}-{generation}.f32", [features[entry.id] for entry, _ in recordings])
    index = {
        "generation": generation,
        "classes": classes,
        "utterances": [asdict(entry) for entry, _ in recordings],
    }
    write_atomically(folder / "index.json", json.dumps(index))


def _write_features(path: Path, features: Sequence[Tensor]) -> None:
    _write_array(path.with_suffix(".frames"), np.array([len(f) for f in features], np.int64))
    _write_array(path, torch.cat(list(features)).numpy().astype(np.float32, copy=False))


def _write_array(path: Path, array: npt.NDArray[Any]) -> None:
    write_atomically(path, array.tobytes())
