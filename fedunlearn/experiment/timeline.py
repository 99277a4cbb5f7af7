"""What a run did, as a list of rounds that can be replayed: requests, absences, purges.

Taken from the run's own state, so that shadow federations unlearn in the same joint steps, at the same
timeline rounds, as the run did.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

from fedunlearn.config import Config
from fedunlearn.deletion.purge import held_out_of_leaving
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.messages.phase import Phase
from fedunlearn.partition import Partition, recorded_later
from fedunlearn.server.availability import Availability
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import ServerState

_NEVER = 2**62


@dataclass(frozen=True)
class TimelineRequest:
    """One request of the run, or the part of it on one device.

    Attributes:
        id: of the person's request.
        client: the device.
        utterances: training utterances that it names, as the device lists them.
        reported: timeline round in which the server learned of it; no later round trains on its utterances.
        applied: timeline round in which it joined an unlearn step; None = in no step.
        gone: timeline round in which its speech left the vault.
        withdrawn: timeline round in which it was withdrawn.
        closed: timeline round in which it was verified.
        held_out: held-out utterances that it names, and those that are deleted with them.
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
        phase: LEARN, UNLEARN or RECOVER.
        timeline_round: its number.
        rounds_done: rounds done when it begins, recovery during learning left out.
        requests: of an unlearn step, as places in the timeline's list.
        since: timeline round in which it begins; less than ``timeline_round`` where an unlearn step takes
            several rounds.
    """

    phase: Phase
    timeline_round: int
    rounds_done: int
    requests: tuple[int, ...]
    since: int


@dataclass(frozen=True)
class Timeline:
    """A run to be replayed.

    Attributes:
        requests: in the order of the devices and their request stores.
        rounds: in order.
        away: for each number of rounds done, the clients that could not be reached.
        later: utterance -> rounds done when it is recorded, of those that are not there from the start.
        departures: what the run met that a replay leaves out, one line each.
        why: one line, why there can be no shadow federations of this run; empty = there can.
    """

    requests: tuple[TimelineRequest, ...]
    rounds: tuple[TimelineRound, ...]
    away: tuple[tuple[int, ...], ...]
    later: Mapping[str, int]
    departures: tuple[str, ...] = ()
    why: str = ""

    @property
    def candidates(self) -> tuple[str, ...]:
        """All utterances that joined an unlearn step, sorted."""
        return tuple(sorted({u for r in self.requests if r.applied is not None for u in r.utterances}))

    @property
    def request_of(self) -> dict[str, str]:
        """Candidate -> the id of the request that names it."""
        taken: dict[str, str] = {}
        applied = (r for r in self.requests if r.applied is not None)
        for request in sorted(applied, key=lambda r: r.reported):
            taken = {u: request.id for u in request.utterances} | taken
        return taken

    @property
    def rounds_before_unlearning(self) -> tuple[TimelineRound, ...]:
        """The rounds before the first unlearn step; all of them where there is none."""
        return tuple(takewhile(lambda round_: round_.phase is not Phase.UNLEARN, self.rounds))

    def before_unlearning(self, learning_rounds: int) -> "Timeline":
        """Return what of the timeline decides the federation when its first unlearn step begins.

        Args:
            learning_rounds: of the experiment; the original is trained in as many.
        """
        before = self.rounds_before_unlearning
        step = self.rounds[len(before) : len(before) + 1]
        end = max((r.since for r in (*before, *step)), default=0)

        def known(request: TimelineRequest) -> TimelineRequest:
            gone = request.gone if request.gone < end else _NEVER
            withdrawn = request.withdrawn if request.withdrawn < end else _NEVER
            held_out = () if gone == _NEVER else request.held_out
            own, reported = request.utterances, request.reported
            return TimelineRequest(
                "", request.client, own, reported, gone=gone, withdrawn=withdrawn, held_out=held_out
            )

        requests = tuple(known(r) for r in self.requests if r.reported <= end)
        begin = (replace(round_, timeline_round=round_.since, requests=()) for round_ in step)
        rounds = (*before, *begin)
        return Timeline(requests, rounds, self.away[: learning_rounds + 1], self.later)

    def withheld(self, timeline_round: int) -> set[str]:
        """List utterances that a round may not train on.

        Args:
            timeline_round: of the round.
        """
        return {u for r in self.requests if r.reported < timeline_round <= r.withdrawn for u in r.utterances}

    def purged(self, timeline_round: int) -> set[str]:
        """List utterances, held-out ones too, that are in no vault any more when a round begins.

        Args:
            timeline_round: of the round.
        """
        return {u for r in self.requests if r.gone < timeline_round for u in (*r.utterances, *r.held_out)}

    def requesters(self, timeline_round: int) -> set[int]:
        """List clients with a request open at an unlearn step.

        Args:
            timeline_round: of the step.
        """
        return {
            r.client
            for r in self.requests
            if r.reported <= timeline_round <= r.closed and timeline_round < r.withdrawn
        }

    def as_dict(self, place: Mapping[str, int]) -> dict[str, Any]:
        """Write all that decides the outcome of a replay as plain data.

        Args:
            place: utterance -> a number for it.
        """

        def placed(request: TimelineRequest) -> dict[str, Any]:
            names = ("utterances", "held_out")
            numbers = {name: [place[u] for u in getattr(request, name)] for name in names}
            return {**asdict(request), **numbers}

        return {
            "requests": [placed(r) for r in self.requests],
            "rounds": [asdict(r) for r in self.rounds],
            "away": self.away,
            "later": sorted([place[u], rounds_done] for u, rounds_done in self.later.items()),
        }


def build_timeline(
    state: ServerState,
    rows: Iterable[Mapping[str, Any]],
    deletions: Mapping[RequestKey, DeletionRequest],
    partition: Partition,
    config: Config,
) -> Timeline:
    """List what a run did, to be replayed.

    Args:
        state: of a run that is over.
        rows: of the main line's rounds.
        deletions: all requests of the run, with the utterances that they name.
        partition: of the run.
        config: the experiment.
    """
    later, rows = recorded_later(partition, config.partition, config.seed), list(rows)
    since, rounds_done_at = _beginnings(rows), dict(state.rounds_done_at)
    for end, begin in since.items():  # the rounds of a procedure are numbered when the last one is done
        rounds_done_at |= {number: rounds_done_at[number] - 1 for number in range(begin + 1, end + 1)}
    requests = _with_held_out(
        [
            _make_request(state.requests[key], deletion)
            for key, deletion in deletions.items()
            if key in state.requests and state.requests[key].state is not RequestState.REFUSED
        ],
        partition,
        later,
        rounds_done_at,
    )
    rounds = tuple(
        TimelineRound(
            Phase(row["phase"]),
            row["round"],
            _rounds_done(Phase(row["phase"]), row["round"], rounds_done_at),
            _joined(row, requests),
            since[row["round"]] if row["phase"] == Phase.UNLEARN else row["round"],
        )
        for row in rows
        if row["phase"] in {Phase.LEARN, Phase.RECOVER} or (row["phase"] == Phase.UNLEARN and row["requests"])
    )
    availability = Availability(config.availability, config.seed, config.partition.client_count)
    last = max([config.training.rounds, *(r.rounds_done for r in rounds)])
    away = tuple(availability.unreachable(rounds_done) for rounds_done in range(last + 1))
    return Timeline(requests, rounds, away, later, _departures(state, config), _why_not(requests))


def _beginnings(rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Timeline round of each unlearn step -> that before the first round of its procedure.

    The rounds of a privileged baseline's procedure have rows without requests and consecutive numbers; the
    row of the step follows with the number of the last.
    """
    begins, found = dict[int, int](), dict[int, int]()
    for row in rows:
        number = row["round"]
        if row["phase"] != Phase.UNLEARN:
            continue
        if row["requests"]:
            found[number] = begins.get(number, number)
        else:
            begins[number] = begins.get(number - 1, number - 1)
    return found


