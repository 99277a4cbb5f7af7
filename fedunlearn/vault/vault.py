"""A device's store: audio and everything derived from it go in, a forget set comes out, purged is gone.

Everything of one device's lives in its vault's folder: the arrays (vault_files.py), the device's own deletion
requests (requests.json, deletion.py), the receipts of those that are done and, while one is being purged,
what its speech can be recognised by (receipts/ and evidence/, purge.py).

Every purge makes a new generation: the remaining data is written anew (compacted), the index is switched
by one atomic rename, and the old generation's files are overwritten with zeros and unlinked. A vault that
is opened finds and wipes whatever an interrupted purge left of other generations.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.examples import Examples, ForgetSet, pad_features
from fedunlearn.files import lock_folder
from fedunlearn.links import is_plain, remove, wipe
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Split
from fedunlearn.vault.calibration import CALIBRATION
from fedunlearn.vault.files import (
    Derived,
    Stored,
    check_audio,
    is_as_written,
    stamp,
    wipe_arrays,
    wipe_strays,
    write_features,
    write_generation,
)
from fedunlearn.vault.index import Index, VaultEntry
from fedunlearn.vault.traces import Fingerprints


class Vault:
    """One device's store, opened for reading.

    Args:
        folder: where ``build`` made it.

    Raises:
        DamagedVault: the audio is missing, or not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with lock_folder(folder):
            self._open()
            wipe_strays(folder, self.generation)

    def _open(self) -> None:
        self._stamp = stamp(self.folder)
        self._index = index = Index.read(self.folder)
        self.generation, self.classes = index.generation, index.classes
        self.entries: dict[str, VaultEntry] = {e.id: e for e in index.entries}
        self._features: dict[str, Stored] = {}
        self._audio_path = self._path("audio", "i16")
        self._audio = Stored.audio(self._audio_path, self.entries.values())
        check_audio(self._audio_path, index)

    @classmethod
    def build(
        cls,
        folder: Path,
        recordings: Sequence[tuple[VaultEntry, PCM]],
        classes: int,
        derived: Derived | None = None,
    ) -> "Vault":
        """Make a vault from recordings, and open it. Args and Raises as of ``write``."""
        cls.write(folder, recordings, classes, derived)
        return cls(folder)

    @staticmethod
    def write(
        folder: Path,
        recordings: Sequence[tuple[VaultEntry, PCM]],
        classes: int,
        derived: Derived | None = None,
    ) -> None:
        """Make a vault from recordings; the audio is copied. It lasts once the disk is flushed (os.sync).

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
        write_generation(folder, 1, recordings, classes, derived or {}, new=True)

    @property
    def is_current(self) -> bool:
        """Whether this is still the vault on disk: no purge since, no other vault in its place."""
        return self._stamp == stamp(self.folder)

    def is_untouched(self, entries: Sequence[VaultEntry], classes: int) -> bool:
        """Whether it holds what ``build`` made of these entries, and nothing was added or purged since."""
        if not self.features_are_whole:
            return False
        built = {"index.json", self._audio_path.name} | {
            path.name for path in self.folder.iterdir() if path.suffix in {".f32", ".frames"}
        }
        return (self.generation, self.classes, tuple(self.entries.values())) == (
            1,
            classes,
            tuple(entries),
        ) and {path.name for path in self.folder.iterdir()} - {CALIBRATION} == built

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

    def digest(self, utterance: str) -> str:
        """SHA-256 of one utterance's samples. Raises KeyError where this vault does not hold it."""
        return hashlib.sha256(self.read_audio(utterance).tobytes()).hexdigest()

    @property
    def features_are_whole(self) -> bool:
        """Whether all stored features are as they were derived, as far as the index can tell."""
        return all(self._is_whole(path) for path in self.folder.glob(f"*-{self.generation}.f32"))

    def drop_features(self, model: EmotionModel) -> None:
        """Wipe this model's stored features, and whatever lies in their place; they are derived on use."""
        with lock_folder(self.folder):
            self._features.pop(model.feature_name, None)
            for suffix in ("f32", "frames"):
                path = self._path(model.feature_name, suffix)
                with suppress(FileNotFoundError):
                    wipe(path) if is_plain(path) else remove(path)

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
        """Compute and store the features of all utterances, unless they are there or need not be."""
        if not model.stores_features or self._stored_features(model) is not None or not self.entries:
            return
        with lock_folder(self.folder):
            if not self.is_current:  # what has been purged meanwhile must not come back
                self._open()
            if self._stored_features(model) is None and self.entries:
                features = [model.features_of(self.read_audio(i)) for i in self.entries]
                written = write_features(self._path(model.feature_name, "f32"), features)
                if self._index.sha256 is not None:
                    replace(self._index, sha256={**self._index.sha256, **written}).write(self.folder)
                self._open()

    def purge(self, ids: Iterable[str]) -> int:
        """Remove utterances for good: audio and features, with no copy left in this vault.

        Idempotent: ids that are not here are ignored. Returns the number removed. Where an earlier purge was
        interrupted, this one first reads what is on disk and wipes what that one left.
        """
        with lock_folder(self.folder):
            self._open()
            wipe_strays(self.folder, self.generation)
            gone = set(ids) & self.entries.keys()
            if gone:
                kept = [(e, self.read_audio(e.id)) for e in self.entries.values() if e.id not in gone]
                derived = self._derived(e for e, _ in kept)
                write_generation(self.folder, self.generation + 1, kept, self.classes, derived)
                wipe_arrays(self.folder, self.generation)
                self._open()
                wipe_strays(self.folder, self.generation)
        return len(gone)

    def fingerprints(
        self, ids: Iterable[str], model: EmotionModel, beside: Iterable[str] = ()
    ) -> Fingerprints:
        """What betrays these utterances: all pieces of their PCM and of their features.

        Pieces of few values (silence, clipping) and those that a kept utterance shares (a duplicate) prove
        nothing and are left out.

        Args:
            beside: further utterances that are not kept.
        """
        ids = tuple(ids)
        told = Fingerprints.of_speech((self.read_audio(i), self.read_features(i, model)) for i in ids)
        gone = {*ids, *beside}
        kept = ((self.read_audio(i), self.read_features(i, model)) for i in self.entries if i not in gone)
        return told.without(told.shared_by(kept))

    def stored_names(self) -> tuple[str, ...]:
        """Names of the features that are stored beside the audio, and whole."""
        paths = self.folder.glob(f"*-{self.generation}.f32")
        return tuple(sorted(path.stem.rpartition("-")[0] for path in paths if self._is_whole(path)))

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}-{self.generation}.{suffix}"

    def _stored_features(self, model: EmotionModel) -> Stored | None:
        name = model.feature_name
        path = self._path(name, "f32")
        if name not in self._features and self._is_whole(path):
            self._features[name] = Stored.features(path, tuple(self.entries), model.dims)
        return self._features.get(name)

    def _is_whole(self, features: Path) -> bool:
        """Whether stored features are what was derived; others are derived again."""
        return all(is_as_written(path, self._index) for path in (features, features.with_suffix(".frames")))

    def _derived(self, kept: Iterable[VaultEntry]) -> Derived:
        """All stored features of these utterances."""
        kept, everyone = tuple(kept), tuple(self.entries)
        stored = {name: Stored.features(self._path(name, "f32"), everyone) for name in self.stored_names()}
        return {
            name: {e.id: torch.from_numpy(np.array(features.rows(e.id))) for e in kept}
            for name, features in stored.items()
        }


def _check_recordings(recordings: Sequence[tuple[VaultEntry, PCM]]) -> None:
    seen: set[str] = set()
    for entry, pcm in recordings:
        if entry.id in seen:
            raise ValueError(f"vault: {entry.id} comes twice")
        seen.add(entry.id)
        if pcm.dtype != np.int16 or pcm.shape != (entry.samples,):
            wanted = f"its entry says int16 ({entry.samples},)"
            raise ValueError(f"vault: {entry.id} is {pcm.dtype} {pcm.shape}, {wanted}")
