"""What a run did, as a list of rounds that can be gone through again: who was asked, who was there, who left.

Taken from the run's own standing, so that shadow federations forget in the same joint steps, at the same
rounds of the clock, as the run did.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedunlearn.config import Config
from fedunlearn.deletion.purge import held_out_of_leaving
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.partition import Partition, recorded_later
from fedunlearn.server.availability import Availability
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import Standing
from fedunlearn.unlearning import METHODS

_NEVER = 2**62


@dataclass(frozen=True)
class TimelineRequest:
    """One request of the run, or the part of it on one device.

    Attributes:
        id, client: whose.
        utterances: training utterances that must go, as the device lists them.
        heard: round of the clock; trained on in no later one.
        applied: round of the clock at which it joined an unlearn step; None = in no step.
        gone: when its speech left the vault.
        withdrawn, closed: when it was.
        held_out: utterances of this kind that it names, and those that went along.
    """

    id: str
    client: int
    utterances: tuple[str, ...]
    reported: int
    applied: int | None = None
    gone: int = _NEVER
    withdrawn: int = _NEVER
    closed: int = _NEVER
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimelineRound:
    """One row of the run's timeline.

    Attributes:
        kind: of it.
        timeline_round: its number.
        rounds_done: rounds done when it begins, recovery during learning left out.
        wishes: of an unlearn step, as places in the plan's list.
    """

    kind: Literal["learn", "unlearn", "recover"]
    timeline_round: int
    rounds_done: int
    wishes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timeline:
    """A run to be gone through again.

    Attributes:
        wishes: in the order of the devices and their books.
        rounds: in order.
        away: at each date who could not be reached.
        later: utterance -> rounds done when it is recorded, of those that are not there from the start.
        departures: what the run met that a plan cannot tell, one line each.
        why: one line, why there can be no shadow federations of this run; empty = there can.
    """

    wishes: tuple[TimelineRequest, ...]
    rounds: tuple[TimelineRound, ...]
    away: tuple[tuple[int, ...], ...]
    later: Mapping[str, int]
    departures: tuple[str, ...] = ()
    why: str = ""

    @property
    def candidates(self) -> tuple[str, ...]:
        """All utterances that joined an unlearn step, sorted."""
        return tuple(sorted({u for w in self.wishes if w.applied is not None for u in w.utterances}))

    @property
    def request_of(self) -> dict[str, str]:
        """Candidate -> the id of the request that took it back."""
        taken: dict[str, str] = {}
        for wish in sorted((w for w in self.wishes if w.applied is not None), key=lambda w: w.reported):
            taken = {u: wish.id for u in wish.utterances} | taken
        return taken

    def withheld(self, timeline_round: int) -> set[str]:
        """Utterances that a round of this number may not train on."""
        return {u for w in self.wishes if w.reported < timeline_round <= w.withdrawn for u in w.utterances}

    def purged(self, timeline_round: int) -> set[str]:
        """Utterances, held-out ones too, that are in no vault any more when this round begins."""
        return {u for w in self.wishes if w.gone < timeline_round for u in (*w.utterances, *w.held_out)}

    def asking(self, timeline_round: int) -> set[int]:
        """Clients with a request open at an unlearn step of this number."""
        return {
            w.client
            for w in self.wishes
            if w.reported <= timeline_round <= w.closed and timeline_round < w.withdrawn
        }

    def as_dict(self, place: Mapping[str, int]) -> dict[str, Any]:
        """All that decides what comes of it, as plain data. ``place``: utterance -> a number for it."""

        def placed(wish: TimelineRequest) -> dict[str, Any]:
            numbers = {name: [place[u] for u in getattr(wish, name)] for name in ("utterances", "held_out")}
            return {**asdict(wish), **numbers}

        return {
            "wishes": [placed(w) for w in self.wishes],
            "rounds": [asdict(r) for r in self.rounds],
            "away": self.away,
            "later": sorted([place[u], rounds_done] for u, rounds_done in self.later.items()),
        }


def build_timeline(
    standing: Standing, books: Mapping[RequestKey, DeletionRequest], partition: Partition, config: Config
) -> Timeline:
    """What this run did, to be gone through again.

    Args:
        standing: of a run that is over.
        books: every device's, with the utterances that requests name.
    """
    later, rounds_done_at = recorded_later(partition, config.partition, config.seed), standing.rounds_done_at
    wishes = _with_held_out(
        [
            _wish(standing.requests[key], book)
            for key, book in books.items()
            if key in standing.requests and standing.requests[key].state is not RequestState.REFUSED
        ],
        partition,
        later,
        rounds_done_at,
    )
    rounds = tuple(
        TimelineRound(
            row["phase"],
            row["round"],
            _date(row["phase"], row["round"], rounds_done_at),
            _joined(row, wishes),
        )
        for row in standing.log.rows
        if row["phase"] in {"learn", "unlearn", "recover"}
    )
    availability = Availability(config.availability, config.seed, config.partition.clients)
    last = max([config.training.rounds, *(r.rounds_done for r in rounds)])
    away = tuple(availability.unreachable(rounds_done) for rounds_done in range(last + 1))
    return Timeline(wishes, rounds, away, later, _departures(standing, config), _why_not(wishes, config))


def _wish(served: TrackedRequest, book: DeletionRequest) -> TimelineRequest:
    first: dict[str, int] = {}
    for reached in served.history:
        first.setdefault(reached["state"], reached["round"])
    return TimelineRequest(
        served.id,
        served.client,
        book.utterances,
        served.round_raised,
        served.round_applied,
        gone=first.get(RequestState.PURGED, _NEVER),
        withdrawn=first.get(RequestState.WITHDRAWN, _NEVER),
        closed=first.get(RequestState.VERIFIED, _NEVER),
        held_out=book.held_out,
    )


def _with_held_out(
    wishes: list[TimelineRequest],
    partition: Partition,
    later: Mapping[str, int],
    rounds_done_at: Mapping[int, int],
) -> tuple[TimelineRequest, ...]:
    """Adds what left with each: of whom no training speech was left there. What never left is left out."""
    found: dict[int, tuple[str, ...]] = {}
    for number in sorted(range(len(wishes)), key=lambda n: (wishes[n].gone, n)):
        wish = wishes[number]
        if wish.gone == _NEVER:
            break
        share = partition.clients[wish.client]
        gone = {u for n in found for u in (*wishes[n].utterances, *found[n])}
        there = {u.id: u.speaker for u in share.train if u.id not in gone}
        asked, rounds_done = set(wish.utterances), _date("unlearn", wish.gone, rounds_done_at)
        leaving = {there[u] for u in wish.utterances if u in there}
        staying = {s for u, s in there.items() if u not in asked and later.get(u, 0) <= rounds_done}
        named = tuple(u for u in wish.held_out if u not in gone)
        held_out = {u.id: u.speaker for u in share.test if u.id not in {*gone, *named}}
        found[number] = (*named, *held_out_of_leaving(leaving, staying, held_out))
    return tuple(
        TimelineRequest(**{**vars(wish), "held_out": found.get(number, ())})
        for number, wish in enumerate(wishes)
    )


def _date(kind: str, timeline_round: int, rounds_done_at: Mapping[int, int]) -> int:
    """Requests are served once the round of this number is done."""
    return rounds_done_at[timeline_round] + (kind == "unlearn") if timeline_round in rounds_done_at else 0


def _joined(row: Mapping[str, Any], wishes: tuple[TimelineRequest, ...]) -> tuple[int, ...]:
    if row["phase"] != "unlearn":
        return ()
    asked = set(row["requests"])
    return tuple(n for n, w in enumerate(wishes) if w.id in asked and w.applied == row["round"])


def _departures(standing: Standing, config: Config) -> tuple[str, ...]:
    lines = []
    counted = [f for f in standing.faults if f.kind != "repeated"]
    missing = sum(f.phase in {"learn", "recover", "evaluate", "guard"} for f in counted)
    if missing:
        lines.append(f"{missing} replies of the run did not count; in the replay all do")
    if any(f.phase == "unlearn" for f in standing.faults):
        lines.append("requesters of the run had to be asked again; in the replay each answers at once")
    if config.availability.slow > 0:
        lines.append("unlearn replies of the run may have come late; in the replay each comes at once")
    if config.partition.recordings and config.availability.offline > 0:
        lines.append("in the replay the server knows at once of every new recording")
    return tuple(lines)


def _why_not(wishes: tuple[TimelineRequest, ...], config: Config) -> str:
    if config.unlearning.method not in METHODS:
        return (
            f"{config.unlearning.method} is an upper reference: it unlearns in rounds of all clients on what "
            "they keep, and shadow federations follow methods that see the forget set alone"
        )
    if not any(w.applied is not None and w.utterances for w in wishes):
        return "nothing was unlearned: no request joined an unlearn step"
    return ""
