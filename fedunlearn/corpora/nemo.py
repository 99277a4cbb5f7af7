"""nEMO, Polish: ``WR0_anger_64.wav`` (Christop 2024, arXiv 2404.06292): speaker, emotion, sentence number."""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = ("neutral", "happiness", "sadness", "anger", "fear", "surprised")
# From the corpus's data.tsv.
MALE = ("KS0", "MP0", "SM0", "TP0", "WR0")
FEMALE = ("EB0", "IC0", "KD0", "MK0")
NAME = re.compile(rf"({'|'.join(MALE + FEMALE)})_({'|'.join(EMOTIONS)})_(\d{{1,2}})", re.IGNORECASE)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    speaker = match[1].upper()
    return folder.Label(
        speaker=speaker,
        emotion=match[2].lower(),
        gender="male" if speaker in MALE else "female",
        text=match[3],
    )


SCHEME = folder.Scheme("nemo", "names such as samples/WR0_anger_64.wav", EMOTIONS, _parse)


def read(root: Path) -> Corpus:
    """Read nEMO under ``root``: 9 speakers, 6 emotions, 4,481 recordings of up to 90 sentences.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
