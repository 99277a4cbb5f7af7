"""The partition: complete, disjoint, in proportion, the same again."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_corpus

from fedunlearn.config.partition import PartitionSettings
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.partition import Partition, partition_corpus

EIGHT = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")


def silence() -> np.ndarray:
    return np.zeros(1, np.int16)


def corpus_of(mix: dict[str, dict[str, int]], genders: dict[str, str] | None = None) -> Corpus:
    """speaker -> emotion -> how many utterances."""
    utterances = [
        Utterance(f"{speaker}/{emotion}/{i}", speaker, emotion, silence, (genders or {}).get(speaker, ""))
        for speaker, counts in mix.items()
        for emotion, count in counts.items()
        for i in range(count)
    ]
    emotions = sorted({u.emotion for u in utterances})
    return Corpus("made", tuple(sorted(utterances, key=lambda u: u.id)), tuple(emotions))


def ravdess_like(speakers: int = 24) -> Corpus:
    """60 utterances a speaker: 4 neutral, 8 of each of 7 others; odd speakers male, even ones female."""
    mix = {f"{s:02d}": {e: 4 if e == "neutral" else 8 for e in EIGHT} for s in range(1, speakers + 1)}
    return corpus_of(mix, {s: "male" if int(s) % 2 else "female" for s in mix})


def ids(partition: Partition) -> list[str]:
    return [u.id for u in (*partition.train, *partition.test, *partition.unseen)]


def test_ravdess_speakers_train_on_48_and_hold_out_12() -> None:
    """A fifth of 60 is 12. A fifth of 8 is 1.6 and of 4 is 0.8.

    So floors give 1 for seven emotions and 0 for neutral, and the five still missing go to neutral, whose
    remainder .8 is the largest, and to four of the other seven (.6).
    """
    partition = partition_corpus(ravdess_like(), PartitionSettings(clients=20, unseen_speakers=4), seed=1)
    assert len(partition.clients) == 20
    for share in partition.clients:
        assert (len(share.train), len(share.test)) == (48, 12)
        held_out = Counter(u.emotion for u in share.test)
        assert held_out["neutral"] == 1
        assert sorted(n for e, n in held_out.items() if e != "neutral") == [1, 1, 1, 2, 2, 2, 2]
    assert len(partition.unseen) == 4 * 60


def test_unseen_speakers_are_half_men_half_women() -> None:
    for seed in range(5):
        partition = partition_corpus(ravdess_like(), PartitionSettings(clients=20, unseen_speakers=4), seed)
        assert Counter({u.speaker: u.gender for u in partition.unseen}.values()) == {"male": 2, "female": 2}
        genders = [share.train[0].gender for share in partition.clients]
        assert all(a != b for a, b in pairwise(genders))


def test_a_gender_that_runs_out_is_followed_by_the_rest_of_the_other() -> None:
    corpus = corpus_of({s: {"a": 5} for s in "abcdef"}, {s: "f" if s in "ab" else "m" for s in "abcdef"})
    genders = [
        s.train[0].gender
        for s in partition_corpus(corpus, PartitionSettings(clients=6, unseen_speakers=0), 3).clients
    ]
    assert sorted(genders[:4]) == ["f", "f", "m", "m"] and genders[4:] == ["m", "m"]


def test_a_folds_test_speakers_are_the_unseen_ones_whatever_the_seed() -> None:
    """EmoBox's fold 6 of RAVDESS: four actors are unseen, each of the other twenty is a client."""
    corpus = replace(ravdess_like(), name="ravdess")
    for seed in range(3):
        partition = partition_corpus(corpus, PartitionSettings(clients=20, fold=6), seed)
        assert {u.speaker for u in partition.unseen} == {"06", "13", "17", "22"}
        held = [{u.speaker for u in (*share.train, *share.test)} for share in partition.clients]
        assert all(len(speakers) == 1 for speakers in held)
        assert set.union(*held) == set(corpus.speakers) - {"06", "13", "17", "22"}


