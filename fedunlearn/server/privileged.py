"""The server of an upper reference: its unlearn step asks all clients, on what they keep.

Everything else (learning, listening, requests and their states, purges, recovery) is the ordinary server's.
Each round of a reference is a round of the clock, so that requests wait for as long as it takes.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel, constants_of
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.server.aggregation import ServerOptimizer, step
from fedunlearn.server.app import Server
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients, settings
from fedunlearn.server.requests import TrackedRequest, grouped
from fedunlearn.server.state import GlobalModel, Standing
from fedunlearn.server.training_rounds import RoundResult
from fedunlearn.server.unlearn_step import Outcomes
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.privileged.contract import HistoryCard, PrivilegedCard, RoundsCard, ScratchCard

Sizes = Mapping[int, Mapping[str, float]]
"""client -> trained tensor -> L2 norm of its difference in one round"""


class PrivilegedServer(Server):
    """A server that unlearns with more than the forget set.

    Args:
        federation, config, template, observer: as of ``Server``.
        card: of the reference.
    """

    def __init__(
        self,
        federation: Clients,
        config: Config,
        template: EmotionModel,
        standing: Standing,
        observer: Callbacks,
        card: PrivilegedCard,
    ) -> None:
        super().__init__(federation, config, template, standing, observer)
        self._card = card

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        again: Callable[[GlobalModel, int], GlobalModel]
        match self._card:
            case RoundsCard() as card:
                weights, told = self.in_rounds(card, model.weights, requests)
                return GlobalModel(weights, model.optimizer, model.ordinary_rounds), told
            case HistoryCard() as card:
                again = partial(self.through_history, card)
            case ScratchCard():
                again = self.from_scratch
        name = stream_key(self._config.seed, "method", self._card.name, self.standing.timeline_round)
        with self._clients.withholding(self.standing.open):
            return again(model, name % 2**31), _left_out(grouped(requests))

    def in_rounds(
        self, card: RoundsCard, original: StateDict, requests: list[TrackedRequest]
    ) -> tuple[StateDict, Outcomes]:
        """Rounds of two halves: requesters leave their forget sets behind, then all train on what they keep.

        Where the forget sets are used, a requester that fails in one of these rounds is not asked again: its
        requests stay open. If none is left, nothing was unlearned, and the original stands.

        Returns:
            (the weights, what became of the requests of each client that forgot)
        """
        plan = card.plan(self._config.unlearning)
        standing, teacher = self.standing, original if card.teacher else None
        used = plan.forget_rounds and plan.rounds
        scalars = self.unlearn_step.scalars(original, log_odds=False) if used else ServerScalars()
        weights, told = card.start(original, self._template), _left_out(grouped(requests))
        for number in range(1, plan.rounds + 1):
            standing.next_round()
            if number <= plan.forget_rounds:
                left = [r for r in requests if r.client in told]
                weights, new = self.unlearn_step.take(
                    weights, left, scalars, "train.forget_part", teacher, plan.forget_share
                )
                told = {c: _together(told[c], outcome) for c, outcome in new.items()}
                if not told:
                    return original, told
            with self._clients.withholding(standing.open):
                came = RoundResult()
                if self._clients.clients and plan.retain_share:
                    asked = settings(round=standing.timeline_round, rounds_done=standing.rounds_done)
                    came = self.rounds.ask(
                        weights,
                        standing.timeline_round,
                        standing.rounds_done,
                        "unlearn",
                        asked,
                        "train.retain_part",
                        teacher,
                    )
                    if came.mean is not None:
                        weights = step(weights, came.mean, plan.retain_share)
            self.rounds.report(standing.timeline_round, "unlearn", weights, came, True)
        return weights, told

    def through_history(self, card: HistoryCard, model: GlobalModel, stream: int) -> GlobalModel:
        """The ordinary rounds again, from the weights that learning began with.

        Args:
            stream: seed of the clients' training streams.
        """
        chosen = self._config.unlearning
        epochs = card.epochs(chosen, self._config.training.local.epochs)
        again = GlobalModel(dict(self.standing.history.initial), ServerOptimizer(self._config.training))
        for number in card.rounds(chosen, model.ordinary_rounds):
            sizes = self.standing.history.norms_of(number)

            def calibrated(update: Update, sizes: Sizes = sizes) -> Update | None:
                if update.client not in sizes:
                    return None
                new = card.calibrate(update.difference, sizes[update.client])
                return Update(update.client, update.examples, new)

            again = self._again(again, number, stream, epochs, calibrated)
        return GlobalModel(again.weights, again.optimizer, model.ordinary_rounds)

    def from_scratch(self, model: GlobalModel, stream: int) -> GlobalModel:
        """As many ordinary rounds as the model has had, from new random weights and the same constants.

        The normalisation constants stay those of learning: no device sends its moments twice.

        Args:
            stream: seed of the weights and of the clients' training streams.
        """
        rng = rng_for(stream, "initial weights")
        fresh = build_model(self._config.model, self._template.classes, rng).state_dict()
        again = GlobalModel({**fresh, **constants_of(model.weights)}, ServerOptimizer(self._config.training))
        epochs = self._config.training.local.epochs
        for number in range(1, model.ordinary_rounds + 1):
            again = self._again(again, number, stream, epochs, lambda update: update)
        return GlobalModel(again.weights, again.optimizer, model.ordinary_rounds)

    def _again(
        self,
        model: GlobalModel,
        number: int,
        stream: int,
        epochs: int,
        counted: Callable[[Update], Update | None],
    ) -> GlobalModel:
        """One ordinary round; nothing where nobody keeps any speech.

        Args:
            counted: an update as it counts; None = it does not.
        """
        if not self._clients.clients:
            return model
        standing = self.standing
        standing.next_round()
        again, came = self.rounds.ordinary(
            model, stream, standing.timeline_round, "unlearn", number, epochs, counted
        )
        self.rounds.report(standing.timeline_round, "unlearn", again.weights, came, True)
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
