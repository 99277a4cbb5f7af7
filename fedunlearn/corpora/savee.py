"""SAVEE: ``AudioData/DC/a01.wav``, in other copies ``DC_a01.wav`` (Haq & Jackson 2009, AVSP).

Four men (DC, JE, JK, KL); the letters before the sentence number are the emotion.
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = {
    "n": "neutral",
    "h": "happiness",
    "sa": "sadness",
    "a": "anger",
    "f": "fear",
    "d": "disgust",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
NAME = re.compile(rf"(?:({'|'.join(SPEAKERS)})_)?({'|'.join(EMOTIONS)})(\d\d)", re.IGNORECASE)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    speaker = (match[1] or path.parent.name).upper()
    if speaker not in SPEAKERS:
        return None
    emotion = match[2].lower()
    # The two ways to name a file are the same recording.
    return folder.Label(speaker, EMOTIONS[emotion], "male", key=f"{speaker}_{emotion}{match[3]}")


SCHEME = folder.Scheme(
    "savee", "names such as AudioData/DC/a01.wav or DC_a01.wav", tuple(EMOTIONS.values()), _parse
)


def read(root: Path) -> Corpus:
    """Read SAVEE under ``root``: 4 speakers, 7 emotions, 480 recordings.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
