"""What a vault's index says, read without opening the vault: for asking, in no time, what a device holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_index(vault_folder: Path) -> dict[str, Any]:
    """The index as it stands: "generation", "classes" and "utterances", in vault order.

    Raises:
        OSError, ValueError: there is no index, or it cannot be read.
    """
    index: dict[str, Any] = json.loads((vault_folder / INDEX).read_text(encoding="utf-8"))
    return index


def entries_in(index: dict[str, Any]) -> dict[str, Entry]:
    """id -> entry, in vault order."""
    return {e["id"]: Entry(**e) for e in index["utterances"]}