def _make_request(served: TrackedRequest, deletion: DeletionRequest) -> TimelineRequest:
    first: dict[str, int] = {}
    for reached in served.history:
        first.setdefault(reached["state"], reached["round"])
    return TimelineRequest(
        served.id,
        served.client,
        deletion.utterances,
        served.round_raised,
        served.round_applied,
        gone=first.get(RequestState.PURGED, _NEVER),
        withdrawn=first.get(RequestState.WITHDRAWN, _NEVER),
        closed=first.get(RequestState.VERIFIED, _NEVER),
        held_out=deletion.held_out,
    )


def _with_held_out(
    requests: list[TimelineRequest],
    partition: Partition,
    later: Mapping[str, int],
    rounds_done_at: Mapping[int, int],
) -> tuple[TimelineRequest, ...]:
    """Add what was deleted with each: held-out speech of speakers without training speech."""
    found: dict[int, tuple[str, ...]] = {}
    for number in sorted(range(len(requests)), key=lambda n: (requests[n].gone, n)):
        request = requests[number]
        if request.gone == _NEVER:
            break
        share = partition.clients[request.client]
        gone = {u for n in found for u in (*requests[n].utterances, *found[n])}
        there = {u.id: u.speaker for u in share.train if u.id not in gone}
        named, rounds_done = (
            set(request.utterances),
            _rounds_done(Phase.UNLEARN, request.gone, rounds_done_at),
        )
        leaving = {there[u] for u in request.utterances if u in there}
        staying = {s for u, s in there.items() if u not in named and later.get(u, 0) <= rounds_done}
        own = tuple(u for u in request.held_out if u not in gone)
        held_out = {u.id: u.speaker for u in share.test if u.id not in {*gone, *own}}
        found[number] = (*own, *held_out_of_leaving(leaving, staying, held_out))
    return tuple(
        TimelineRequest(**{**vars(request), "held_out": found.get(number, ())})
        for number, request in enumerate(requests)
    )


def _rounds_done(phase: Phase, timeline_round: int, rounds_done_at: Mapping[int, int]) -> int:
    """Requests are served once the round of this number is done."""
    return (
        rounds_done_at[timeline_round] + (phase is Phase.UNLEARN) if timeline_round in rounds_done_at else 0
    )


def _joined(row: Mapping[str, Any], requests: tuple[TimelineRequest, ...]) -> tuple[int, ...]:
    ids = set(row["requests"])
    return tuple(n for n, r in enumerate(requests) if r.id in ids and r.applied == row["round"])


def _departures(state: ServerState, config: Config) -> tuple[str, ...]:
    lines = []
    counted = [f for f in state.faults if f.kind != "repeated"]
    missing = sum(f.phase in {Phase.LEARN, Phase.RECOVER, Phase.EVALUATE, Phase.GUARD} for f in counted)
    if missing:
        lines.append(f"{missing} replies of the run did not count; in the replay all do")
    if any(f.phase is Phase.UNLEARN for f in state.faults):
        lines.append("some requesters of the run had to unlearn again; in the replay each answers at once")
    if config.availability.slow > 0:
        lines.append("unlearn replies of the run may have come late; in the replay each comes at once")
    if config.partition.recordings and config.availability.offline > 0:
        lines.append("in the replay the server knows at once of every new recording")
    return tuple(lines)


def _why_not(requests: tuple[TimelineRequest, ...]) -> str:
    if not any(r.applied is not None and r.utterances for r in requests):
        return "nothing was unlearned: no request joined an unlearn step"
    return ""
