"""The vault: a device's store of audio and of everything derived from it.

All data of a device is in its vault's folder: the arrays (``vault.arrays``), the device's deletion requests
(``deletion.request_store``), their receipts and, during a purge, the evidence by which the deleted audio can
be recognised (``deletion.purge``).

Every purge makes a new generation: the remaining data is written anew (compacted), the index is switched
by one atomic rename, and the old generation's files are overwritten with zeros and unlinked. Opening a vault
wipes whatever an interrupted purge left of other generations.
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
from fedunlearn.vault.arrays import (
    FEATURES,
    Derived,
    Stored,
    check_audio,
    is_as_written,
    read_derived,
    stamp,
    suffix_of,
    wipe_arrays,
    wipe_strays,
    write_features,
    write_generation,
    write_vault,
)
from fedunlearn.vault.calibration import CALIBRATION
from fedunlearn.vault.commitment import SECRET
from fedunlearn.vault.index import INDEX, Index, VaultEntry
from fedunlearn.vault.tickets import TicketFiles
from fedunlearn.vault.traces import Fingerprints


class Vault:
    """One device's store, opened for reading.

    Args:
        folder: where ``build`` made the vault.

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
        self._audio_path = self.folder / f"audio-{self.generation}.i16"
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
        """Make a vault from recordings, and open it; for the arguments see ``write_vault``."""
        write_vault(folder, recordings, classes, derived)
        return cls(folder)

    @property
    def is_current(self) -> bool:
        """Whether this is still the vault on disk: neither purged nor replaced in the meantime."""
        return self._stamp == stamp(self.folder)

    def ids(self, split: Split, by: int | None = None) -> tuple[str, ...]:
        """List the ids of the utterances of one split, in vault order.

        Args:
            split: "train" or "test".
            by: rounds done; utterances recorded later are left out. None = all.
        """
        chosen = (e for e in self.entries.values() if e.split == split)
        return tuple(e.id for e in chosen if by is None or e.recorded <= by)

    def read_audio(self, utterance: str) -> PCM:
        """Read the PCM of one utterance, int16 [S].

        Raises:
            KeyError: this vault does not hold it.
        """
        return self._audio.rows(utterance).astype(np.int16, copy=True)

    def digest(self, utterance: str) -> str:
        """Compute the SHA-256 of one utterance's samples.

        Raises:
            KeyError: this vault does not hold it.
        """
        return hashlib.sha256(self.read_audio(utterance).tobytes()).hexdigest()

    @property
    def features_are_whole(self) -> bool:
        """Whether all stored features match their checksums."""
        return all(map(self._is_whole, self._feature_paths()))

    def drop_features(self, model: EmotionModel) -> None:
        """Wipe the stored features of a model, and whatever is in their place; they are derived on use."""
        with lock_folder(self.folder):
            self._features.pop(model.feature_name, None)
            stored = self._path_of(model)
            for path in (stored, stored.with_suffix(".frames")):
                with suppress(FileNotFoundError):
                    wipe(path) if is_plain(path) else remove(path)

    def read_features(self, utterance: str, model: EmotionModel) -> Tensor:
        """Return the features [T, D] of one utterance: the stored ones after ``derive``, else computed now.

        Args:
            utterance: id.
            model: derives the features; they are in its ``feature_dtype``.

        Raises:
            KeyError: this vault does not hold the utterance.
        """
        stored = self._stored_features(model)
        if stored is None:
            return model.features_of(self.read_audio(utterance))
        return torch.from_numpy(np.array(stored.rows(utterance)))

    def examples(self, ids: Iterable[str], model: EmotionModel) -> Examples:
        """Return features and labels of these utterances, in this order."""
        ids = tuple(ids)
        return pad_features([self.read_features(i, model) for i in ids], [self.entries[i].label for i in ids])

    def forget_set(self, ids: Iterable[str], model: EmotionModel) -> ForgetSet:
        """Return features, labels and waveforms of these utterances as D_f; nothing else is read."""
        ids = tuple(ids)
        waveform, samples = pad([to_float(self.read_audio(i)) for i in ids])
        return ForgetSet(self.examples(ids, model), waveform, samples)

    @property
    def tickets(self) -> TicketFiles:
        """What the device has noted of its training utterances while the model was trained on them."""
        return TicketFiles(self.folder, self.generation, self.ids("train"))

    def derive(self, model: EmotionModel) -> None:
        """Compute and store the features of all utterances, if they are missing and the model stores any."""
        if not model.stores_features or self._stored_features(model) is not None or not self.entries:
            return
        with lock_folder(self.folder):
            if not self.is_current:  # what was purged in the meantime must not come back
                self._open()
            if self._stored_features(model) is None and self.entries:
                features = [model.features_of(self.read_audio(i)) for i in self.entries]
                written = write_features(self._path_of(model), features)
                if self._index.sha256 is not None:
                    replace(self._index, sha256={**self._index.sha256, **written}).write(self.folder)
                self._open()

    def purge(self, ids: Iterable[str]) -> int:
        """Remove utterances for good: audio, features and tickets, with no copy left in this vault.

        Idempotent. If an earlier purge was interrupted, this one first wipes what that one left.

        Args:
            ids: of utterances; those that are not here are ignored.

        Returns:
            number of utterances removed
        """
        with lock_folder(self.folder):
            self._open()
            wipe_strays(self.folder, self.generation)
            gone = set(ids) & self.entries.keys()
            if gone:
                kept = [(e, self.read_audio(e.id)) for e in self.entries.values() if e.id not in gone]
                derived = read_derived(self._whole_features(), tuple(self.entries), [e.id for e, _ in kept])
                self.tickets.move_without(gone)
                write_generation(self.folder, self.generation + 1, kept, self.classes, derived)
                wipe_arrays(self.folder, self.generation)
                self._open()
                wipe_strays(self.folder, self.generation)
        return len(gone)

    def fingerprints(
        self, ids: Iterable[str], model: EmotionModel, beside: Iterable[str] = ()
    ) -> Fingerprints:
        """Compute the fingerprints of these utterances' PCM, features and tickets.

        Pieces of few different values (silence, clipping) and those that a kept utterance shares (a
        duplicate) prove nothing and are left out.

        Args:
            ids: of the utterances.
            model: derives the features.
            beside: ids of further utterances that are not kept.
        """
        ids = tuple(ids)
        own = Fingerprints.of_recordings((self.read_audio(i), self.read_features(i, model)) for i in ids)
        gone = {*ids, *beside}
        kept = ((self.read_audio(i), self.read_features(i, model)) for i in self.entries if i not in gone)
        return own.without(own.shared_by(kept)) | Fingerprints.of(self.tickets.rows_of(ids))

    def stored_names(self) -> tuple[str, ...]:
        """List the names of the features that are stored and match their checksums."""
        return tuple(sorted(path.stem.rpartition("-")[0] for path in self._whole_features()))

    def _path_of(self, model: EmotionModel) -> Path:
        return self.folder / f"{model.feature_name}-{self.generation}{suffix_of(model.feature_dtype)}"

    def _feature_paths(self) -> list[Path]:
        """List the files of this generation that hold features."""
        return [path for suffix in FEATURES for path in self.folder.glob(f"*-{self.generation}{suffix}")]

    def _whole_features(self) -> list[Path]:
        return [path for path in self._feature_paths() if self._is_whole(path)]

    def _stored_features(self, model: EmotionModel) -> Stored | None:
        name, path = model.feature_name, self._path_of(model)
        if name not in self._features and self._is_whole(path):
            self._features[name] = Stored.features(path, tuple(self.entries), model.dims)
        return self._features.get(name)

    def _is_whole(self, features: Path) -> bool:
        """Tell whether stored features match their checksums; others are derived again."""
        return all(is_as_written(path, self._index) for path in (features, features.with_suffix(".frames")))


def is_untouched(vault: Vault, entries: Sequence[VaultEntry], classes: int) -> bool:
    """Tell whether a vault is as ``build`` made it from these entries: nothing was added or purged.

    Args:
        vault: to be checked.
        entries: that it was built from, in order.
        classes: number of emotions in the corpus.
    """
    built = (vault.generation, vault.classes, tuple(vault.entries.values())) == (1, classes, tuple(entries))
    names = {path.name for path in vault.folder.iterdir()}
    features = {name for name in names if name.endswith((".frames", *FEATURES))}
    others = names - features - {CALIBRATION, SECRET}
    return built and vault.features_are_whole and others == {INDEX, "audio-1.i16"}
