"""Recordings that a person adds to a device: from the command that files them to the vault.

Filing makes one whole file in the vault's ``inbox/`` and touches nothing else, as for a deletion request
(``deletion.inbox``). The device takes it into its vault at the server's next query and wipes the file after
that. So a recording may be filed at any moment, by any process, and is neither lost nor taken in twice,
whatever is killed in between.

inbox/<id>.recording   a line of JSON (id, emotion, speaker, number and SHA-256 of the samples), then the
                       samples, int16 little-endian
labels.json            the emotions that the model tells apart, in the order of their class numbers
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.links import is_plain
from fedunlearn.vault.index import Index, VaultEntry

LABELS = "labels.json"
_SUFFIX = ".recording"
_PREFIX = "added-"
"""how the id of an added recording begins; the rest is random, so that it says nothing about the speech"""

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Addition:
    """One recording that is added, before the device has taken it in.

    Attributes:
        id: of the utterance.
        emotion: its label.
        speaker: who speaks; empty = the one person of the device.
        samples: number of samples.
        sha256: of the samples.
    """

    id: str
    emotion: str
    speaker: str
    samples: int
    sha256: str

    @classmethod
    def of(cls, pcm: Samples, emotion: str, speaker: str) -> "Addition":
        """Describe a recording under a new id.

        Args:
            pcm: int16 [S].
            emotion: its label.
            speaker: who speaks.
        """
        return cls(f"{_PREFIX}{secrets.token_hex(6)}", emotion, speaker, len(pcm), digest_of(pcm))

    def entry(self, labels: Sequence[str], recorded: int = 0) -> VaultEntry:
        """Make its entry in the vault's index.

        Args:
            labels: the emotions, in the order of their class numbers.
            recorded: rounds done when the device takes it in.

        Raises:
            ValueError: its label is none of these.
        """
        label = labels.index(self.emotion)
        return VaultEntry(self.id, self.emotion, label, "train", self.samples, self.speaker, recorded, True)


@dataclass(frozen=True)
class WaitingRecording:
    """A file of the inbox that holds a recording.

    Attributes:
        file: to be wiped once the vault holds it.
        about: the recording; None = the file cannot be read.
        problem: why it cannot be read; empty = it can.
    """

    file: Path
    about: Addition | None = None
    problem: str = ""

    def pcm(self) -> Samples:
        """Read the samples, int16 [S]."""
        return np.frombuffer(self.file.read_bytes().partition(b"\n")[2], "<i2").astype(np.int16)


def digest_of(pcm: Samples) -> str:
    """Compute the SHA-256 of samples, int16 [S]."""
    return hashlib.sha256(pcm.tobytes()).hexdigest()


def file_recording(vault_folder: Path, recording: Addition, pcm: Samples) -> None:
    """Leave a recording in a device's inbox; it is on disk when this returns.

    Args:
        vault_folder: of the device.
        recording: from ``Addition.of``.
        pcm: its samples, int16 [S].

    Raises:
        BadInput: the inbox is no folder of its own.
    """
    folder = vault_folder / "inbox"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadInput(f"{folder}: is no folder of its own; remove it, then add again")
    folder.mkdir(exist_ok=True)
    head = json.dumps(asdict(recording)).encode()
    write_atomically(folder / f"{recording.id}{_SUFFIX}", head + b"\n" + pcm.astype("<i2").tobytes())


def waiting_files(vault_folder: Path) -> list[Path]:
    """List the files with recordings that wait; none if the inbox is a link."""
    folder = vault_folder / "inbox"
    if folder.is_symlink() or not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if f.suffix == _SUFFIX and not f.name.startswith(".")]
    return sorted((f for f in files if is_plain(f)), key=_filed_at)


def waiting_recordings(vault_folder: Path) -> tuple[WaitingRecording, ...]:
    """Read what waits in a device's inbox, in the order in which it was filed."""
    return tuple(_read(file) for file in waiting_files(vault_folder))


def _read(file: Path) -> WaitingRecording:
    try:
        head, _, body = file.read_bytes().partition(b"\n")
        content = json.loads(head)
        about = Addition(**{f.name: content[f.name] for f in fields(Addition)})
        texts = (about.id, about.emotion, about.speaker, about.sha256)
        if not all(isinstance(text, str) for text in texts) or not about.id.startswith(_PREFIX):
            raise ValueError("it describes no recording")
        if len(body) != 2 * about.samples or not body or hashlib.sha256(body).hexdigest() != about.sha256:
            raise ValueError("its samples do not match its checksum")
        return WaitingRecording(file, about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return WaitingRecording(file, problem=f"cannot be read ({error})")


def _filed_at(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except FileNotFoundError:  # the device has taken it in meanwhile
        return 0, file.name


def count_added(entries: Iterable[VaultEntry], by: int) -> int:
    """Count the utterances that a person has added.

    Args:
        entries: of a vault.
        by: rounds done; those taken in later are left out.
    """
    return sum(entry.added and entry.recorded <= by for entry in entries)


def note_labels(vault_folder: Path, emotions: Sequence[str]) -> None:
    """Write into a vault which emotions the model tells apart.

    Args:
        vault_folder: of the device.
        emotions: in the order of their class numbers.
    """
    write_atomically(vault_folder / LABELS, json.dumps(list(emotions)))


def labels_of(vault_folder: Path) -> tuple[str, ...]:
    """Read which emotions the model tells apart, in the order of their class numbers.

    A vault without this file, of an earlier version, knows them where it holds an utterance of each.

    Args:
        vault_folder: of the device.

    Raises:
        BadInput: the file is damaged, or the emotions are not known.
    """
    file = vault_folder / LABELS
    try:
        index = Index.read(vault_folder)
        spoken = {entry.label: entry.emotion for entry in index.entries}
        labels = [spoken[label] for label in sorted(spoken)]
        if file.exists():
            labels = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("it is no list of names")
        if len(labels) != index.classes:
            raise ValueError(f"{len(labels)} of {index.classes} emotions are named")
        return tuple(labels)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{file}: does not say which labels there are ({error}); resume the run, which writes it"
        ) from error
