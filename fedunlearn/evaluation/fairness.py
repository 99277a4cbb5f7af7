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
BooleanMask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Staying:
    """Whose test utterance it is, of those whose speech the federation keeps.

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
    """Compare accuracy by remaining speaker, emotion and gender between the original and the other models.

    A speaker's change is its test accuracy minus the original's. The mean change hides that one speaker may
    pay for all, so the standard deviation (over speakers, divided by n) and the worst change are given, too.
    With a dozen test utterances a speaker, one utterance changes its accuracy by eight points: compare with
    the change of the retrained model.

    Args:
        about: whose each test utterance is: [n], of those who stay.
        predictions: model -> predicted classes, [n], one array a seed; the mean over seeds counts. A model
            that is missing has None everywhere.
        labels: the true classes, [n].
        emotions: the class order.

    Returns:
        accuracy of each model by speaker, by emotion that occurs (recall) and by known gender, and the change
        over speakers.
    """
    speakers = list(dict.fromkeys(sorted(about, key=lambda s: (s.client, s.speaker))))
    whose = np.array([speakers.index(s) for s in about], np.int64)
    genders = np.array([s.gender for s in about], object)

    def shares(mask: BooleanMask) -> _Shares:
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


def _mean_accuracy(seeds: Iterable[Labels], labels: Labels, mask: BooleanMask) -> float | None:
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
