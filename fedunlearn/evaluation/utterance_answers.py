"""How each model answers single utterances, without saying which utterances were deleted.

An utterance that is listed with its place in the corpus is missing from no list, so a complete list of places
would name the deleted ones: they are what is missing. So the deleted utterances, and all others of the
speakers on the clients that asked, have no place, no speaker and no emotion, and are sorted by log-odds.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedunlearn.corpora.utterance import Corpus
from fedunlearn.evaluation.judge import View
from fedunlearn.partition import Partition
from fedunlearn.results_schema import UtteranceAnswers, UtteranceGroup, UtteranceReport
from fedunlearn.seeding import rng_for

MOST = 3000
"""utterances beside D_f that are listed; of more, a random choice"""
_DECIMALS = 3

Subset = Literal["forget", "retain", "test", "unseen"]
_Group = tuple[Subset, str | None, int | None, int | None]
"""set, request, client, speaker"""


def list_answers(
    views: Mapping[str, View],
    retrained: Sequence[View],
    corpus: Corpus,
    partition: Partition,
    deleted: Mapping[str, str],
    asking: Collection[int],
) -> UtteranceReport:
    """List the log-odds of single utterances, group by group.

    Args:
        views: of "original", "unlearned" and "recovered", in the judge's order: training, held-out and unseen
            utterances of the partition.
        retrained: views of the retrained models, at least one.
        corpus: of the run.
        partition: of the corpus.
        deleted: id of each utterance of D_f -> id of the request that deleted it.
        asking: clients with a request, whatever became of it.
    """
    everyone = (*partition.train, *partition.test, *partition.unseen)
    groups = _grouped(partition, deleted, asking)
    beside = sorted(n for group, members in groups.items() if group[0] != "forget" for n in members)
    shown = set(beside)
    if len(beside) > MOST:
        drawn = rng_for(len(beside), "listed utterances").choice(len(beside), MOST, replace=False)
        shown = {beside[n] for n in drawn}
    place = {u.id: number for number, u in enumerate(corpus.utterances)}
    log_odds = {name: view.log_odds.round(_DECIMALS) for name, view in views.items()}
    seeds = np.stack([view.log_odds for view in retrained])
    log_odds["retrained"] = seeds.mean(axis=0).round(_DECIMALS)
    deviations = seeds.std(axis=0, ddof=1).round(_DECIMALS) if len(seeds) > 1 else None
    labels = np.array([corpus.emotions.index(u.emotion) for u in everyone], np.int64)
    correct = {name: view.predicted == labels for name, view in {**views, "retrained": retrained[0]}.items()}

    def answers(name: str, members: Sequence[int]) -> UtteranceAnswers:
        right = "".join("1" if correct[name][n] else "0" for n in members)
        return UtteranceAnswers(log_odds=_finite(log_odds[name][list(members)]), correct=right)

    found = []
    for (subset, request, client, speaker), all_members in groups.items():
        members = [n for n in all_members if subset == "forget" or n in shown]
        known = speaker is not None
        if not known:
            members.sort(key=lambda n: [float(values[n]) for values in log_odds.values()])
        if members:
            found.append(
                UtteranceGroup(
                    subset=subset,
                    request=request,
                    client=client,
                    speaker=speaker,
                    places=[place[everyone[n].id] for n in members] if known else [],
                    emotions=labels[members].tolist() if known else [],
                    original=answers("original", members),
                    unlearned=answers("unlearned", members),
                    recovered=answers("recovered", members),
                    retrained=answers("retrained", members),
                    deviations=[] if deviations is None else _finite(deviations[members]),
                )
            )
    found.sort(key=lambda group: group.subset != "forget")
    return UtteranceReport(groups=found, left_out=len(beside) - len(shown))


def _grouped(
    partition: Partition, deleted: Mapping[str, str], asking: Collection[int]
) -> dict[_Group, list[int]]:
    """Group the utterances, by their numbers in the judge's order."""
    clients = {u.id: share.client for share in partition.clients for u in (*share.train, *share.test)}
    speakers: dict[int | None, set[str]] = defaultdict(set)
    for utterance in (*partition.train, *partition.test, *partition.unseen):
        speakers[clients.get(utterance.id)].add(utterance.speaker)
    numbers = {client: sorted(names) for client, names in speakers.items()}
    # A person may have further devices: all that they hold is without a name.
    private = {name for client in asking for name in numbers[client]}
    groups: dict[_Group, list[int]] = defaultdict(list)
    parts: tuple[tuple[Subset, int], ...] = (
        *(("retain", len(partition.train)), ("test", len(partition.test))),
        ("unseen", len(partition.unseen)),
    )
    subsets = [subset for subset, count in parts for _ in range(count)]
    everyone = (*partition.train, *partition.test, *partition.unseen)
    for number, (subset, utterance) in enumerate(zip(subsets, everyone, strict=True)):
        client = clients.get(utterance.id)
        if utterance.id in deleted:
            groups["forget", deleted[utterance.id], None, None].append(number)
        elif utterance.speaker in private:
            groups[subset, None, None, None].append(number)
        else:
            speaker = numbers[client].index(utterance.speaker)
            groups[subset, None, client, speaker].append(number)
    return groups


def _finite(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
