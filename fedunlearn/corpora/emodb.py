"""EmoDB, the Berlin database: ``03a01Wa.wav`` (Burkhardt et al. 2005, Interspeech).

Speaker, sentence, emotion (a letter of its German word: W is Wut, anger), take. Copies that sort the files
into folders by emotion are read in the same way: everything is in the name.
"""

import re
from pathlib import Path, PurePosixPath

from fedunlearn.corpora import folder
from fedunlearn.corpora.utterance import Corpus

EMOTIONS = {
    "N": "neutral",
    "F": "happiness",
    "T": "sadness",
    "W": "anger",
    "A": "fear",
    "E": "disgust",
    "L": "boredom",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
MALE = ("03", "10", "11", "12", "15")
FEMALE = ("08", "09", "13", "14", "16")
NAME = re.compile(rf"({'|'.join(MALE + FEMALE)})({'|'.join(SENTENCES)})([NFTWAEL])[a-z]?", re.IGNORECASE)


def _parse(path: PurePosixPath) -> folder.Label | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    return folder.Label(
        speaker=match[1],
        emotion=EMOTIONS[match[3].upper()],
        gender="male" if match[1] in MALE else "female",
        text=SENTENCES[match[2].lower()],
    )


SCHEME = folder.Scheme("emodb", "names such as wav/03a01Wa.wav", tuple(EMOTIONS.values()), _parse)


def read(root: Path) -> Corpus:
    """Read EmoDB under ``root``: 10 speakers, 7 emotions, 535 recordings.

    Raises:
        BadInput: there is no such folder, or none of the corpus's recordings in it.
    """
    return folder.read(root, SCHEME)
