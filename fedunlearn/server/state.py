"""The state of the server: all that it keeps from one step of a run to the next, as plain data and tensors.

The server changes nothing else that lasts. Written down whole between two steps, it lets a killed run go on
from there and end as if it had not been interrupted.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.unlearning.contract import UnknownSpeakers

COSTED = (
    Phase.LEARN,
    Phase.LISTEN,
    Phase.UNLEARN,
    Phase.RECOVER,
    Phase.RETRAIN,
    Phase.COUNTERFACTUAL,
)
"""phases that costs are counted under"""

UNKNOWN_CLIENT = -1
"""the client of a fault of a node that has not introduced itself"""


class ServerStep(StrEnum):
    """What the server does next once some rounds are done: listen, serve requests, purge, train a round."""

    LISTEN = "listen"
    SERVE = "serve"
    PURGE = "purge"
    ROUND = "round"
    OVER = "over"


@dataclass(frozen=True)
class Fault:
    """One reply that did not count.

    Attributes:
        round: the timeline round.
        phase: what was being done.
        client: who replied; ``UNKNOWN_CLIENT`` = a node that has not introduced itself.
        reason: one line.
        kind: "refused" = the reply cannot be right; "failed" = the client reports a failure; "late" = it came
            too late, or never; "repeated" = its message had been answered; "dropped" = the device dropped out
            in the middle of an unlearn step.
    """

    round: int
    phase: Phase
    client: int
    reason: str
    kind: str = "refused"


@dataclass
class GlobalModel:
    """The shared model in the middle of learning, with the server optimiser's memory.

    Attributes:
        weights: the whole state.
        optimizer: of the server.
        learning_rounds: how many ordinary training rounds it has had.
    """

    weights: StateDict
    optimizer: ServerOptimizer
    learning_rounds: int = 0


@dataclass
class LateReply:
    """An unlearn reply on its way.

    Attributes:
        due: rounds done when it reaches the server; it counts if the leases of its requests still run.
        update: of the client.
        requests: which, and the attempt that it answers.
        outcome: what the client reports of its unlearning.
    """

    due: int
    update: Update
    requests: tuple[tuple[RequestKey, int], ...]
    outcome: dict[str, Any]


@dataclass(frozen=True)
class StateSnapshot:
    """What listening and waiting change of a state, as it was.

    Attributes:
        rounds_done: as of the state.
        timeline_round: as of the state.
        rounds_done_at: as of the state.
        last_report: as of the state.
        examples: as of the state.
        added: as of the state.
        additions: how many there were.
        silent_clients: as of the state.
        listening: cost of listening.
        faults: how many there were.
        requests: how many there were.
    """

    rounds_done: int
    timeline_round: int
    rounds_done_at: Mapping[int, int]
    last_report: Mapping[int, int]
    examples: Mapping[int, int]
    added: Mapping[int, int]
    additions: int
    silent_clients: frozenset[int]
    listening: PhaseCost
    faults: int
    requests: int


@dataclass
class ServerState:
    """All that the server keeps from one step to the next.

    Attributes:
        history: of the main line's training.
        model: the global model; None before the first round.
        rounds_done: rounds done, learning rounds and those after learning; what schedules count in.
        timeline_round: the current round of the timeline; recovery in the middle of learning moves it and not
            ``rounds_done``.
        step: what comes next.
        rounds_done_at: timeline round -> rounds done when it was played.
        recovery_rounds_left: recovery rounds still to be played.
        idle_rounds: rounds of listening after the last planned one, because a client is silent or a request
            is open.
        waiting_rounds: rounds after the last planned one in which requests wait for others (windows, other
            devices).
        requests: by id and client.
        silent_clients: clients that have not answered since everything that is planned has been raised, so
            that what they request is unknown.
        last_report: client -> rounds done at its last answer to a listening or a purge. What it has recorded
            since then the server does not know of, and does not ask it to train on.
        last_trained: client -> rounds done up to which its recordings have been trained on, in the main line.
        examples: client -> utterances it trains on, as far as the server knows.
        held_out: client -> utterances it holds out, as far as the server knows.
        added: client -> how many of ``examples`` a person has added to the device; only where there are any.
        additions: when the server learned of them: client, round (rounds done) and count of each.
        late_replies: unlearn replies on their way.
        unlearn_steps: what each unlearn step moved the global model by; read where reversion is removed.
        guarded: what the guard did.
        rehearsals: what was rehearsed for it.
        costs: by phase.
        faults: replies that did not count.
        deletion_requested: whether the deletion of training data has been requested.
        unknown: how much worse the model recognised the late clients' speakers before they joined learning;
            None = not measured, or not yet.
    """

    history: History
    model: GlobalModel | None = None
    rounds_done: int = 0
    timeline_round: int = 0
    step: ServerStep = ServerStep.LISTEN
    rounds_done_at: dict[int, int] = field(default_factory=dict)
    recovery_rounds_left: int = 0
    idle_rounds: int = 0
    waiting_rounds: int = 0
    requests: dict[RequestKey, TrackedRequest] = field(default_factory=dict)
    silent_clients: set[int] = field(default_factory=set)
    last_report: dict[int, int] = field(default_factory=dict)
    last_trained: dict[int, int] = field(default_factory=dict)
    examples: dict[int, int] = field(default_factory=dict)
    held_out: dict[int, int] = field(default_factory=dict)
    added: dict[int, int] = field(default_factory=dict)
    additions: list[dict[str, int]] = field(default_factory=list)
    late_replies: list[LateReply] = field(default_factory=list)
    unlearn_steps: list[StateDict] = field(default_factory=list)
    guarded: list[dict[str, Any]] = field(default_factory=list)
    rehearsals: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[Phase, PhaseCost] = field(default_factory=lambda: {phase: PhaseCost() for phase in COSTED})
    faults: list[Fault] = field(default_factory=list)
    deletion_requested: bool = False
    unknown: UnknownSpeakers | None = None

    def note_added(self, client: int, count: int) -> None:
        """Note how many of a client's utterances a person has added to the device.

        Args:
            client: whose.
            count: as the device reports it.
        """
        self.added.pop(client, None)
        if count:
            self.added[client] = count

    def next_timeline_round(self) -> None:
        """Move the timeline on by one round."""
        self.timeline_round += 1
        self.rounds_done_at[self.timeline_round] = self.rounds_done

    def snapshot(self) -> StateSnapshot:
        """Copy what listening changes, to return to if nothing is requested."""
        return StateSnapshot(
            self.rounds_done,
            self.timeline_round,
            dict(self.rounds_done_at),
            dict(self.last_report),
            dict(self.examples),
            dict(self.added),
            len(self.additions),
            frozenset(self.silent_clients),
            copy.deepcopy(self.costs[Phase.LISTEN]),
            len(self.faults),
            len(self.requests),
        )

    def restore(self, snapshot: StateSnapshot) -> None:
        """Go back to a snapshot, as if the server had not listened since.

        Args:
            snapshot: of this state; no request may have been added since.
        """
        self.rounds_done, self.timeline_round = snapshot.rounds_done, snapshot.timeline_round
        self.rounds_done_at = dict(snapshot.rounds_done_at)
        self.last_report, self.examples = dict(snapshot.last_report), dict(snapshot.examples)
        self.added = dict(snapshot.added)
        del self.additions[snapshot.additions :]
        self.silent_clients = set(snapshot.silent_clients)
        self.costs[Phase.LISTEN] = snapshot.listening
        del self.faults[snapshot.faults :]

    @property
    def open(self) -> list[TrackedRequest]:
        """Requests that the server still has something to do for."""
        return [r for r in self.requests.values() if r.unfinished]
