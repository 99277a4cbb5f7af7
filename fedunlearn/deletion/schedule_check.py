"""Checks that the scheduled deletions are possible: what the experimenter can see before a run starts."""

from collections import defaultdict

from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.deletion.inbox import FiledRequest, select_utterances
from fedunlearn.deletion.schedule import filed_request
from fedunlearn.errors import BadInput
from fedunlearn.partition import ClientShare, Partition


def check_schedule(settings: DeletionSettings, partition: Partition, learning_rounds: int) -> None:
    """Check that every scheduled deletion, and every burst, is possible with this partition.

    Args:
        settings: the schedule and the rates of random requests.
        partition: which client holds what.
        learning_rounds: rounds of learning.

    Raises:
        BadInput: one line for each that is not: unknown client, utterance, emotion or speaker, too large a
            count, nothing left by then, or a round after the end of learning.
    """
    problems = []
    for number, event in enumerate(settings.schedule):
        place = f"deletions.schedule.{number}"
        if event.client >= len(partition.clients):
            problems.append(
                f"{place}.client is {event.client}, but the clients are 0 to "
                f"{len(partition.clients) - 1}: name another one, or have more clients"
            )
            continue
        share = partition.clients[event.client]
        train, held = share.train, (*share.train, *share.test)
        if event.count > len(train):
            problems.append(
                f"{place}.count is {event.count}, but client {event.client} trains on {len(train)}"
            )
        unknown = sorted(set(event.utterances) - {u.id for u in held})
        if unknown:
            problems.append(f"{place}.utterances: client {event.client} does not hold {', '.join(unknown)}")
        if event.emotion and event.emotion not in {u.emotion for u in held}:
            problems.append(f"{place}.emotion: client {event.client} has no utterance of {event.emotion!r}")
        if event.speaker and event.speaker not in {u.speaker for u in held}:
            problems.append(f"{place}.speaker: client {event.client} has no utterance of {event.speaker!r}")
        if event.round is not None and event.round > learning_rounds:
            problems.append(
                f"{place}.round is {event.round}, but learning has {learning_rounds} rounds; "
                "use after_learning"
            )
    problems += _requested_twice(settings, partition, learning_rounds)
    if settings.burst_rate and settings.burst_clients > len(partition.clients):
        problems.append(
            f"deletions.burst_clients is {settings.burst_clients}, but there are "
            f"{len(partition.clients)} clients: lower it, or have more clients"
        )
    if problems:
        raise BadInput(problems)


def _requested_twice(settings: DeletionSettings, partition: Partition, learning_rounds: int) -> list[str]:
    """Report events that would find too little, because earlier ones have requested it already."""
    problems = []
    requested: dict[int, set[str]] = defaultdict(set)
    drawn: dict[int, int] = defaultdict(int)
    in_order = sorted(enumerate(settings.schedule), key=lambda e: e[1].raised_at(learning_rounds))
    for number, event in in_order:
        place = f"deletions.schedule.{number}"
        if event.client >= len(partition.clients):
            continue
        train = partition.clients[event.client].train
        filed = filed_request(event, number, settings, 0)
        wanted = {u.id for u in select_utterances(filed, _candidates(event, partition.clients[event.client]))}
        left = len(train) - drawn[event.client]
        # With the last training utterance the held-out ones are deleted, too.
        if requested[event.client] >= {u.id for u in train}:
            problems.append(f"{place}: client {event.client} has taken everything back before")
        elif wanted and wanted <= requested[event.client]:
            problems.append(f"{place}: client {event.client} has taken {_named(filed)} back before")
        elif 0 < event.count <= len(train) and left < event.count:
            problems.append(
                f"{place}.count is {event.count}, but client {event.client} has {left} left by then"
            )
        drawn[event.client] += event.count
        for share in partition.clients if event.what == "speaker" else ():
            requested[share.client] |= {u.id for u in select_utterances(filed, _candidates(event, share))}
        if event.what != "some":
            requested[event.client] |= wanted
    return problems


def _candidates(event: ScheduledDeletion, share: ClientShare) -> tuple[Utterance, ...]:
    """Select the utterances of a client that a deletion chooses from."""
    return share.train if event.what == "some" else (*share.train, *share.test)


def _named(filed: FiledRequest) -> str:
    return repr(filed.emotion or filed.speaker) if filed.what != "named" else ", ".join(filed.utterances)
