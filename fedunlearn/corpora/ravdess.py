"""RAVDESS: ``03-01-05-02-01-01-12.wav`` (Livingstone & Russo 2018, doi 10.1371/journal.pone.0196391).

Seven fields: modality (01 audio and video, 02 video only, 03 audio only), vocal channel (01 speech, 02 song),
emotion, intensity, statement, repetition, actor (odd male, even female). Only audio-only speech is read.
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-0[12]-(0[12])-0[12]-(0[1-9]|1\d|2[0-4])")


def _parse(path: PurePosixPath) -> folder.Label | folder.Skip | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    modality, channel, emotion, statement, actor = match.groups()
    if channel == "02":
        return folder.Skip("song recordings")
    if modality != "03":
        return folder.Skip("video recordings")
    return folder.Label(
        speaker=actor,
        emotion=EMOTIONS[int(emotion) - 1],
        gender="male" if int(actor) % 2 else "female",
        text=STATEMENTS[int(statement) - 1],
    )


SCHEME = folder.Scheme(
    "ravdess", "names such as Actor_12/03-01-05-02-01-01-12.wav (audio-only speech)", EMOTIONS, _parse
)


def read(root: Path) -> Corpus:
    """Read the audio-only speech of RAVDESS under ``root``: 24 speakers, 8 emotions, 60 recordings each.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
