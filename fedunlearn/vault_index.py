"""What a vault's index says, read without opening the vault: for asking, in no time, what a device holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedunlearn.run_folder import write_atomically

if TYPE_CHECKING:  # whoever only asks what there is does not wait for audio and models to load
    from fedunlearn.partition import Split

INDEX = "index.json"


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
    split: "Split"
    samples: int
    speaker: str = ""
    recorded: int = 0


@dataclass(frozen=True)
class Index:
    """Which generation is current, how many emotions there are, and the utterances in order."""

    generation: int
    classes: int
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """The index of the vault in this folder. Raises OSError or ValueError where it cannot be read."""
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return cls(index["generation"], index["classes"], tuple(Entry(**e) for e in index["utterances"]))

    def write(self, folder: Path, new: bool = False) -> None:
        """Switch the vault to this generation, in one rename. A ``new`` vault's index is just written."""
        utterances = [asdict(entry) for entry in self.entries]
        index = {"generation": self.generation, "classes": self.classes, "utterances": utterances}
        text = json.dumps(index)
        if new:
            (folder / INDEX).write_text(text, encoding="utf-8")
        else:
            write_atomically(folder / INDEX, text)
