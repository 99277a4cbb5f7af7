"""ShEMO, Persian: ``F01A01.wav`` (Mohamad Nezami et al. 2019, doi 10.1007/s10579-018-9427-x).

Gender and number identify the speaker (F01 and M01 are two people); emotion and a running number follow.
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = {
    "N": "neutral",
    "H": "happiness",
    "S": "sadness",
    "A": "anger",
    "F": "fear",
    "W": "surprise",
}
NAME = re.compile(r"([FM])(\d\d)([NHSAFW])\d{2,3}", re.IGNORECASE)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    sex = match[1].upper()
    return folder.Label(sex + match[2], EMOTIONS[match[3].upper()], "female" if sex == "F" else "male")


SCHEME = folder.Scheme("shemo", "names such as female/F01A01.wav", tuple(EMOTIONS.values()), _parse)


def read(root: Path) -> Corpus:
    """Read ShEMO under ``root``: 87 speakers, 6 emotions, 3,000 recordings.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
