"""IEMOCAP: ``Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav`` (Busso et al. 2008).

Names identify the speaker: in a dialogue recorded as Ses01F (she wore the markers) both people speak, and the
letter before the turn number says whose turn it is. Emotions are in ``dialog/EmoEvaluation/*.txt``. The usual
four classes are used: neutral, happy (with excited), sad, angry; 5,531 of 10,039 turns.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
TURN = re.compile(r"(Ses0[1-5])[FM]_(?:impro|script)\w+_([FM])(?:\d{3}|XX\d+)")
DIALOGUE = re.compile(r"Ses0[1-5][FM]_(?:impro|script)\w+")
LABEL = re.compile(r"^\[[\d.\s-]+\]\s+(Ses\w+)\s+([a-z]{3})\s", re.MULTILINE)
SPOKEN = re.compile(r"^(Ses\w+) \[[\d.-]+\]:\s*(.*?)\s*$", re.MULTILINE)


def _parse(
    labels: dict[str, str], texts: dict[str, str], path: PurePosixPath
) -> folder.Label | folder.Skip | None:
    turn = TURN.fullmatch(path.name)
    if turn is None:
        return folder.Skip("") if DIALOGUE.fullmatch(path.name) else None
    label = labels.get(path.name)
    if label is None:
        return folder.Skip("recordings without a label in dialog/EmoEvaluation")
    if label not in EMOTIONS:
        return folder.Skip("recordings of other emotions, or on which the listeners disagreed,")
    session, sex = turn.groups()
    return folder.Label(
        speaker=session + sex,
        emotion=EMOTIONS[label],
        gender="female" if sex == "F" else "male",
        text=texts.get(path.name, ""),
    )


def _lines(root: Path, place: str, line: re.Pattern[str]) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, turn, match of ``line``) for the text files directly in folders named ``place``."""
    for path in sorted(folder.files(root, (".txt",))):
        if path.parent.name == place:
            try:
                found = line.findall(path.read_text(encoding="utf-8", errors="replace"))
            except OSError as error:
                raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
            yield from ((path, turn, what) for turn, what in found)


def _labels(root: Path) -> dict[str, str]:
    """Map each turn to its label."""
    labels: dict[str, str] = {}
    for path, turn, label in _lines(root, "EmoEvaluation", LABEL):
        if labels.setdefault(turn, label) != label:
            raise BadInput(
                f"{path}: {turn} is {label!r} here and {labels[turn]!r} further up; keep one of them"
            )
    return labels


def read(root: Path) -> Corpus:
    """Read IEMOCAP under ``root``: 10 speakers, 4 emotions, 5,531 recordings.

    Raises:
        BadInput: there is no such folder, there are no label files, a turn has two labels, or none of the
            corpus's recordings is in the folder.
    """
    labels = _labels(root)
    if not labels:
        raise BadInput(
            f"{root}: no labels of iemocap: expected text files in Session1/dialog/EmoEvaluation and so on "
            "(give the folder that holds Session1 to Session5)"
        )
    return folder.read(
        root,
        folder.Scheme(
            "iemocap",
            "names such as Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
            tuple(dict.fromkeys(EMOTIONS.values())),
            partial(_parse, labels, {turn: text for _, turn, text in _lines(root, "transcriptions", SPOKEN)}),
        ),
    )
