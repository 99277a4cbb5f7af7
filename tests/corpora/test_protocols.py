"""The folds of published protocols: the lists themselves, and how one is found."""

from itertools import chain

import numpy as np
import pytest

from fedunlearn.corpora import crema_d, emodb, iemocap, ravdess
from fedunlearn.corpora.protocols import Protocol, find_protocol, fold_speakers, protocols
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

SPEAKERS = {
    "ravdess": {f"{actor:02d}" for actor in range(1, 25)},
    "crema-d": {str(actor) for actor in range(1001, 1092)},
    "emodb": {*emodb.MALE, *emodb.FEMALE},
    "iemocap": {f"Ses0{session}{sex}" for session in range(1, 6) for sex in "FM"},
}
EMOTIONS = {
    "ravdess": ravdess.EMOTIONS,
    "crema-d": tuple(crema_d.EMOTIONS.values()),
    "emodb": tuple(emodb.EMOTIONS.values()),
    "iemocap": tuple(dict.fromkeys(iemocap.EMOTIONS.values())),
}
NAMES = [f"{protocol.corpus}-{protocol.name}" for protocol in protocols()]


def corpus_of(name: str, speakers: set[str]) -> Corpus:
    spoken = (Utterance(s, s, "sad", lambda: np.zeros(1, np.int16)) for s in sorted(speakers))
    return Corpus(name, tuple(spoken), ("sad",))


def test_these_protocols_are_there() -> None:
    assert NAMES == ["crema-d-emo-superb", "emodb-pairs", "iemocap-emobox", "ravdess-emobox"]
    assert [len(protocol.folds) for protocol in protocols()] == [5, 5, 5, 6]


@pytest.mark.parametrize("protocol", protocols(), ids=NAMES)
def test_every_speaker_is_tested_on_once_and_the_classes_are_the_readers(protocol: Protocol) -> None:
    tested = list(chain.from_iterable(protocol.folds))
    assert len(tested) == len(set(tested))
    assert set(tested) == SPEAKERS[protocol.corpus]
    assert protocol.emotions == EMOTIONS[protocol.corpus]
    assert protocol.source


def test_emobox_leaves_20_actors_of_ravdess_to_train_on() -> None:
    assert {len(fold) for fold in find_protocol("ravdess", "emobox").folds} == {4}
    assert fold_speakers(corpus_of("ravdess", SPEAKERS["ravdess"]), "emobox", 1) == ("01", "11", "20", "21")


def test_emo_superbs_sets_of_crema_d_are_ranges() -> None:
    folds = find_protocol("crema-d", "").folds
    assert [(fold[0], fold[-1], len(fold)) for fold in folds] == [
        ("1001", "1018", 18),
        ("1019", "1036", 18),
        ("1037", "1054", 18),
        ("1055", "1072", 18),
        ("1073", "1091", 19),
    ]


def test_a_pair_of_emodb_is_a_man_and_a_woman() -> None:
    for man, woman in find_protocol("emodb", "pairs").folds:
        assert man in emodb.MALE and woman in emodb.FEMALE


@pytest.mark.parametrize(
    ("corpus", "name", "fold", "message"),
    [
        (
            "ravdess",
            "emo-superb",
            1,
            "partition.protocol = 'emo-superb' is not known for ravdess; known: emobox",
        ),
        ("ravdess", "", 7, "partition.fold is 7, but emobox has the folds 1 to 6 of ravdess"),
        ("synthetic", "", 1, "no folds are published for synthetic"),
    ],
)
def test_what_there_is_not_is_one_line(corpus: str, name: str, fold: int, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        fold_speakers(corpus_of(corpus, SPEAKERS["ravdess"]), name, fold)
    (line,) = caught.value.problems
    assert message in line


def test_test_speakers_that_the_corpus_lacks_are_named() -> None:
    with pytest.raises(BadInput) as caught:
        fold_speakers(corpus_of("ravdess", SPEAKERS["ravdess"] - {"11", "21"}), "", 1)
    (line,) = caught.value.problems
    assert "(11, 21)" in line
