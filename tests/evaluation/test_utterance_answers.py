"""Answers to single utterances: whose they are is said only where nothing follows about deleted speech."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed_answers import CORPUS, EVERYONE, PARTITION, listed

from fedunlearn.evaluation import utterance_answers
from fedunlearn.results_schema import UtteranceGroup


def lengths(group: UtteranceGroup) -> set[int]:
    stages = (group.original, group.unlearned, group.recovered, group.retrained)
    return {len(answers.log_odds) for answers in stages} | {len(group.deviations)}


def test_each_utterance_is_listed_once_with_what_each_model_answers() -> None:
    report = listed({}, set())
    places = [place for group in report.groups for place in group.places]
    assert sorted(places) == list(range(len(CORPUS.utterances))) and report.left_out == 0
    for group in report.groups:
        assert lengths(group) == {len(group.places)} == {len(group.emotions)}
        for place, emotion, before, after, reference, deviation in zip(
            group.places,
            group.emotions,
            group.original.log_odds,
            group.recovered.log_odds,
            group.retrained.log_odds,
            group.deviations,
            strict=True,
        ):
            assert CORPUS.emotions[emotion] == CORPUS.utterances[place].emotion
            number = EVERYONE.index(CORPUS.utterances[place])
            # The two retrained models are 2 nats apart: standard deviation sqrt(2), 1.414.
            assert (before, after, reference, deviation) == (number, number - 10.0, number, 1.414)
        right = [str(int(value is not None and value > 0)) for value in group.original.log_odds]
        assert group.original.correct == "".join(right)


def test_deleted_speech_is_an_index_and_numbers() -> None:
    gone = PARTITION.clients[1].train[:4]
    report = listed({u.id: "r" for u in gone}, {1})
    (forget,) = (group for group in report.groups if group.subset == "forget")
    assert report.groups[0] is forget and forget.request == "r" and lengths(forget) == {4}
    assert forget.client is None and forget.speaker is None and not forget.places and not forget.emotions
    written = forget.model_dump_json()
    assert not any(u.id in written or u.speaker in written for u in gone)


@given(
    asking=st.sets(st.integers(0, 5), min_size=1, max_size=5),
    count=st.integers(1, 6),
)
def test_what_is_missing_from_the_list_names_no_deleted_utterance(asking: set[int], count: int) -> None:
    """Of everyone on a client that asked, no place is listed at all: neither deleted nor kept."""
    deleted = {u.id: f"r{c}" for c in asking for u in PARTITION.clients[c].train[:count]}
    report = listed(deleted, asking)
    places = {place for group in report.groups for place in group.places}
    private = {u.speaker for c in asking for _, held in PARTITION.clients[c].splits for u in held}
    for place, utterance in enumerate(CORPUS.utterances):
        assert (place in places) == (utterance.speaker not in private)
    without_place = [group for group in report.groups if not group.places]
    assert all(group.client is None and group.speaker is None for group in without_place)
    assert sum(max(lengths(group)) for group in report.groups) == len(CORPUS.utterances)
    for group in without_place:
        # In the order of their log-odds, which is not that of the recordings.
        assert group.original.log_odds == sorted(group.original.log_odds, key=lambda value: value or 0.0)


def test_of_a_large_corpus_all_deleted_and_a_choice_of_the_others_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(utterance_answers, "MOST", 20)
    gone = PARTITION.clients[0].train[:5]
    report = listed({u.id: "r" for u in gone}, {0})
    counts = [max(lengths(group)) for group in report.groups]
    assert counts[0] == 5 and sum(counts[1:]) == 20
    assert report.left_out == len(CORPUS.utterances) - 25
    assert listed({u.id: "r" for u in gone}, {0}) == report
