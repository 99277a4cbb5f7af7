"""The index of a vault, which can be read fast, without opening the vault."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedunlearn.files import write_atomically

if TYPE_CHECKING:  # reading an index must not load the audio and model libraries
    from fedunlearn.partition import Split

INDEX = "index.json"


@dataclass(frozen=True)
class VaultEntry:
    """One utterance, as its device knows it.

    Attributes:
        id: of the utterance.
        emotion: name of the emotion.
        label: the emotion's class number.
        split: "train" or "test".
        samples: number of samples.
        speaker: who speaks; empty = one person per device, as far as this vault knows.
        recorded: rounds done when it was recorded; 0 = there from the start.
        added: whether a person added it to the device; it is then in no corpus.
    """

    id: str
    emotion: str
    label: int
    split: "Split"
    samples: int
    speaker: str = ""
    recorded: int = 0
    added: bool = False


@dataclass(frozen=True)
class Index:
    """The content of a vault.

    Attributes:
        generation: number of the current generation of array files.
        classes: number of emotions in the corpus.
        entries: the utterances in order.
        sha256: name of an array file -> digest of its bytes; None in a vault of an earlier version, whose
            arrays cannot be checked.
    """

    generation: int
    classes: int
    entries: tuple[VaultEntry, ...]
    sha256: Mapping[str, str] | None = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read the index of the vault in this folder.

        Raises:
            OSError: it cannot be read.
            ValueError: the file is no index.
        """
        content = (folder / INDEX).read_bytes()
        try:
            index: dict[str, Any] = json.loads(content.decode("utf-8"))
            entries = tuple(VaultEntry(**e) for e in index["utterances"])
            return cls(index["generation"], index["classes"], entries, index.get("sha256"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX}: is no index of a vault; it was cut or changed") from error

    def write(self, folder: Path, new: bool = False) -> None:
        """Switch the vault to this generation, in one rename.

        Args:
            folder: of the vault.
            new: the vault is not in use yet, so that the file is just written.
        """
        utterances = [asdict(entry) for entry in self.entries]
        index = {"generation": self.generation, "classes": self.classes, "utterances": utterances}
        if self.sha256 is not None:
            index["sha256"] = dict(self.sha256)
        text = json.dumps(index)
        if new:
            (folder / INDEX).write_text(text, encoding="utf-8")
        else:
            write_atomically(folder / INDEX, text)
