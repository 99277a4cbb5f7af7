"""Federations without messages, to compare honest unlearn updates with the guard's limits for them."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from small_run import prepared

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.replayed_rehearsals import replay_rehearsals
from fedunlearn.experiment.shadows import replay_data
from fedunlearn.experiment.timeline import Timeline, TimelineRequest, TimelineRound
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import trained_names
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import ServerOptimizer, weighted_mean
from fedunlearn.server.guard import Intervention
from fedunlearn.server.history import History
from fedunlearn.server.left_out import difference_for, keep_left_out
from fedunlearn.server.steps import StepInputs, apply_unlearn_updates, calibrate_model
from fedunlearn.training import round_lr
from fedunlearn.unlearning import METHODS

UNBOUNDED = ("puf",)
"""It ascends with no stop, so that one client's honest update goes several times as far as another's."""
METHOD_NAMES = tuple(
    name
    for name, card in METHODS.items()
    if card.sees == "forget" and not card.control and name not in UNBOUNDED
)
WHOLE = 10**6
"""utterances: all that a client has"""


class Federation:
    """A prepared run's clients and a model that they train.

    Args:
        folder: for the run. config: the experiment.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        experiment = prepared(folder / "run", config)
        self.config = config = experiment.config
        self._empty = Timeline((), (), ((),) * (config.training.rounds + 1), {})
        self.data = replay_data(config, experiment.judge, experiment.partition, self._empty)
        experiment.close()
        self.clients = ReplayedClients(self.data, config.seed)
        self.model = self.clients.model
        initial = build_model(config.model, self.data.classes, rng_for(config.seed, "initial weights"))
        self.weights = calibrate_model(self.model, initial.state_dict(), self.clients.moments())
        left_out = keep_left_out(config, self.model)
        self.history = History(trained_names(self.model), self.weights, left_out=left_out)
        self._optimizer, self._rounds = ServerOptimizer(config.training), 0

    def learn(self, rounds: int, lr: float | None = None) -> "Federation":
        """Play ordinary rounds; their learning rate is the schedule's where none is given."""
        training = self.config.training
        for _ in range(rounds):
            self._rounds += 1
            rate = round_lr(training, min(self._rounds, training.rounds)) if lr is None else lr
            when = 0, (), Phase.LEARN, self._rounds
            updates = self.clients.train(self.weights, *when, training.local.work, rate)
            for update in updates:
                self.history.remember(update, self._rounds)
            mean = weighted_mean(updates)
            self.weights = self._optimizer.apply(self.weights, mean)
            self.history.end_round(mean, self.config.training.server_lr)
        return self


class Step:
    """One unlearn step of a federation.

    Args:
        federation: with the weights to start from.
        method: of the requesters and of those that rehearse.
        requests: client -> utterances that it deletes; all where it has fewer.
        config: of the step, where it is not the federation's.
    """

    def __init__(
        self, federation: Federation, method: str, requests: dict[int, int], config: Config | None = None
    ) -> None:
        self._federation = federation
        config = config or federation.config
        chosen = config.unlearning.model_copy(update={"method": method})
        self.config = config.model_copy(update={"unlearning": chosen})
        self.forget = {}
        for client, size in requests.items():
            own = federation.data.train[client]
            drawn = rng_for(1, "forget", client).choice(len(own), min(size, len(own)), replace=False)
            self.forget[client] = tuple(own[i] for i in sorted(drawn.tolist()))
        known = [
            TimelineRequest(f"{c:016x}", c, ids, 0, 1, gone=9, withdrawn=9, closed=9)
            for c, ids in self.forget.items()
        ]
        timeline = replace(federation._empty, requests=tuple(known))
        self._data: ReplayData = replace(federation.data, config=self.config, timeline=timeline)
        self.clients = ReplayedClients(self._data, config.seed)
        self._round = TimelineRound(Phase.UNLEARN, 1, 0, tuple(range(len(known))), since=1)
        self.weights, reads = federation.weights, METHODS[method].reads_log_odds
        self._scalars = self.clients.scalars(self.weights, self._round, reads)

    @cached_property
    def updates(self) -> list[Update]:
        """What the requesters send."""
        made = (
            self.clients.unlearn(self.weights, self._round, c, ids, self._scalars, self._left_out(c))
            for c, ids in self.forget.items()
        )
        return [update for update in made if update is not None]

    def _accuracy(self, candidate: StateDict, staying: Collection[int]) -> float | None:
        if not staying:
            return None
        return self.clients.scalars(candidate, self._round, False, staying).test_accuracy

    def _left_out(self, client: int) -> StateDict | None:
        return difference_for(self.config, self._federation.history.left_out, client)

    def rehearse(self, size: int) -> list[Rehearsal]:
        """What the clients without a request report."""
        played = self._data, self.config.seed, self.clients, self._left_out
        return replay_rehearsals(*played, self.weights, self._round, self._scalars, size)

    def take(self, updates: Sequence[Update]) -> tuple[StateDict, list[Update], list[Intervention]]:
        """The next weights, the updates that joined, and what the guard did."""
        inputs = StepInputs(
            self.config,
            self.clients.model,
            self._federation.history,
            self.clients.vaults.holding(self._round),
            self.forget,
            self._accuracy,
            self.rehearse,
            1,
        )
        return apply_unlearn_updates(self.weights, updates, inputs, {c: [] for c in self.forget})
