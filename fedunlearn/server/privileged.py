"""The server of a privileged baseline: its unlearn step involves all clients, on what they keep.

Everything else (learning, listening, requests and their states, purges, recovery) is the ordinary server's.
Each round of a baseline is a timeline round, so that requests wait for as long as it takes.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.config.work import LocalWork
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import constants_of
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.server.aggregation import ServerOptimizer, step, without_directions
from fedunlearn.server.app import Server
from fedunlearn.server.clients import settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.requests import TrackedRequest, grouped
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.training_rounds import CollectionSettings, RoundResult
from fedunlearn.server.unlearn_step import Outcomes
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.privileged.contract import (
    HistoryCard,
    PrivilegedCard,
    RewindCard,
    RoundsCard,
    ScratchCard,
)

NormsOfRound = Mapping[int, Mapping[str, float]]
"""client -> trained tensor -> L2 norm of its difference in one round"""


class PrivilegedServer(Server):
    """A server that unlearns with more than the forget set.

    Args:
        context: of this server.
        card: of the privileged baseline.
    """

    def __init__(self, context: ServerContext, card: PrivilegedCard) -> None:
        super().__init__(context)
        self._template, self._card = context.template, card

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        again: Callable[[GlobalModel, int], GlobalModel]
        match self._card:
            case RoundsCard() as card:
                weights, outcomes = self.unlearn_in_rounds(card, model, requests)
                return GlobalModel(weights, model.optimizer, model.learning_rounds), outcomes
            case HistoryCard() as card:
                again = partial(self.relearn_from_history, card)
            case RewindCard():
                again = self.rewind
            case ScratchCard():
                again = self.train_from_scratch
        with self._clients.withholding(self.state.open):
            return again(model, self._stream), _left_out(grouped(requests))

    @property
    def _stream(self) -> int:
        """Seed of the clients' training streams in rounds that are trained again."""
        name = stream_key(self._config.seed, "method", self._card.name, self.state.timeline_round)
        return name % 2**31

    def unlearn_in_rounds(
        self, card: RoundsCard, model: GlobalModel, requests: list[TrackedRequest]
    ) -> tuple[StateDict, Outcomes]:
        """Play rounds of two halves: requesters unlearn their forget sets, then all train on what they keep.

        Where the forget sets are used, a requester that fails in one of these rounds is not asked again: its
        requests stay open. If none is left, nothing was unlearned, and the original stands.

        Args:
            card: of the baseline.
            model: the global model.
            requests: to be served.

        Returns:
            (the next weights, the outcome at each client that unlearned)
        """
        plan = card.plan(self._config.unlearning)
        original, state, teacher = model.weights, self.state, self._teacher(card, model)
        used = plan.forget_rounds and plan.rounds
        scalars = self.unlearn_step.request_scalars(original, log_odds=False) if used else ServerScalars()
        weights, outcomes = card.start(original, self._template), _left_out(grouped(requests))
        for number in range(1, plan.rounds + 1):
            state.next_timeline_round()
            result, forgets = RoundResult(), number <= plan.forget_rounds
            if forgets:
                others = list[StateDict]()
                if card.orthogonal:
                    result = self._retain_half(weights, teacher, partial(_copy_to, others))
                left = [r for r in requests if r.client in outcomes]
                weights, new = self.unlearn_step.take(
                    weights, left, scalars, "train.forget_part", teacher, plan.forget_share, others
                )
                outcomes = {c: _together(outcomes[c], outcome) for c, outcome in new.items()}
                if not outcomes:
                    return original, outcomes
            if plan.retain_share and not (forgets and card.orthogonal):
                counted = partial(_across, difference(weights, original)) if card.orthogonal else _as_it_is
                result = self._retain_half(weights, teacher, counted)
                if result.mean is not None:
                    weights = step(weights, result.mean, plan.retain_share)
            self.rounds.report_round(state.timeline_round, Phase.UNLEARN, weights, result, True)
        return weights, outcomes

    def _teacher(self, card: RoundsCard, model: GlobalModel) -> StateDict | None:
        if card.teacher == "retrained":
            with self._clients.withholding(self.state.open):
                return self.train_from_scratch(model, self._stream).weights
        return model.weights if card.teacher else None

    def _retain_half(
        self, weights: StateDict, teacher: StateDict | None, counted: Callable[[Update], Update | None]
    ) -> RoundResult:
        """Have all clients train on what they keep; nothing where nobody keeps any speech."""
        state = self.state
        with self._clients.withholding(state.open):
            if not self._clients.active:
                return RoundResult()
            return self.rounds.collect_updates(
                weights,
                state.timeline_round,
                state.rounds_done,
                Phase.UNLEARN,
                settings(round=state.timeline_round, rounds_done=state.rounds_done),
                CollectionSettings("train.retain_part", teacher, counted),
            )

    def rewind(self, model: GlobalModel, stream: int) -> GlobalModel:
        """Train the ordinary rounds again since the model that was kept, or all, where none is.

        Args:
            model: the global model.
            stream: seed of the clients' training streams.
        """
        history = self.state.history
        done = history.rewind_to if history.earlier else 0
        return self._train_rounds_again(history.earlier or history.initial, done, model, stream)

    def relearn_from_history(self, card: HistoryCard, model: GlobalModel, stream: int) -> GlobalModel:
        """Train the ordinary rounds again, from the weights that learning began with.

        Args:
            card: of the baseline.
            model: the global model.
            stream: seed of the clients' training streams.
        """
        chosen = self._config.unlearning
        work = card.work(chosen, self._config.training.local.work)
        again = GlobalModel(dict(self.state.history.initial), ServerOptimizer(self._config.training))
        for learning_round in card.rounds(chosen, model.learning_rounds):
            sizes = self.state.history.norms_of(learning_round)

            def calibrate(update: Update, sizes: NormsOfRound = sizes) -> Update | None:
                if update.client not in sizes:
                    return None
                new = card.calibrate(update.difference, sizes[update.client])
                return Update(update.client, update.examples, new)

            again = self._train_again(again, learning_round, stream, work, calibrate)
        return GlobalModel(again.weights, again.optimizer, model.learning_rounds)

    def train_from_scratch(self, model: GlobalModel, stream: int) -> GlobalModel:
        """Train as many ordinary rounds as the model has had, from new random weights and the same constants.

        The normalisation constants stay those of learning: no device sends its moments twice.

        Args:
            model: the global model.
            stream: seed of the weights and of the clients' training streams.
        """
        rng = rng_for(stream, "initial weights")
        fresh = build_model(self._config.model, self._template.classes, rng).state_dict()
        return self._train_rounds_again({**fresh, **constants_of(model.weights)}, 0, model, stream)

    def _train_rounds_again(
        self, start: Mapping[str, Tensor], done: int, model: GlobalModel, stream: int
    ) -> GlobalModel:
        """Train the ordinary rounds after the first ``done`` again, from these weights."""
        again, work = GlobalModel(dict(start), ServerOptimizer(self._config.training)), self._config.training
        for learning_round in range(done + 1, model.learning_rounds + 1):
            again = self._train_again(again, learning_round, stream, work.local.work, _as_it_is)
        return GlobalModel(again.weights, again.optimizer, model.learning_rounds)

    def _train_again(
        self,
        model: GlobalModel,
        learning_round: int,
        stream: int,
        work: LocalWork,
        counted: Callable[[Update], Update | None],
    ) -> GlobalModel:
        """Train one ordinary round; do nothing where no client keeps any speech.

        Args:
            counted: an update as it counts; None = it does not.
        """
        if not self._clients.active:
            return model
        self.state.next_timeline_round()
        timeline_round = self.state.timeline_round
        again, result = self.rounds.train_round(
            model, stream, timeline_round, Phase.UNLEARN, learning_round, work, counted
        )
        self.rounds.report_round(timeline_round, Phase.UNLEARN, again.weights, result, True)
        return again


def _as_it_is(update: Update) -> Update:
    return update


def _copy_to(kept: list[StateDict], update: Update) -> None:
    """Keep a copy of an update, which does not join a mean."""
    kept.append({name: value.clone() for name, value in update.difference.items()})


def _across(way: StateDict, update: Update) -> Update:
    """The update without what it moves along a way, at its old length."""
    return Update(update.client, update.examples, without_directions(update.difference, [way]))


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
