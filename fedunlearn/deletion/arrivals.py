"""Requests that arrive at random: single clients, bursts of several, whole clients leaving.

Whether somebody asks in a round is a function of the seed, the round and the client alone, and of nothing
that happened before: any process may work it out at any time.
"""

from collections.abc import Iterator

from fedunlearn.config import DeletionSettings
from fedunlearn.deletion.inbox import Wish
from fedunlearn.deletion.schedule import last_of, request_id, scheduled_wishes
from fedunlearn.seeding import rng_for


def random_wishes(
    settings: DeletionSettings, client: int, clients: int, date: int, learning_rounds: int, seed: int
) -> list[Wish]:
    """Everything that chance has this client raise by ``date``.

    Args:
        clients: how many there are; a burst is drawn from all of them.
        date: rounds done, those after learning included.
    """
    if not (settings.rate or settings.burst_rate or settings.leave_rate):
        return []
    last = min(date, learning_rounds - 1 + settings.arrive_for)
    return [
        Wish(
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
    date = learning_rounds - 1
    return any(
        scheduled_wishes(settings, client, (), date, learning_rounds, seed)
        or random_wishes(settings, client, clients, date, learning_rounds, seed)
        for client in range(clients)
    )


def last_scheduled_round(settings: DeletionSettings, learning_rounds: int) -> int:
    """The date by which every planned deletion has been raised and random ones have ceased to arrive.

    At least the end of learning. Random requests arrive up to ``arrive_for`` rounds from there.
    """
    by_chance = settings.rate or settings.burst_rate or settings.leave_rate
    ceased = learning_rounds + settings.arrive_for - 1 if by_chance else 0
    return max(last_of(settings.schedule, learning_rounds), ceased)
