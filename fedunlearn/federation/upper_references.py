"""The server of an upper reference: its unlearn step asks all clients, on what they keep.

Everything else (learning, listening, requests and their states, purges, recovery) is the ordinary server's.
Each round of a reference is a round of the clock, so that requests wait for as long as it takes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedunlearn.config import Config
from fedunlearn.federation.aggregation import ServerOptimizer, Update, step, weighted_mean
from fedunlearn.federation.exchange import Federation, settings
from fedunlearn.federation.requests import ServedRequest, grouped
from fedunlearn.federation.server import GlobalModel, Observer, Server
from fedunlearn.federation.transport import State
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.unlearning.upper_reference import HistoryCard, ReferenceCard, RoundsCard, ScratchCard

Told = dict[int, dict[str, Any]]
"""client -> what became of its requests"""
Sizes = Mapping[int, Mapping[str, float]]
"""client -> trained tensor -> L2 norm of its difference in one round"""


class ReferenceServer(Server):
    """A server that unlearns with more than the forget set.

    Args:
        federation, config, template, observer: as of ``Server``. card: of the reference.
    """

    def __init__(
        self,
        federation: Federation,
        config: Config,
        template: EmotionModel,
        observer: Observer,
        card: ReferenceCard,
    ) -> None:
        super().__init__(federation, config, template, observer)
        self._card = card

    def _unlearn(self, model: GlobalModel, requests: Sequence[ServedRequest]) -> GlobalModel:
        by_client = grouped(requests)
        if not by_client:
            return model
        match self._card:
            case RoundsCard() as card:
                weights, told = self.in_rounds(card, model.weights, by_client)
                model = GlobalModel(weights, model.optimizer, model.ordinary_rounds)
            case HistoryCard() as card:
                stream = stream_key(self._config.seed, "method", card.name, self.clock) % 2**31
                with self._clients.withholding(self._owed()):
                    model, told = self.through_history(card, model, stream), _left_out(by_client)
            case ScratchCard() as card:
                stream = stream_key(self._config.seed, "method", card.name, self.clock) % 2**31
                with self._clients.withholding(self._owed()):
                    model, told = self.from_scratch(model, stream), _left_out(by_client)
        self._unlearned(by_client, told)
        return model

    def in_rounds(
        self, card: RoundsCard, original: State, by_client: dict[int, list[ServedRequest]]
    ) -> tuple[State, Told]:
        """Rounds of two halves: requesters leave their forget sets behind, then all train on what they keep.

        Where the forget sets are used, a requester that fails in one of these rounds is not asked again: its
        requests stay open. If none is left, nothing was unlearned, and the original stands.

        Returns:
            (the weights, what became of the requests of each client that forgot)
        """
        plan = card.plan(self._config.unlearning)
        teacher = original if card.teacher else None
        used = plan.forget_rounds and plan.rounds
        scalars = self._scalars(original, log_odds=False) if used else ServerScalars()
        weights, told = card.start(original, self._template), _left_out(by_client)
        for number in range(1, plan.rounds + 1):
            self.clock += 1
            if number <= plan.forget_rounds:
                left = {c: by_client[c] for c in told}
                weights, new = self._step_away(
                    weights, left, scalars, "train.forget_part", teacher, plan.forget_share
                )
                told = {c: _together(told[c], outcome) for c, outcome in new.items()}
                if not told:
                    return original, told
            with self._clients.withholding(self._owed()):
                loss, refused = None, 0
                if self._clients.clients and plan.retain_share:
                    asked = settings(round=self.clock)
                    updates, loss, refused = self._round(
                        weights, self.clock, "unlearn", asked, "train.retain_part", teacher
                    )
                    weights = step(weights, weighted_mean(updates), plan.retain_share)
            self._report(self.clock, "unlearn", weights, loss, refused, True)
        return weights, told

    def through_history(self, card: HistoryCard, model: GlobalModel, stream: int) -> GlobalModel:
        """The ordinary rounds again, from the weights that learning began with.

        Args:
            stream: seed of the clients' training streams.
        """
        chosen = self._config.unlearning
        epochs = card.epochs(chosen, self._config.training.local.epochs)
        again = GlobalModel(dict(self.history.initial), ServerOptimizer(self._config.training))
        for number in card.rounds(chosen, model.ordinary_rounds):
            sizes = self.history.norms.get(number, {})

            def calibrated(update: Update, sizes: Sizes = sizes) -> Update | None:
                if update.client not in sizes:
                    return None
                new = card.calibrate(update.difference, sizes[update.client])
                return Update(update.client, update.examples, new)

            again = self._again(again, number, stream, epochs, calibrated)
        return GlobalModel(again.weights, again.optimizer, model.ordinary_rounds)

    def from_scratch(self, model: GlobalModel, stream: int) -> GlobalModel:
        """As many ordinary rounds as the model has had, from new random weights, calibration included.

        Args:
            stream: seed of the weights and of the clients' training streams.
        """
        rng = rng_for(stream, "initial weights")
        fresh = build_model(self._config.model, self._template.classes, rng).state_dict()
        again, epochs = self.start(fresh, "unlearn"), self._config.training.local.epochs
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
        self.clock += 1
        asked = self._ordinary(number, stream, epochs)
        updates, loss, refused = self._round(model.weights, self.clock, "unlearn", asked)
        counting = [c for c in map(counted, updates) if c is not None]
        mean = weighted_mean(counting) if counting else None
        weights = model.weights if mean is None else model.optimizer.apply(model.weights, mean)
        self._report(self.clock, "unlearn", weights, loss, refused, True)
        return GlobalModel(weights, model.optimizer, number)

    def _owed(self) -> list[ServedRequest]:
        """Requests whose speech may not be trained on, though vaults hold it: purges may be late."""
        return [r for r in self.requests.values() if r.unfinished]


def _left_out(clients: Iterable[int]) -> Told:
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
