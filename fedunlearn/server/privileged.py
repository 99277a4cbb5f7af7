"""The server of a privileged baseline: its unlearn step involves all clients, on what they keep.

Everything else (learning, listening, requests and their states, purges, recovery) is the ordinary server's.
Each round of a baseline is a timeline round, so that requests wait for as long as it takes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.config.work import LocalWork
from fedunlearn.messages.phase import Phase
from fedunlearn.server.app import Server
from fedunlearn.server.clients import settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.procedures import Counted, Procedure, procedure_stream
from fedunlearn.server.requests import TrackedRequest, grouped
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.training_rounds import CollectionSettings, RoundResult, TrainingRounds
from fedunlearn.server.unlearn_step import Outcomes, UnlearnStep
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.privileged.contract import PrivilegedCard


class PrivilegedServer(Server):
    """A server that unlearns with more than the forget set.

    Args:
        context: of this server.
        card: of the privileged baseline.
    """

    def __init__(self, context: ServerContext, card: PrivilegedCard) -> None:
        super().__init__(context)
        self._context, self._card = context, card

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        rounds = self.rounds_for(requests)
        stream = procedure_stream(self._config.seed, self._card, self.state.timeline_round)
        unlearned = self.procedure(rounds).play(self._card, model, stream)
        return model if unlearned is None else unlearned, rounds.outcomes

    def rounds_for(self, requests: Sequence[TrackedRequest]) -> "MessagedRounds":
        """Return the rounds of one procedure.

        Args:
            requests: to be served.
        """
        return MessagedRounds(self._context, self.rounds, self.unlearn_step, requests)

    def procedure(self, rounds: "MessagedRounds") -> Procedure:
        """Return the procedure that plays these rounds.

        Args:
            rounds: of this server.
        """
        context = self._context
        return Procedure(context.config, context.template, context.state.history, rounds)


class MessagedRounds:
    """The rounds of one procedure, played with messages to the clients.

    Args:
        context: of the server.
        rounds: of the server.
        unlearn_step: of the server.
        requests: to be served.

    Attributes:
        outcomes: of the clients that have unlearned; before the first forget half those of all requesters.
    """

    def __init__(
        self,
        context: ServerContext,
        rounds: TrainingRounds,
        unlearn_step: UnlearnStep,
        requests: Sequence[TrackedRequest],
    ) -> None:
        self._clients, self._state = context.clients, context.state
        self._rounds, self._unlearn_step, self._requests = rounds, unlearn_step, requests
        self.outcomes: Outcomes = _left_out(grouped(requests))
        self._scalars, self._result = ServerScalars(), RoundResult()

    def measure(self, weights: StateDict) -> None:
        """Have the clients evaluate the model (``ProcedureRounds``)."""
        self._scalars = self._unlearn_step.request_scalars(weights, log_odds=False)

    def begin(self) -> None:
        """Begin a round (``ProcedureRounds``)."""
        self._state.next_timeline_round()
        self._result = RoundResult()

    def forget_half(
        self, weights: StateDict, teacher: StateDict | None, share: float, orthogonal_to: Sequence[StateDict]
    ) -> StateDict | None:
        """Have the requesters unlearn (``ProcedureRounds``)."""
        left = [r for r in self._requests if r.client in self.outcomes]
        kind = "train.forget_part"
        weights, new = self._unlearn_step.take(
            weights, left, self._scalars, kind, teacher, share, orthogonal_to
        )
        self.outcomes = {c: _together(self.outcomes[c], outcome) for c, outcome in new.items()}
        return weights if self.outcomes else None

    def retain_half(
        self, weights: StateDict, teacher: StateDict | None, counted: Counted
    ) -> StateDict | None:
        """Train on what is kept (``ProcedureRounds``)."""
        state = self._state
        with self._clients.withholding(state.open):
            if not self._clients.active:
                self._result = RoundResult()
                return None
            self._result = self._rounds.collect_updates(
                weights,
                state.timeline_round,
                state.rounds_done,
                Phase.UNLEARN,
                settings(round=state.timeline_round, rounds_done=state.rounds_done),
                CollectionSettings("train.retain_part", teacher, counted),
            )
        return self._result.mean

    def end(self, weights: StateDict) -> None:
        """End a round (``ProcedureRounds``)."""
        self._rounds.report_round(self._state.timeline_round, Phase.UNLEARN, weights, self._result, True)

    def train_again(
        self, model: GlobalModel, learning_round: int, stream: int, work: LocalWork, counted: Counted
    ) -> GlobalModel:
        """Train an ordinary round again (``ProcedureRounds``)."""
        state = self._state
        with self._clients.withholding(state.open):
            if not self._clients.active:
                return model
            state.next_timeline_round()
            number = state.timeline_round
            again, result = self._rounds.train_round(
                model, stream, number, Phase.UNLEARN, learning_round, work, counted
            )
            self._rounds.report_round(number, Phase.UNLEARN, again.weights, result, True)
        return again


def _left_out(clients: Iterable[int]) -> Outcomes:
    """The outcome where nothing was done with the forget sets but to leave them out."""
    nothing = {
        "steps": 0,
        "stopped": "left out",
        "scalars_read": [],
        "forget_accuracy": [None, None],
        "adversarial": 0,
        "attack_success": None,
        "update_norm": None,
    }
    return {c: dict(nothing) for c in clients}


def _together(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A requester's outcome over rounds: all steps; the accuracy before the first and after the last."""
    first = before if before["update_norm"] is not None else now
    accuracy = [first["forget_accuracy"][0], now["forget_accuracy"][1]]
    return {**now, "steps": before["steps"] + now["steps"], "forget_accuracy": accuracy}
