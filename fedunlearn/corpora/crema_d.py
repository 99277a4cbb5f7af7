"""CREMA-D: ``1001_DFA_ANG_XX.wav`` (Cao et al. 2014, doi 10.1109/TAFFC.2014.2336244).

Four fields: actor (1001 to 1091), sentence, intended emotion, level (LO, MD, HI, XX = unspecified; one file
says X).
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fearful",
    "DIS": "disgust",
}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
# From the corpus's VideoDemographics.csv, which most copies omit.
# fmt: off
FEMALE = frozenset((
    1002, 1003, 1004, 1006, 1007, 1008, 1009, 1010, 1012, 1013, 1018, 1020, 1021, 1024, 1025,
    1028, 1029, 1030, 1037, 1043, 1046, 1047, 1049, 1052, 1053, 1054, 1055, 1056, 1058, 1060,
    1061, 1063, 1072, 1073, 1074, 1075, 1076, 1078, 1079, 1082, 1084, 1089, 1091,
))
# fmt: on
NAME = re.compile(
    rf"(10[0-8]\d|109[01])_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_(?:LO|MD|HI|XX?)", re.IGNORECASE
)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None or match[1] == "1000":
        return None
    return folder.Label(
        speaker=match[1],
        emotion=EMOTIONS[match[3].upper()],
        gender="female" if int(match[1]) in FEMALE else "male",
        text=SENTENCES[match[2].upper()],
    )


SCHEME = folder.Scheme(
    "crema-d", "names such as AudioWAV/1001_DFA_ANG_XX.wav", tuple(EMOTIONS.values()), _parse
)


def read(root: Path) -> Corpus:
    """Read CREMA-D under ``root``: 91 speakers, 6 emotions, 7,442 recordings.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
