"""Who pays for a deletion: accuracy of the speakers who stay, one by one, by emotion and by gender."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from fedunlearn.evaluation.intervals import Labels
from fedunlearn.evaluation.metrics import accuracy
from fedunlearn.results_schema import (
    AccuracyChange,
    AccuracyChanges,
    EmotionScores,
    FairnessReport,
    GenderScores,
    SpeakerScores,
)

MODELS = ("original", "unlearned", "recovered", "retrained")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Staying:
    """Whose test utterance it is, of those who did not ask for anything.

    Attributes:
        client: the device.
        speaker: which of the client's, from 0; no name.
        gender: "female", "male" or "" (unknown).
    """

    client: int
    speaker: int
    gender: str


def fairness(
    about: Sequence[Staying],
    predictions: Mapping[str, Sequence[Labels]],
    labels: Labels,
    emotions: Sequence[str],
) -> FairnessReport:
    """What each remaining speaker, emotion and gender had of the original, and has now.

    A speaker's change is its test accuracy minus the original's; the mean change hides that one speaker may
    pay for all, so the spread (over the speakers, divided by n) and the worst stand beside it. Where a
    speaker has a dozen test utterances, one moves its change by eight points: read it beside the retrained
    model's.

    Args:
        about: whose each test utterance is: [n], of those who stay.
        predictions: model -> the class it gives each, [n], once a seed; a model of several seeds counts with
            the mean of its seeds. A model that is missing has null everywhere.
        labels: [n].
        emotions: the class order.

    Returns:
        results.json ``fairness``: ``speakers``, ``emotions`` (those that occur) and ``genders`` (those known)
        with accuracy (of an emotion: recall) per model, each with its number of utterances n; ``change``
        with mean, standard deviation, worst and whose it is, over n speakers. null where there is nobody.
    """
    speakers = list(dict.fromkeys(sorted(about, key=lambda s: (s.client, s.speaker))))
    whose = np.array([speakers.index(s) for s in about], np.int64)
    genders = np.array([s.gender for s in about], object)

    def shares(mask: Mask) -> _Shares:
        original, unlearned, recovered, retrained = (
            _mean_accuracy(predictions.get(name, ()), labels, mask) for name in MODELS
        )
        return {
            "n": int(mask.sum()),
            "original": original,
            "unlearned": unlearned,
            "recovered": recovered,
            "retrained": retrained,
        }

    by_speaker = [
        SpeakerScores(client=s.client, speaker=s.speaker, gender=s.gender, **shares(whose == i))
        for i, s in enumerate(speakers)
    ]
    return FairnessReport(
        speakers=by_speaker,
        emotions=[
            EmotionScores(emotion=name, **shares(labels == c))
            for c, name in enumerate(emotions)
            if (labels == c).any()
        ],
        genders=[
            GenderScores(gender=g, **shares(genders == g)) for g in sorted(set(genders.tolist()) - {""})
        ],
        change=AccuracyChanges(
            unlearned=_change(by_speaker, "unlearned"),
            recovered=_change(by_speaker, "recovered"),
            retrained=_change(by_speaker, "retrained"),
        ),
    )


class _Shares(TypedDict):
    n: int
    original: float | None
    unlearned: float | None
    recovered: float | None
    retrained: float | None


def _mean_accuracy(seeds: Iterable[Labels], labels: Labels, mask: Mask) -> float | None:
    values = [accuracy(labels[mask], predicted[mask]) for predicted in seeds]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _change(speakers: Sequence[SpeakerScores], model: str) -> AccuracyChange:
    changes, clients = [], []
    for speaker in speakers:
        now, before = speaker.accuracy(model), speaker.original
        if now is not None and before is not None:
            changes.append(now - before)
            clients.append(speaker.client)
    if not changes:
        return AccuracyChange(mean=None, std=None, worst=None, worst_client=None, n=0)
    worst = int(np.argmin(changes))
    return AccuracyChange(
        mean=float(np.mean(changes)),
        std=float(np.std(changes)),
        worst=changes[worst],
        worst_client=clients[worst],
        n=len(changes),
    )
