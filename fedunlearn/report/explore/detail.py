"""What the page shows of one run once it is opened."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedunlearn.report.explore.measures import STAGES, Stage
from fedunlearn.report.explore.overview import ExploredRun
from fedunlearn.results_schema import (
    ConfusionMatrix,
    Results,
    RocCurve,
    ShadowAttackScores,
    UtteranceGroup,
)

LOG_ODDS_EDGES: Final = tuple(-15.0 + 0.5 * number for number in range(61))
"""of the histograms of log-odds, in nats; what lies beyond is in the outer bins"""
_MOST_POINTS = 100
"""of a ROC curve"""
_LOW_END = 0.05


@dataclass(frozen=True)
class Histogram:
    """Counts of a statistic over deleted and held-out utterances.

    Attributes:
        forget: deleted utterances in each bin.
        test: held-out utterances in each bin.
    """

    forget: list[int]
    test: list[int]


@dataclass(frozen=True)
class Curve:
    """A ROC curve.

    Attributes:
        fpr: false positive rates, rising.
        tpr: true positive rates.
        auc: area below it.
        low: lower end of its 95 % interval.
        high: upper end of that.
    """

    fpr: list[float]
    tpr: list[float]
    auc: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ModelDetail:
    """One model of a run.

    Attributes:
        accuracies: on forget, retain, test and unseen utterances.
        test: confusion matrix on held-out speech, true x recognised.
        unseen: the same on unseen speakers.
        losses: histogram of the loss.
        log_odds: histogram of the log-odds; None where they are not recorded.
        roc: of the attack by loss.
        ulira: of U-LiRA; None where it was not run.
    """

    accuracies: list[float | None]
    test: ConfusionMatrix
    unseen: ConfusionMatrix
    losses: Histogram
    log_odds: Histogram | None
    roc: Curve
    ulira: Curve | None


@dataclass(frozen=True)
class SpeakerLine:
    """A speaker who stays: client, number, gender, test utterances, accuracy of each of the four models."""

    client: int | None
    speaker: int | None
    gender: str
    n: int | None
    accuracies: list[float | None]


@dataclass(frozen=True)
class UtteranceColumns:
    """A group of single utterances; see ``results_schema.UtteranceGroup``.

    Attributes:
        subset: forget, retain, test or unseen.
        request: that deleted them; None for those that are held.
        client: of the speaker; None where it is not said.
        speaker: which of the client's speakers; None where it is not said.
        places: indexes into the corpus; empty where they are not said.
        emotions: true emotions; empty where they are not said.
        log_odds: a list for each of ``measures.STAGES``.
        correct: characters 0 and 1 for each of them.
        deviations: between retrained seeds.
        total: utterances of the group, of which those here are a part.
    """

    subset: str
    request: str | None
    client: int | None
    speaker: int | None
    places: list[int]
    emotions: list[int]
    log_odds: list[list[float | None]]
    correct: list[str]
    deviations: list[float | None]
    total: int


@dataclass(frozen=True)
class RunDetail:
    """What the page shows of one run.

    Attributes:
        emotions: names of the classes.
        models: of ``measures.STAGES``, in that order; None where there is no such model.
        loss_edges: of the histograms of the loss, in nats.
        log_odds_edges: of those of the log-odds.
        speakers: who stay.
        groups: single utterances.
        rounds: [round, phase, test UAR, unseen UAR, retain accuracy, forget accuracy, requests applied].
        requests: as in results.json.
        unreachable: [round, number of unreachable clients].
        absences: [client, first round, first round after it] of those who asked.
        why_no_ulira: why U-LiRA has no numbers; empty where it has, or was not asked for.
        notes: caveats, in words.
    """

    emotions: list[str]
    models: list[ModelDetail | None]
    loss_edges: list[float]
    log_odds_edges: list[float]
    speakers: list[SpeakerLine]
    groups: list[UtteranceColumns]
    rounds: list[list[Any]]
    requests: list[dict[str, Any]]
    unreachable: list[list[int]]
    absences: list[list[int]]
    why_no_ulira: str
    notes: list[str]


def detail_of(run: ExploredRun, most: int, with_sound: Collection[int] = ()) -> RunDetail:
    """Collect what the page shows of a run.

    Args:
        run: the run.
        most: utterances beside the deleted ones that are shown one by one.
        with_sound: places of utterances that are shown in any case.
    """
    results = run.results
    groups = results.answers.groups
    edges = results.models.original.losses.edges or results.models.retrained.losses.edges
    return RunDetail(
        emotions=results.corpus.emotions,
        models=[_model(results, stage, groups) for stage in STAGES],
        loss_edges=edges,
        log_odds_edges=list(LOG_ODDS_EDGES),
        speakers=[
            SpeakerLine(s.client, s.speaker, s.gender or "", s.n, [s.accuracy(stage) for stage in STAGES])
            for s in results.fairness.speakers
        ],
        groups=[_columns(group, members) for group, members in _chosen(groups, most, with_sound)],
        rounds=[
            [
                *(entry.round, entry.phase, entry.test_uar, entry.unseen_uar, entry.retain_accuracy),
                *(entry.forget_accuracy, entry.requests),
            ]
            for entry in results.timeline
        ],
        requests=[_request(request.to_json()) for request in results.requests],
        unreachable=[list(row) for row in results.availability.unreachable],
        absences=[list(row) for row in results.availability.requesters],
        why_no_ulira=results.attacks.ulira.why or "",
        notes=[caveat.sentence for caveat in results.caveats if caveat.sentence],
    )


def _model(results: Results, stage: Stage, groups: Sequence[UtteranceGroup]) -> ModelDetail | None:
    scores = results.models[stage]
    if not scores:
        return None
    attack = scores.membership
    ulira = ShadowAttackScores.empty() if stage == "retrained" else results.attacks.ulira.stages[stage]
    sets = (scores.forget, scores.retain, scores.test, scores.unseen)
    return ModelDetail(
        accuracies=[found.accuracy for found in sets],
        test=scores.confusion.test,
        unseen=scores.confusion.unseen,
        losses=Histogram(scores.losses.forget, scores.losses.test),
        log_odds=_log_odds(stage, groups) if groups else None,
        roc=Curve(*_thinned(attack.roc), attack.auc, attack.low, attack.high),
        ulira=Curve(*_thinned(ulira.roc), ulira.auc, ulira.low, ulira.high) if ulira else None,
    )


def _log_odds(stage: Stage, groups: Sequence[UtteranceGroup]) -> Histogram:
    return Histogram(
        *(
            counts_of(
                value
                for group in groups
                if group.subset == subset
                for value in group[stage].log_odds
                if value is not None
            )
            for subset in ("forget", "test")
        )
    )


def counts_of(values: Iterable[float]) -> list[int]:
    """Count log-odds in the bins of ``LOG_ODDS_EDGES``; a bin holds its lower edge, the last one both.

    Args:
        values: in nats.
    """
    edges = np.array(LOG_ODDS_EDGES)
    inside = np.clip(np.fromiter(values, np.float64), edges[0], edges[-1])
    return [int(count) for count in np.histogram(inside, edges)[0]]


def _thinned(roc: RocCurve) -> tuple[list[float], list[float]]:
    """A curve with fewer points: all of its low end, and of the rest as many as can be drawn."""
    points = list(zip(roc.fpr, roc.tpr, strict=False))
    low = [point for point in points if point[0] <= _LOW_END]
    rest = points[len(low) :]
    step = max(1, -(-len(rest) // _MOST_POINTS))
    kept = [*low, *rest[:-1:step], *rest[-1:]]
    return [fpr for fpr, _ in kept], [tpr for _, tpr in kept]


def _chosen(
    groups: Sequence[UtteranceGroup], most: int, with_sound: Collection[int]
) -> list[tuple[UtteranceGroup, list[int]]]:
    """Each group with the utterances that are shown: all deleted ones, and of the others every k-th."""
    beside = sum(len(group.original.log_odds) for group in groups if group.subset != "forget")
    step = max(1, -(-beside // max(most, 1)))
    found, number = [], 0
    for group in groups:
        count = len(group.original.log_odds)
        if group.subset == "forget":
            found.append((group, list(range(count))))
            continue
        heard = {n for n, place in enumerate(group.places) if place in with_sound}
        members = [n for n in range(count) if (number + n) % step == 0 or n in heard]
        number += count
        if members:
            found.append((group, members))
    return found


def _columns(group: UtteranceGroup, members: Sequence[int]) -> UtteranceColumns:
    answers = [group[stage] for stage in STAGES]
    return UtteranceColumns(
        subset=group.subset or "",
        request=group.request,
        client=group.client,
        speaker=group.speaker,
        places=_taken(group.places, members),
        emotions=_taken(group.emotions, members),
        log_odds=[_seen(_taken(answer.log_odds, members)) for answer in answers],
        correct=["".join(_taken(answer.correct or "", members)) for answer in answers],
        deviations=_seen(_taken(group.deviations, members)),
        total=len(group.original.log_odds),
    )


def _seen(values: Sequence[float | None]) -> list[float | None]:
    """Log-odds with as many digits as can be seen."""
    return [None if value is None else round(value, 2) for value in values]


def _taken(values: Sequence[Any], members: Sequence[int]) -> list[Any]:
    return [values[n] for n in members if n < len(values)]


_REQUEST = (
    *("id", "client", "what", "utterances", "state", "round_raised", "round_applied", "rounds_waited"),
    *("deadline", "overdue", "history", "reason_open", "steps", "stopped", "forget_accuracy"),
)


def _request(whole: dict[str, Any]) -> dict[str, Any]:
    return {key: whole[key] for key in _REQUEST if key in whole}
