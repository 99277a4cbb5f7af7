"""The rounds of a privileged baseline's procedure in a replayed federation."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from fedunlearn.blockwise import StateDict
from fedunlearn.client.steps import train_update
from fedunlearn.config.work import LocalWork
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.replayed_steps import HalfRound, ReplayedSteps, RequestsOfClients
from fedunlearn.experiment.timeline import TimelineRound
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import weighted_mean
from fedunlearn.server.procedures import Counted
from fedunlearn.server.state import GlobalModel
from fedunlearn.training import round_lr
from fedunlearn.unlearning import PRIVILEGED
from fedunlearn.unlearning.contract import Method, ServerScalars
from fedunlearn.unlearning.privileged.contract import RoundsCard


class ReplayedProcedureRounds:
    """Plays the rounds of one procedure.

    Args:
        data: of the run.
        stream: seed of all randomness.
        clients: of the replay.
        steps: of the replay.
        round_: of the timeline: the unlearn step.
        requests: that are served.
    """

    def __init__(
        self,
        data: ReplayData,
        stream: int,
        clients: ReplayedClients,
        steps: ReplayedSteps,
        round_: TimelineRound,
        requests: RequestsOfClients,
    ) -> None:
        self._data, self._config, self._stream = data, data.config, stream
        self._clients, self._steps, self._requests = clients, steps, requests
        self._withheld = data.timeline.withheld(round_.timeline_round)
        self._round = replace(round_, timeline_round=round_.since)
        self._scalars = ServerScalars()

    def measure(self, weights: StateDict) -> None:
        """Have the clients evaluate the model (``ProcedureRounds``)."""
        self._scalars = self._steps.scalars(weights, self._round, None, log_odds=False)

    def begin(self) -> None:
        """Begin a round (``ProcedureRounds``)."""
        self._round = replace(self._round, timeline_round=self._round.timeline_round + 1)

    def forget_half(
        self, weights: StateDict, teacher: StateDict | None, share: float, orthogonal_to: Sequence[StateDict]
    ) -> StateDict | None:
        """Have the requesters unlearn (``ProcedureRounds``)."""
        half = HalfRound(partial(self._forget_method, teacher), share, orthogonal_to)
        weights, joined = self._steps.take(weights, self._round, self._requests, self._scalars, half)
        self._requests = {client: own for client, own in self._requests.items() if client in joined}
        return weights if self._requests else None

    def _forget_method(self, teacher: StateDict | None, client: int) -> Method:
        card = self._card
        gone = self._data.timeline.purged(self._round.timeline_round)
        test = (u for u in self._data.test[client] if u not in gone)
        assert card.forget is not None
        return partial(
            card.forget,
            original=self._with_weights(teacher),
            held_out=self._clients.examples(test) if card.held_out else None,
        )

    def retain_half(
        self, weights: StateDict, teacher: StateDict | None, counted: Counted
    ) -> StateDict | None:
        """Train on what is kept (``ProcedureRounds``)."""
        card, config, updates = self._card, self._config, list[Update]()
        there = self._clients.vaults.training(self._round.rounds_done, self._withheld)
        for client, ids in there.items():
            kept, model = self._clients.examples(ids), self._clients.model
            rng = rng_for(self._stream, "retain part", client, self._round.timeline_round)
            more = config.unlearning, config.training.local, rng, self._with_weights(teacher)
            training = partial(card.retain, model, kept, *more)
            update = counted(Update(client, len(kept), train_update(model, weights, training)[0]))
            if update is not None:
                updates.append(update)
        return weighted_mean(updates) if updates else None

    def end(self, weights: StateDict) -> None:
        """End a round (``ProcedureRounds``), which nobody is told."""

    def train_again(
        self, model: GlobalModel, learning_round: int, stream: int, work: LocalWork, counted: Counted
    ) -> GlobalModel:
        """Train an ordinary round again (``ProcedureRounds``)."""
        self.begin()
        lr, done = round_lr(self._config.training, learning_round), learning_round - 1
        when = done, self._withheld, Phase.LEARN, learning_round
        updates = self._clients.train(model.weights, *when, work, lr, stream=stream)
        counting = [update for update in map(counted, updates) if update is not None]
        weights = model.weights
        if counting:
            weights = model.optimizer.apply(weights, weighted_mean(counting))
        return GlobalModel(weights, model.optimizer, learning_round)

    @property
    def _card(self) -> RoundsCard:
        card = PRIVILEGED[self._config.unlearning.method]
        assert isinstance(card, RoundsCard)
        return card

    def _with_weights(self, weights: StateDict | None) -> EmotionModel | None:
        if weights is None:
            return None
        model = copy.deepcopy(self._clients.model)
        model.load_state_dict(weights)
        return model
