"""TESS: ``OAF_back_angry.wav`` (Dupuis & Pichora-Fuller 2010): actress, word, emotion.

OAF is the older (64), YAF the younger actress (26); ps is pleasant surprise. One of the original files starts
with OA instead of OAF.
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fear",
    "disgust": "disgust",
    "ps": "pleasant surprise",
}
NAME = re.compile(rf"(OA|YA)F?_([^_]+)_({'|'.join(EMOTIONS)})", re.IGNORECASE)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    speaker, word, emotion = match[1].upper() + "F", match[2].lower(), match[3].lower()
    return folder.Label(
        speaker=speaker,
        emotion=EMOTIONS[emotion],
        gender="female",
        text=f"Say the word {word}.",
        key=f"{speaker}_{word}_{emotion}",
    )


SCHEME = folder.Scheme("tess", "names such as OAF_angry/OAF_back_angry.wav", tuple(EMOTIONS.values()), _parse)


def read(root: Path) -> Corpus:
    """Read TESS under ``root``: 2 speakers, 7 emotions, 2,800 recordings.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
