"""Scheduled and random deletions: in which round a client raises them."""

from collections.abc import Collection, Iterator

from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.deletion.inbox import FiledRequest
from fedunlearn.seeding import rng_for, stream_key


def request_id(seed: int, client: int, event: str) -> str:
    """Make a request's id: 16 hexadecimal digits, the same in every run with this seed."""
    return f"{stream_key(seed, 'request', client, event) % 2**64:016x}"


def scheduled_requests(
    settings: DeletionSettings,
    client: int,
    speakers: Collection[str],
    rounds_done: int,
    learning_rounds: int,
    seed: int,
) -> list[FiledRequest]:
    """List the scheduled requests that this client has raised by ``rounds_done``.

    Args:
        settings: the schedule.
        client: number of the device.
        speakers: whose recordings it holds; a speaker's request is raised at all devices of the speaker.
        rounds_done: rounds done, those after learning included.
        learning_rounds: rounds of learning.
        seed: of the experiment.
    """
    return [
        filed_request(event, number, settings, seed)
        for number, event in enumerate(settings.schedule)
        if (event.client == client or (event.what == "speaker" and event.speaker in speakers))
        and event.raised_at(learning_rounds) <= rounds_done
    ]


def filed_request(
    event: ScheduledDeletion, number: int, settings: DeletionSettings, seed: int
) -> FiledRequest:
    """Turn an event of the schedule into the request that its client files.

    Args:
        event: of the schedule.
        number: its place in the schedule.
        settings: the schedule, with the default deadline.
        seed: of the experiment.
    """
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


def random_requests(
    settings: DeletionSettings, client: int, clients: int, rounds_done: int, learning_rounds: int, seed: int
) -> list[FiledRequest]:
    """List the random requests that this client has raised by ``rounds_done``.

    Args:
        settings: the rates.
        client: number of the device.
        clients: how many there are; a burst is drawn from all of them.
        rounds_done: rounds done, those after learning included.
        learning_rounds: rounds of learning.
        seed: of the experiment.
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
        for round in range(last + 1)
        for event, what in _draw_events(settings, client, clients, round, seed)
    ]


def _draw_events(
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
    """Tell whether any scheduled or random request is raised before the last round of learning.

    Only the experimenter knows this in advance; a person may still file a request at any moment.

    Args:
        settings: the schedule and the rates.
        clients: how many there are.
        learning_rounds: rounds of learning.
        seed: of the experiment.
    """
    rounds_done = learning_rounds - 1
    return any(
        scheduled_requests(settings, client, (), rounds_done, learning_rounds, seed)
        or random_requests(settings, client, clients, rounds_done, learning_rounds, seed)
        for client in range(clients)
    )
