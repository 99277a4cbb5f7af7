"""The judge: counts by hand on a tiny corpus, and digests that change with whatever it was shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EMOTIONS, tiny_corpus, tiny_partition
from torch import Tensor

from fedunlearn.audio import PCM
from fedunlearn.config.model import ModelSettings
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.results_schema import ModelScores, Recognition
from fedunlearn.seeding import rng_for

PARTITION = tiny_partition()
SOUND = {u.id: u.pcm() for u in tiny_corpus().utterances}
EVERYONE = (*PARTITION.train, *PARTITION.test, *PARTITION.unseen)


def make_model(name: str = "model") -> EmotionModel:
    return build_model(ModelSettings(hidden=8), len(EMOTIONS), rng_for(1, name))


def make_judge(
    partition: Partition = PARTITION,
    sound: dict[str, PCM] = SOUND,
    emotions: Sequence[str] = EMOTIONS,
) -> Judge:
    return Judge(partition, RecordingCache(sound), emotions, make_model(), 1, 100)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return make_judge()


def measured(judge: Judge, state: Mapping[str, Tensor], forget: Sequence[str]) -> ModelScores:
    return judge.measure(judge.view(state), forget)


def known(record: Recognition) -> dict[str, Any]:
    """Without the intervals."""
    return {name: value for name, value in record.to_json().items() if not name.endswith("_interval")}


def always(probabilities: list[float]) -> dict[str, Tensor]:
    """Weights of a model that gives every utterance the same probabilities."""
    state = make_model().state_dict()
    return state | {
        "head.3.weight": torch.zeros_like(state["head.3.weight"]),
        "head.3.bias": torch.tensor(probabilities).log(),
    }


@cache
def calibrated() -> dict[str, Tensor]:
    """Random weights, features standardised so that the answers vary."""
    model = make_model("other")
    features = torch.cat([model.features_of(SOUND[u.id]) for u in EVERYONE])
    model.norm.mean.copy_(features.mean(0))
    model.norm.std.copy_(features.std(0) + 1e-3)
    return model.state_dict()


def answers(state: dict[str, Tensor], utterances: Sequence[Utterance]) -> list[tuple[int, int, float]]:
    """(emotion, answer, loss) of each, one at a time and straight from the recording."""
    model = make_model().eval()
    model.load_state_dict(state)
    rows = []
    for u in utterances:
        with torch.no_grad():
            features = model.features_of(SOUND[u.id])[None]
            logits = model.classify(features, torch.tensor([features.shape[1]]))[0].double()
        label = EMOTIONS.index(u.emotion)
        rows.append((label, int(logits.argmax()), float(logits.logsumexp(0) - logits[label])))
    return rows


def share(rows: list[tuple[int, int, float]]) -> float:
    return sum(label == answer for label, answer, _ in rows) / len(rows)


# ---- measures --------------------------------------------------------------------------------------------


def test_measures_of_a_constant_model_by_hand(judge: Judge) -> None:
    """A model that always says "sad" with probability 1/2, else 1/4 each, on 3 emotions in equal parts.

    Accuracy is the share of "sad": a third of test and unseen, so is UAR. F1 of "sad" is 2 (1/3) / (1/3 + 1)
    = 1/2, that of the others 0: macro F1 is 1/6. D_f: the 2 sad and 1 angry
    utterance of client 0; D_r: 24 - 3 = 21, of which 8 - 2 are sad. Every loss depends on the emotion alone,
    and the test set is weighted to D_f's emotions, so membership cannot be detected: .5.
    """
    train = PARTITION.clients[0].train
    forget = [u.id for u in train if u.emotion == "sad"]
    forget += [u.id for u in train if u.emotion == "angry"][:1]
    assert len(forget) == 3
    measures = measured(judge, always([0.25, 0.25, 0.5]), forget)
    third, sixth = pytest.approx(1 / 3), pytest.approx(1 / 6)
    assert known(measures.test) == {"uar": third, "accuracy": third, "macro_f1": sixth, "n": 12}
    assert known(measures.unseen) == {"uar": third, "accuracy": third, "macro_f1": sixth, "n": 9}
    assert known(measures.forget) == {"accuracy": pytest.approx(2 / 3), "n": 3}
    assert known(measures.retain) == {"accuracy": pytest.approx(6 / 21), "n": 21}
    assert measures.membership.auc == pytest.approx(0.5)
    assert measures.confusion.test == [[0, 0, 4], [0, 0, 4], [0, 0, 4]]
    # Losses: ln 2 = .69 falls into [.6, .8), ln 4 = 1.39 into [1.2, 1.4).
    assert measures.losses.edges[:2] == [0.0, 0.2]
    assert [measures.losses.forget[i] for i in (3, 6)] == [2, 1]
    assert sum(measures.losses.forget) == 3 and sum(measures.losses.test) == 12
    assert (math.log(2), math.log(4)) == pytest.approx((0.693, 1.386), abs=1e-3)


def test_measures_are_counts_over_single_recordings(judge: Judge) -> None:
    state = calibrated()
    forget = [u.id for u in PARTITION.train[::5]]
    kept = [u for u in PARTITION.train if u.id not in forget]
    measures = measured(judge, state, forget)
    test, unseen = answers(state, PARTITION.test), answers(state, PARTITION.unseen)
    gone = answers(state, PARTITION.train[::5])
    assert measures.test.accuracy == pytest.approx(share(test))
    assert measures.unseen.accuracy == pytest.approx(share(unseen))
    assert known(measures.retain) == {
        "accuracy": pytest.approx(share(answers(state, kept))),
        "n": len(kept),
    }
    assert known(measures.forget) == {"accuracy": pytest.approx(share(gone)), "n": len(gone)}
    assert len({answer for _, answer, _ in test}) > 1  # the model is not constant
    mix = {c: sum(label == c for label, _, _ in gone) / len(gone) for c in range(3)}
    per_emotion = {c: sum(label == c for label, _, _ in test) for c in range(3)}
    auc = sum(
        mix[label] / per_emotion[label] * sum(own < loss for _, _, own in gone) / len(gone)
        for label, _, loss in test
    )
    assert measures.membership.auc == pytest.approx(auc)


def test_without_a_forget_set_everything_is_retained(judge: Judge) -> None:
    measures = measured(judge, calibrated(), [])
    assert measures.retain.n == len(PARTITION.train)
    assert known(measures.forget) == {"accuracy": None, "n": 0}
    assert {measures.membership.to_json()[key] for key in ("auc", "low", "high", "roc")} == {None}
    assert measures.forget.accuracy_interval is None


def test_without_unseen_speakers_nothing_is_known_of_them() -> None:
    partition = tiny_partition(clients=5, unseen_speakers=0)
    measures = measured(make_judge(partition), calibrated(), [])
    assert known(measures.unseen) == {"uar": None, "accuracy": None, "macro_f1": None, "n": 0}


def test_the_curve_agrees_with_the_measures(judge: Judge) -> None:
    state, forget = calibrated(), [u.id for u in PARTITION.train[::5]]
    predictions = judge.predictions(state)
    measures, point = measured(judge, state, forget), judge.curve_point(predictions)
    assert point.test_uar == measures.test.uar and point.unseen_uar == measures.unseen.uar
    assert point.train_accuracy == measured(judge, state, []).retain.accuracy
    retain, gone = judge.retain_and_forget(predictions, forget)
    assert (retain, gone) == (measures.retain.accuracy, measures.forget.accuracy)


def test_measuring_twice_gives_the_same_numbers_whatever_came_between(judge: Judge) -> None:
    forget = [u.id for u in PARTITION.train[::5]]
    first = measured(judge, calibrated(), forget)
    measured(judge, always([0.2, 0.3, 0.5]), [])
    assert measured(judge, calibrated(), forget) == first


def test_losses_beyond_the_last_bin_are_counted_in_it(judge: Judge) -> None:
    """A probability of 1e-9 is a loss of 20.7; the histogram ends at 8."""
    measures = measured(judge, always([1.0, 1e-9, 1e-9]), [])
    assert measures.losses.test[-1] == 8 and measures.losses.test[0] == 4


def test_an_utterance_that_nobody_has_is_an_error(judge: Judge) -> None:
    with pytest.raises(KeyError):
        measured(judge, calibrated(), ["nobody"])


def test_the_judge_keeps_no_recordings(judge: Judge) -> None:
    """Features and labels, but no 16-bit audio in any attribute."""
    held: list[Any] = list(vars(judge).values())
    while held:
        value = held.pop()
        if isinstance(value, dict):
            held += value.values()
        assert not (isinstance(value, np.ndarray) and value.dtype == np.int16)


# ---- digests ---------------------------------------------------------------------------------------------


def test_the_same_speech_has_the_same_digest(judge: Judge) -> None:
    ids = [u.id for u in PARTITION.clients[0].train]
    assert judge.content_of(ids) == make_judge().content_of(ids)


def test_a_digest_changes_with_selection_and_order(judge: Judge) -> None:
    ids = [u.id for u in PARTITION.clients[0].train]
    digests = {judge.content_of(i) for i in (ids, ids[::-1], ids[1:], ids[:1], [])}
    assert len(digests) == 5


def relabelled(utterance: Utterance, chosen: str) -> Utterance:
    if utterance.id != chosen:
        return utterance
    return replace(utterance, emotion="sad" if utterance.emotion == "calm" else "calm")


def with_other_label(chosen: str) -> Partition:
    shares = tuple(
        replace(
            s,
            train=tuple(relabelled(u, chosen) for u in s.train),
            test=tuple(relabelled(u, chosen) for u in s.test),
        )
        for s in PARTITION.clients
    )
    return Partition(shares, tuple(relabelled(u, chosen) for u in PARTITION.unseen))


def with_other_sample(chosen: str) -> dict[str, PCM]:
    sound = dict(SOUND)
    sound[chosen] = sound[chosen].copy()
    sound[chosen][100] ^= 1
    return sound


@pytest.mark.parametrize("whose", ["train", "test", "unseen"])
def test_a_digest_changes_with_any_sample_or_label_of_anyone(judge: Judge, whose: str) -> None:
    """Also of the test and unseen speech: what is kept by this digest holds predictions on them."""
    chosen = getattr(PARTITION, whose)[0].id
    ids = [u.id for u in PARTITION.clients[0].train]
    for other in (make_judge(sound=with_other_sample(chosen)), make_judge(with_other_label(chosen))):
        assert other.content_of(ids) != judge.content_of(ids)


def test_a_digest_changes_with_the_emotions(judge: Judge) -> None:
    ids = [u.id for u in PARTITION.clients[0].train]
    for emotions in (EMOTIONS[::-1], (*EMOTIONS, "bored")):
        model = build_model(ModelSettings(hidden=8), len(emotions), rng_for(1, "model"))
        other = Judge(PARTITION, RecordingCache(SOUND), emotions, model, 1, 100)
        assert other.content_of(ids) != judge.content_of(ids)