def test_automatic_counts_follow_the_fold() -> None:
    """The last set of CREMA-D leaves 91 - 19 = 72 speakers for 20 clients; a pair of EmoDB leaves 8 of 10."""
    actors = {str(number): {"a": 5, "b": 5} for number in range(1001, 1092)}
    crema_d = replace(corpus_of(actors), name="crema-d")
    partition = partition_corpus(crema_d, PartitionSettings(fold=5), 1)
    assert len(partition.clients) == 20 and len({u.speaker for u in partition.unseen}) == 19
    berlin = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    emodb = replace(corpus_of({s: {"a": 5, "b": 5} for s in berlin}), name="emodb")
    partition = partition_corpus(emodb, PartitionSettings(fold=2, unseen_speakers=0), 1)
    assert len(partition.clients) == 8 and {u.speaker for u in partition.unseen} == {"09", "10"}


def test_a_protocol_needs_a_fold_and_clients_enough_speakers() -> None:
    corpus = replace(ravdess_like(), name="ravdess")
    with pytest.raises(BadInput, match=r"no fold is chosen; say which with partition\.fold"):
        partition_corpus(corpus, PartitionSettings(protocol="emobox"), 1)
    with pytest.raises(BadInput, match=r"leaves 20 client speakers \(24 less 4 unseen\).*; lower clients$"):
        partition_corpus(corpus, PartitionSettings(clients=21, fold=1), 1)


def test_a_partition_depends_on_the_seed_alone() -> None:
    settings = PartitionSettings(clients=20, unseen_speakers=4)
    again = [ids(partition_corpus(ravdess_like(), settings, seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_speakers_are_assigned_in_turn_and_stay_whole() -> None:
    corpus = tiny_corpus(speakers=8)
    partition = partition_corpus(
        corpus, PartitionSettings(clients=3, unseen_speakers=1, test_fraction=0.34), 1
    )
    per_client = [{u.speaker for u in (*s.train, *s.test)} for s in partition.clients]
    assert [len(s) for s in per_client] == [3, 2, 2]
    assert len(set.union(*per_client)) == 7
    assert len({u.speaker for u in partition.unseen}) == 1


def test_the_parts_of_a_partition_are_in_client_order() -> None:
    partition = partition_corpus(tiny_corpus(), PartitionSettings(clients=4, unseen_speakers=1), 1)
    assert partition.train == tuple(u for share in partition.clients for u in share.train)
    assert partition.test == tuple(u for share in partition.clients for u in share.test)
    assert [s.client for s in partition.clients] == [0, 1, 2, 3]
    share = partition.clients[0]
    assert dict(share.splits) == {"train": share.train, "test": share.test}


@pytest.mark.parametrize(("clients", "unseen"), [(6, 0), (5, 1), (1, 5), (1, 9)])
def test_more_clients_than_speakers_is_bad_input(clients: int, unseen: int) -> None:
    settings = PartitionSettings(clients=clients, unseen_speakers=unseen)
    with pytest.raises(BadInput, match=r"lower clients or partition\.unseen_speakers") as caught:
        partition_corpus(tiny_corpus(speakers=5), settings, 1)
    assert f"leaves {max(5 - unseen, 0)} client speakers" in str(caught.value)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_client_without_training_or_test_speech_is_bad_input(fraction: float) -> None:
    corpus = corpus_of({s: {"a": 2} for s in "ab"})
    with pytest.raises(BadInput, match=r"change partition\.test_fraction"):
        partition_corpus(corpus, PartitionSettings(clients=2, unseen_speakers=0, test_fraction=fraction), 1)


def test_a_shared_speaker_is_spread_evenly_over_its_devices_and_the_next() -> None:
    """Of 60 utterances of RAVDESS, 48 are trained on: 24 on each of two devices, emotions within one."""
    settings = PartitionSettings(clients=20, unseen_speakers=4, shared_speakers=2)
    partition = partition_corpus(ravdess_like(), settings, seed=1)
    plain = partition_corpus(ravdess_like(), PartitionSettings(clients=20, unseen_speakers=4), seed=1)
    shared = {s: holders for s, holders in partition.holders.items() if len(holders) > 1}
    homes = {s: holders[0] for s, holders in plain.holders.items()}
    assert sorted(shared.values()) == [(0, 1), (1, 2)]
    assert all(homes[s] == holders[0] for s, holders in shared.items())
    # Client 0 has half of one, 1 the halves of two, 2 a half and its own speaker, the others their own.
    assert [len(c.train) for c in partition.clients[:4]] == [24, 48, 72, 48]
    assert [len(c.test) for c in partition.clients[:4]] == [6, 12, 18, 12]
    assert partition.clients[3:] == plain.clients[3:] and partition.unseen == plain.unseen
    assert sorted(ids(partition)) == sorted(ids(plain))
    for speaker, (one, other) in shared.items():
        parts = [
            Counter(u.emotion for u in partition.clients[c].train if u.speaker == speaker)
            for c in (one, other)
        ]
        assert all(abs(parts[0][e] - parts[1][e]) <= 1 for e in EIGHT)
    assert partition.devices_of(1) == dict.fromkeys(shared, 2) and partition.devices_of(3) == {}


def test_a_device_with_held_out_speech_of_a_speaker_alone_holds_it_too() -> None:
    """Of 5 utterances 2 are trained on, on two of three devices; the third has a held-out one."""
    settings = PartitionSettings(
        clients=3, unseen_speakers=0, shared_speakers=1, devices=3, test_fraction=0.6
    )
    partition = partition_corpus(corpus_of({s: {"a": 5} for s in "abc"}), settings, 1)
    (shared,) = (s for s, holders in partition.holders.items() if len(holders) > 1)
    trained_by = [c.client for c in partition.clients if shared in {u.speaker for u in c.train}]
    assert len(trained_by) == 2 and partition.holders[shared] == (0, 1, 2)
    assert [partition.devices_of(client)[shared] for client in range(3)] == [3, 3, 3]


def test_the_last_clients_speaker_goes_on_at_the_first_one() -> None:
    settings = PartitionSettings(clients=3, unseen_speakers=0, shared_speakers=3, devices=3)
    partition = partition_corpus(tiny_corpus(speakers=3), settings, 1)
    assert set(partition.holders.values()) == {(0, 1, 2)}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"shared_speakers": 6}, "partition.shared_speakers is 6, but there are 5 client speakers"),
        ({"shared_speakers": 1, "devices": 4}, "partition.devices is 4, but there are 3 clients"),
    ],
)
def test_sharing_that_cannot_be_is_bad_input(settings: dict[str, int], why: str) -> None:
    with pytest.raises(BadInput) as caught:
        partition_corpus(
            tiny_corpus(speakers=5), PartitionSettings(clients=3, unseen_speakers=0, **settings), 1
        )
    assert caught.value.problems == (f"{why}: lower it",)
    partition_corpus(tiny_corpus(speakers=5), PartitionSettings(clients=3, unseen_speakers=0, devices=9), 1)


