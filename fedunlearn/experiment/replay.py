"""A federation gone through again in one process: a plan's rounds, with some of its utterances left out.

No messages, no vaults and no devices: a plain loop over the functions that devices and server compute with.
With the run's own seed and nothing left out it gives the run's weights bit for bit.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.blockwise import StateDict, difference
from fedunlearn.client.steps import (
    calibration_moments,
    evaluate,
    outgoing_update,
    train_in_round,
    train_update,
    unlearn_update,
)
from fedunlearn.config import Config
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.experiment.timeline import Timeline, TimelineRequest, TimelineRound
from fedunlearn.messages.scalars import Evaluation, pool_evaluations
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import trained_names
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import ServerOptimizer, weighted_mean
from fedunlearn.server.history import History
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.steps import apply_unlearn_updates, calibrated, recovered, sample_clients
from fedunlearn.training import round_lr
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed

STAGES = ("original", "unlearned", "recovered")


@dataclass(frozen=True)
class ReplayData:
    """All that a federation is made of, as arrays, so that it can be sent to another process.

    Attributes:
        config: the experiment.
        plan: what its run did.
        classes: emotions.
        train, test: of each client, in client order, the ids of what it trains on and of what it holds out.
        place: utterance -> its row in features [N, T, D], frames [N] and labels [N].
        audio: of the candidates, where the method reads waveforms; else empty.
    """

    config: Config
    plan: Timeline
    classes: int
    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    place: Mapping[str, int]
    features: npt.NDArray[np.float32]
    frames: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    audio: Mapping[str, PCM]


class Replay:
    """One federation of a world.

    Args:
        world: of the run.
        stream: seed of all its randomness.
        outside: utterances that it never sees.
    """

    def __init__(self, world: ReplayData, stream: int, outside: Collection[str] = ()) -> None:
        self._world, self._config, self._plan = world, world.config, world.plan
        self._stream, self._outside = stream, frozenset(outside)
        self.model = build_model(self._config.model, world.classes, rng_for(0, "template"))
        arrays = (world.features, world.frames, world.labels)
        self._all = Examples(*(torch.from_numpy(array) for array in arrays))
        self._kept: dict[tuple[str, ...], Examples] = {}
        self._purged = -1

    def examples(self, ids: Iterable[str]) -> Examples:
        """Features and labels of these utterances, in this order."""
        key = tuple(ids)
        if key not in self._kept:
            rows = torch.tensor([self._world.place[u] for u in key], dtype=torch.int64)
            self._kept[key] = self._all.take(rows)
        return self._kept[key]

    def play(self) -> dict[str, StateDict]:
        """Go through the plan: the weights of the original, the unlearned and the recovered model.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        plan, original, self._steps = self._plan, None, list[StateDict]()
        first = min((w.reported for w in plan.wishes if w.utterances), default=None)
        model = self._start()
        unlearned_ = None
        keeps_last = self._config.unlearning.reads_last_steps
        self._history = History(trained_names(self.model), model.weights, keeps_last=keeps_last)
        for round_ in plan.rounds:
            if original is None and first is not None and self._comes_after(round_, first):
                original = self._counterfactual_original(model)
            self._purge(round_.timeline_round, round_.rounds_done)
            match round_.kind:
                case "learn":
                    self._learn(model, round_)
                case "unlearn":
                    model.weights = unlearned_ = self._unlearn(model.weights, round_)
                case "recover":
                    model.weights = self._recover(model.weights, round_)
        if original is None:
            original = model.weights
        stages = (original, unlearned_ if unlearned_ is not None else model.weights, model.weights)
        return dict(zip(STAGES, stages, strict=True))

    # ---- the rounds ----------------------------------------------------------------------------------

    def _start(self) -> GlobalModel:
        initial = build_model(
            self._config.model, self._world.classes, rng_for(self._stream, "initial weights")
        )
        told = []
        for client, ids in self._there(0, ()).items():
            moments = calibration_moments(self.model, self.examples(ids))
            means = {"mean": moments.mean, "mean_square": moments.mean_square}
            told.append(Update(client, moments.frames, means))
        weights = calibrated(self.model, initial.state_dict(), told)
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def _learn(self, model: GlobalModel, round_: TimelineRound) -> None:
        number = round_.rounds_done + 1
        for update in self._ordinary(model, number, self._plan.withheld(round_.timeline_round)):
            self._history.remember(update.client, update.difference, number, update.sizes)

    def _counterfactual_original(self, model: GlobalModel) -> StateDict:
        branch = GlobalModel(model.weights, copy.deepcopy(model.optimizer), model.ordinary_rounds)
        for number in range(model.ordinary_rounds + 1, self._config.training.rounds + 1):
            self._ordinary(branch, number, ())
        return branch.weights

    def _ordinary(self, model: GlobalModel, number: int, withheld: Collection[str]) -> list[Update]:
        local = self._config.training.local
        lr = round_lr(self._config.training, number)
        updates = self._train(model.weights, number - 1, withheld, "learn", number, local.epochs, lr)
        if updates:
            model.weights = model.optimizer.apply(model.weights, weighted_mean(updates))
        model.ordinary_rounds = number
        return updates

    def _recover(self, weights: StateDict, round_: TimelineRound) -> StateDict:
        recovery, gone = self._config.recovery, self._plan.withheld(round_.timeline_round)
        updates = self._train(
            weights,
            round_.rounds_done,
            gone,
            "recover",
            round_.timeline_round,
            recovery.epochs,
            recovery.lr,
            recovery.clients,
        )
        for update in updates:
            self._history.remember(update.client, update.difference, None, update.sizes)
        mean = weighted_mean(updates) if updates else None
        return recovered(weights, mean, recovery.reversion, self._steps)

    def _train(
        self,
        weights: StateDict,
        rounds_done: int,
        withheld: Collection[str],
        phase: str,
        number: int,
        epochs: int,
        lr: float,
        most: int = 0,
    ) -> list[Update]:
        updates, there = [], self._there(rounds_done, withheld)
        for client in sample_clients(there, most, self._config.seed, phase, number):
            ids = there[client]
            kept, when = self.examples(ids), (phase, number, self._stream)
            work = partial(train_in_round, self.model, kept, self._config, epochs, lr, client, *when)
            updates.append(Update(client, len(kept), train_update(self.model, weights, work)[0]))
        return updates

    def _unlearn(self, weights: StateDict, round_: TimelineRound) -> StateDict:
        """The joint step, of those requesters that have any of its utterances."""
        before, config, plan = weights, self._config, self._plan
        own: dict[int, list[TimelineRequest]] = {}
        for number in sorted(round_.wishes, key=lambda n: plan.wishes[n].client):
            own.setdefault(plan.wishes[number].client, []).append(plan.wishes[number])
        asked = {}
        for client, wishes in own.items():
            ids = tuple(u for w in wishes for u in w.utterances if u not in self._outside)
            if ids:
                asked[client] = ids
        card, moved = METHODS[config.unlearning.method], False
        scalars = self._scalars(weights, round_, card.reads_log_odds)
        one_by_one = config.unlearning.aggregation == "sequential"
        for turn in [[c] for c in asked] if one_by_one else [list(asked)] if asked else []:
            if moved:
                scalars = self._scalars(weights, round_, scalars.trained is not None)
            updates = [u for c in turn if (u := self._forgotten(weights, round_, c, asked[c], scalars))]
            if not updates:
                continue
            names = {u.client: [w.id for w in own[u.client]] for u in updates}
            weights, passed, _ = apply_unlearn_updates(
                weights,
                updates,
                names,
                config,
                self.model,
                self._history,
                self._holding(round_),
                plan.asking(round_.timeline_round),
                lambda state, staying: self._accuracy(state, staying, round_),
                round_.timeline_round,
            )
            moved = moved or bool(passed)
        if config.recovery.reversion == "removed":
            self._steps.append(difference(weights, before))
        return weights

    def _forgotten(
        self,
        weights: StateDict,
        round_: TimelineRound,
        client: int,
        ids: tuple[str, ...],
        scalars: ServerScalars,
    ) -> Update | None:
        """One requester's update; None where it fails, as in a run it would be left out of the step."""
        share = min(1.0, len(ids) / self._holding(round_)[client])
        self.model.load_state_dict(weights)
        try:
            _, moved = unlearn_update(
                self.model,
                self._forget_set(ids),
                METHODS[self._config.unlearning.method].unlearn,
                self._config,
                replace(scalars, share=share),
                client,
                round_.timeline_round,
                self._stream,
            )
        except UnlearnFailed:
            return None

        def own() -> Examples:
            return self.examples(
                self._held(client, round_.rounds_done, self._plan.purged(round_.timeline_round))
            )

        leaves = outgoing_update(
            self.model, moved, own, self._config, client, round_.timeline_round, self._stream
        )
        return Update(client, len(ids), leaves)

    def _forget_set(self, ids: tuple[str, ...]) -> ForgetSet:
        audio = self._world.audio
        if not audio:
            return ForgetSet(self.examples(ids), torch.zeros(len(ids), 0), torch.zeros(len(ids)).long())
        return ForgetSet(self.examples(ids), *pad([to_float(audio[u]) for u in ids]))

    def _purge(self, timeline_round: int, rounds_done: int) -> None:
        """What left the vaults since the last round leaves the server's memory."""
        for wish in self._plan.wishes:
            if wish.utterances and self._purged <= wish.gone < timeline_round:
                left = not self._held(wish.client, rounds_done, self._plan.purged(timeline_round))
                self._history.forget(wish.client, left)
        self._purged = timeline_round

    # ---- who holds what ------------------------------------------------------------------------------

    def _held(self, client: int, rounds_done: int, gone: Collection[str]) -> tuple[str, ...]:
        away, later = self._outside, self._plan.later
        return tuple(
            u
            for u in self._world.train[client]
            if u not in away and u not in gone and later.get(u, 0) <= rounds_done
        )

    def _there(self, rounds_done: int, gone: Collection[str]) -> dict[int, tuple[str, ...]]:
        """What each client trains on that can be reached; nobody where that is one of several."""
        held = {c: self._held(c, rounds_done, gone) for c in range(len(self._world.train))}
        holding = {c: ids for c, ids in held.items() if ids}
        there = {c: ids for c, ids in holding.items() if c not in self._plan.away[rounds_done]}
        return there if len(there) >= min(2, len(holding)) else {}

    def _holding(self, round_: TimelineRound) -> dict[int, int]:
        """How much training speech is in each vault at an unlearn step."""
        gone = self._plan.purged(round_.timeline_round)
        return {c: len(self._held(c, round_.rounds_done, gone)) for c in range(len(self._world.train))}

    def _scalars(
        self, weights: StateDict, round_: TimelineRound, log_odds: bool, among: Collection[int] | None = None
    ) -> ServerScalars:
        """What the clients that can be reached tell of a model."""
        gone, replies = self._plan.purged(round_.timeline_round), []
        rank = self._config.unlearning.calm.rank
        self.model.load_state_dict(weights)
        away = self._plan.away[round_.rounds_done]
        there = [c for c, held in self._holding(round_).items() if held and c not in away]
        asked = self._config.unlearning.asked
        for client in sample_clients(there, asked, self._config.seed, "evaluate", round_.timeline_round):
            if among and client not in among:
                continue
            held_out = self.examples(u for u in self._world.test[client] if u not in gone)
            own = self.examples(self._held(client, round_.rounds_done, gone)) if log_odds else None
            right, of_trained, of_held_out = evaluate(self.model, held_out, own, rank)
            replies.append(Evaluation(right, len(held_out), of_trained, of_held_out))
        return pool_evaluations(replies)

    def _accuracy(self, state: StateDict, staying: Sequence[int], round_: TimelineRound) -> float | None:
        return self._scalars(state, round_, False, staying).test_accuracy if staying else None

    def _comes_after(self, round_: TimelineRound, heard: int) -> bool:
        """Whether, when this round begins, a request has been served that was heard then."""
        return round_.timeline_round > heard or (round_.timeline_round == heard and round_.kind == "unlearn")
