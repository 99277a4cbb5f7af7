"""Who pays for a deletion, by hand."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from fedunlearn.evaluation.fairness import Staying, fairness
from fedunlearn.results_schema import FairnessReport

EMOTIONS = ["angry", "calm", "sad"]
A, B, C = Staying(3, 0, "female"), Staying(1, 0, "male"), Staying(3, 1, "")
ABOUT = [A, A, B, B, B, B, C, C]
LABELS = np.array([0, 1, 0, 0, 1, 1, 0, 1])


def right(*hits: int) -> npt.NDArray[np.int64]:
    """Predictions that are right where ``hits`` says 1; "sad", which nobody is, where it says 0."""
    return np.where(np.array(hits) == 1, LABELS, 2)


ORIGINAL = right(1, 1, 1, 1, 1, 0, 1, 0)
UNLEARNED = right(0, 0, 1, 1, 1, 1, 1, 0)
SEEDS = [right(1, 1, 1, 0, 0, 0, 1, 1), right(1, 0, 1, 0, 0, 0, 1, 0)]


def judged(**more: Sequence[npt.NDArray[np.int64]]) -> FairnessReport:
    found = fairness(
        ABOUT,
        {"original": [ORIGINAL], "unlearned": [UNLEARNED], "recovered": [ORIGINAL], **more},
        LABELS,
        EMOTIONS,
    )
    json.dumps(found.to_json(), allow_nan=False)
    return found


def test_every_remaining_speaker_has_a_line_with_the_mean_of_the_retrained_seeds() -> None:
    rows = judged(retrained=SEEDS).speakers
    assert [row.to_json() for row in rows] == [
        {
            "client": 1,
            "speaker": 0,
            "gender": "male",
            "n": 4,
            "original": 0.75,
            "unlearned": 1.0,
            "recovered": 0.75,
            "retrained": 0.25,
        },
        {
            "client": 3,
            "speaker": 0,
            "gender": "female",
            "n": 2,
            "original": 1.0,
            "unlearned": 0.0,
            "recovered": 1.0,
            "retrained": 0.75,
        },
        {
            "client": 3,
            "speaker": 1,
            "gender": "",
            "n": 2,
            "original": 0.5,
            "unlearned": 0.5,
            "recovered": 0.5,
            "retrained": 0.75,
        },
    ]


def test_changes_have_a_mean_a_spread_and_a_worst_that_pays() -> None:
    """Of the unlearned model +0.25, -1 and 0: mean -0.25; deviations 0.5, -0.75, 0.25: sqrt(0.875 / 3)."""
    change = judged(retrained=SEEDS).change
    assert change.unlearned.to_json() == {
        "mean": pytest.approx(-0.25),
        "std": pytest.approx((0.875 / 3) ** 0.5),
        "worst": -1.0,
        "worst_client": 3,
        "n": 3,
    }
    assert change.recovered.to_json() == {"mean": 0.0, "std": 0.0, "worst": 0.0, "worst_client": 1, "n": 3}
    assert (change.retrained.worst, change.retrained.worst_client) == (-0.5, 1)
    assert "original" not in change.to_json()


def test_emotions_that_occur_and_genders_that_are_known_have_lines() -> None:
    """Angry: 0, 2, 3, 6; calm: 1, 4, 5, 7. Nobody is sad; speaker C's gender is not known."""
    found = judged(retrained=SEEDS)
    assert [(e.emotion, e.n, e.original, e.unlearned) for e in found.emotions] == [
        ("angry", 4, 1.0, 0.75),
        ("calm", 4, 0.5, 0.5),
    ]
    assert [(g.gender, g.n, g.unlearned) for g in found.genders] == [
        ("female", 2, 0.0),
        ("male", 4, 1.0),
    ]


def test_a_model_that_is_not_there_has_no_numbers() -> None:
    found = judged()
    assert {row.retrained for row in [*found.speakers, *found.emotions]} == {None}
    assert found.change.retrained.to_json() == {
        "mean": None,
        "std": None,
        "worst": None,
        "worst_client": None,
        "n": 0,
    }


def test_where_nobody_stays_there_is_nothing_to_say() -> None:
    none = np.array([], np.int64)
    found = fairness([], {"original": [none], "unlearned": [none]}, none, EMOTIONS)
    assert (found.speakers, found.emotions, found.genders) == ([], [], [])
    assert all(
        entry.n == 0 and entry.mean is None
        for entry in (found.change.unlearned, found.change.recovered, found.change.retrained)
    )


def test_a_corpus_that_names_no_genders_has_no_lines_of_them() -> None:
    about = [Staying(0, 0, "")] * 8
    found = fairness(about, {"original": [ORIGINAL], "unlearned": [ORIGINAL]}, LABELS, EMOTIONS)
    assert found.genders == [] and len(found.speakers) == 1