@given(
    mix=st.lists(
        st.dictionaries(st.sampled_from(EIGHT[:4]), st.integers(1, 9), min_size=1), min_size=1, max_size=7
    ),
    genders=st.lists(st.sampled_from(["", "f", "m"]), min_size=7, max_size=7),
    clients=st.integers(1, 7),
    unseen=st.integers(0, 4),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
    shared=st.integers(0, 3),
    devices=st.integers(2, 3),
)
def test_a_partition_is_complete_disjoint_and_in_proportion(
    mix: list[dict[str, int]],
    genders: list[str],
    clients: int,
    unseen: int,
    fraction: float,
    seed: int,
    shared: int,
    devices: int,
) -> None:
    corpus = corpus_of(
        {f"s{i}": counts for i, counts in enumerate(mix)}, {f"s{i}": g for i, g in enumerate(genders)}
    )
    try:
        partition = partition_corpus(
            corpus,
            PartitionSettings(
                clients=clients,
                unseen_speakers=unseen,
                test_fraction=fraction,
                shared_speakers=shared,
                devices=devices,
            ),
            seed,
        )
    except BadInput:
        return
    assert sorted(ids(partition)) == sorted(u.id for u in corpus.utterances)
    homes: dict[str, set[int]] = {}
    for share in partition.clients:
        for u in (*share.train, *share.test):
            homes.setdefault(u.speaker, set()).add(share.client)
    assert sum(len(home) > 1 for home in homes.values()) <= shared
    assert all(len(home) <= devices for home in homes.values())
    assert not homes.keys() & {u.speaker for u in partition.unseen}
    assert len({u.speaker for u in partition.unseen}) == unseen
    held_out = Counter((u.speaker, u.emotion) for u in partition.test)
    spoken = Counter((u.speaker, u.emotion) for u in corpus.utterances)
    for speaker in homes:
        whole = sum(n for (s, _), n in spoken.items() if s == speaker)
        assert sum(n for (s, _), n in held_out.items() if s == speaker) == round(fraction * whole)
        for (s, emotion), n in spoken.items():
            if s == speaker:
                assert abs(held_out[s, emotion] - fraction * n) < 1.0
