"""Deletions with a date: when a client raises them, and whether they can happen at all."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.deletion.inbox import FiledRequest, matching
from fedunlearn.errors import BadInput
from fedunlearn.partition import ClientShare, Partition
from fedunlearn.seeding import rng_for, stream_key


def request_id(seed: int, client: int, event: str) -> str:
    """16 hexadecimal digits, the same in every run of this seed."""
    return f"{stream_key(seed, 'request', client, event) % 2**64:016x}"


def scheduled_requests(
    settings: DeletionSettings,
    client: int,
    speakers: Collection[str],
    rounds_done: int,
    learning_rounds: int,
    seed: int,
) -> list[FiledRequest]:
    """Everything on the schedule that this client has raised by ``rounds_done``.

    Args:
        speakers: whose speech this device holds: what one of them raises at one device is raised at all.
    """
    return [
        _wish(event, number, settings, seed)
        for number, event in enumerate(settings.schedule)
        if (event.client == client or (event.what == "speaker" and event.speaker in speakers))
        and event.raised_at(learning_rounds) <= rounds_done
    ]


def _wish(event: ScheduledDeletion, number: int, settings: DeletionSettings, seed: int) -> FiledRequest:
    name = f"schedule-{number}"
    return FiledRequest(
        id=request_id(seed, event.client, name),
        what=event.what,
        event=name,
        count=event.count,
        emotion=event.emotion,
        speaker=event.speaker,
        utterances=event.utterances,
        deadline=event.deadline or settings.deadline or None,
    )


def check_schedule(settings: DeletionSettings, partition: Partition, learning_rounds: int) -> None:
    """See that every scheduled deletion, and every burst, can happen in this partition.

    Raises:
        BadInput: one line for each that cannot: unknown client, utterance, emotion or speaker, too large a
            count, nothing left by then, or a date after learning has ended.
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
    problems += _spoken_for_twice(settings, partition, learning_rounds)
    if problems and settings.schedule == DeletionSettings().schedule:
        problems[-1] += "; this is the default schedule: set deletions.schedule=[...] to one that fits"
    if settings.burst_rate and settings.burst_clients > len(partition.clients):
        problems.append(
            f"deletions.burst_clients is {settings.burst_clients}, but there are "
            f"{len(partition.clients)} clients: lower it, or have more clients"
        )
    if problems:
        raise BadInput(problems)


def _spoken_for_twice(settings: DeletionSettings, partition: Partition, learning_rounds: int) -> list[str]:
    """Events that would find less than they ask for, because an earlier one has taken it back already."""
    problems = []
    taken: dict[int, set[str]] = defaultdict(set)
    drawn: dict[int, int] = defaultdict(int)
    dated = sorted(enumerate(settings.schedule), key=lambda e: e[1].raised_at(learning_rounds))
    for number, event in dated:
        place = f"deletions.schedule.{number}"
        if event.client >= len(partition.clients):
            continue
        train = partition.clients[event.client].train
        wish = _wish(event, number, settings, 0)
        wanted = {u.id for u in matching(wish, _meant(event, partition.clients[event.client]))}
        left = len(train) - drawn[event.client]
        # With the last training utterance the held-out ones go, too.
        if taken[event.client] >= {u.id for u in train}:
            problems.append(f"{place}: client {event.client} has taken everything back before")
        elif wanted and wanted <= taken[event.client]:
            problems.append(f"{place}: client {event.client} has taken {_named(wish)} back before")
        elif 0 < event.count <= len(train) and left < event.count:
            problems.append(
                f"{place}.count is {event.count}, but client {event.client} has {left} left by then"
            )
        drawn[event.client] += event.count
        for share in partition.clients if event.what == "speaker" else ():
            taken[share.client] |= {u.id for u in matching(wish, _meant(event, share))}
        if event.what != "some":
            taken[event.client] |= wanted
    return problems


def _meant(event: ScheduledDeletion, share: ClientShare) -> tuple[Utterance, ...]:
    """What of a client's speech a deletion chooses from."""
    return share.train if event.what == "some" else (*share.train, *share.test)


def _named(wish: FiledRequest) -> str:
    return repr(wish.emotion or wish.speaker) if wish.what != "named" else ", ".join(wish.utterances)


def random_requests(
    settings: DeletionSettings, client: int, clients: int, rounds_done: int, learning_rounds: int, seed: int
) -> list[FiledRequest]:
    """Everything that chance has this client raise by ``rounds_done``.

    Args:
        clients: how many there are; a burst is drawn from all of them.
        rounds_done: rounds done, those after learning included.
    """
    if not (settings.rate or settings.burst_rate or settings.leave_rate):
        return []
    last = min(rounds_done, learning_rounds - 1 + settings.arrive_for)
    return [
        FiledRequest(
            id=request_id(seed, client, event),
            what=what,
            event=event,
            count=settings.rate_count if what == "some" else 0,
            deadline=settings.deadline or None,
        )
        for past in range(last + 1)
        for event, what in _in_round(settings, client, clients, past, seed)
    ]


def _in_round(
    settings: DeletionSettings, client: int, clients: int, round: int, seed: int
) -> Iterator[tuple[str, str]]:
    if settings.rate and rng_for(seed, "arrival", client, round).random() < settings.rate:
        yield f"arrival-{round}", "some"
    if settings.burst_rate:
        rng = rng_for(seed, "burst", round)
        if (
            rng.random() < settings.burst_rate
            and client in rng.permutation(clients)[: settings.burst_clients]
        ):
            yield f"burst-{round}", "some"
    if settings.leave_rate and rng_for(seed, "leave", client, round).random() < settings.leave_rate:
        yield f"leave-{round}", "all"


def any_while_learning(settings: DeletionSettings, clients: int, learning_rounds: int, seed: int) -> bool:
    """Whether anybody will raise a request before the last ordinary round: the experimenter's knowledge.

    A person may still file one at any moment.
    """
    rounds_done = learning_rounds - 1
    return any(
        scheduled_requests(settings, client, (), rounds_done, learning_rounds, seed)
        or random_requests(settings, client, clients, rounds_done, learning_rounds, seed)
        for client in range(clients)
    )
