"""A federation replayed in one process: a timeline's rounds, with some of its utterances left out.

No messages, no vaults and no devices: a plain loop over the functions that devices and server compute with.
With the run's own seed and nothing left out it gives the run's weights bit for bit.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.client.steps import sum_log_odds
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.replayed_procedures import ReplayedProcedureRounds
from fedunlearn.experiment.replayed_steps import ReplayedSteps
from fedunlearn.experiment.timeline import Timeline, TimelineRound
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.scalars import Sums, compare_log_odds
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import trained_names
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import ServerOptimizer, weighted_mean
from fedunlearn.server.history import History
from fedunlearn.server.late_clients import LateClients
from fedunlearn.server.left_out import keep_left_out
from fedunlearn.server.procedures import Procedure, procedure_stream
from fedunlearn.server.rewind import rewind_round
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.steps import apply_recovery, calibrate_model
from fedunlearn.training import round_lr
from fedunlearn.unlearning import METHODS, PRIVILEGED
from fedunlearn.unlearning.contract import UnknownSpeakers
from fedunlearn.unlearning.privileged.contract import PrivilegedCard

STAGES = ("original", "unlearned", "recovered")


@dataclass
class LearnedFederation:
    """A federation when its first unlearn step begins; it does not depend on how it will unlearn.

    Attributes:
        model: the global model.
        history: the server's.
        unknown: as of ``ServerState``.
        original: weights of the original; None where no request has been reported yet.
        tickets: client -> the last round that was noted, and the tickets [n, K] of its training utterances.
    """

    model: GlobalModel
    history: History
    unknown: UnknownSpeakers | None
    original: StateDict | None
    tickets: Mapping[int, tuple[int, Tensor]] = field(default_factory=dict)


class Replay:
    """One federation made of a run's data.

    Args:
        data: of the run.
        stream: seed of all its randomness.
        outside: utterances that it never sees.
    """

    def __init__(self, data: ReplayData, stream: int, outside: Collection[str] = ()) -> None:
        self._data, self._config, self._timeline = data, data.config, data.timeline
        self._stream, self._outside = stream, frozenset(outside)
        self.clients = ReplayedClients(data, stream, outside)
        self.model = self.clients.model
        self._late = LateClients.of(self._config)
        self.unknown: UnknownSpeakers | None = None
        """as of ``ServerState``"""
        self._steps = list[StateDict]()
        self._purged = -1

    def play(self) -> dict[str, StateDict]:
        """Play the whole timeline.

        Returns:
            as ``finish``
        """
        return self.finish(self.learn())

    def learn(self) -> LearnedFederation:
        """Play the timeline up to its first unlearn step.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        model, original = self._start(), None
        keeps_last = self._config.unlearning.reads_last_steps
        left_out, names = keep_left_out(self._config, self.model), trained_names(self.model)
        back = rewind_round(self._config)
        self._history = History(names, model.weights, {}, keeps_last, left_out, back)
        for round_ in self._timeline.rounds:
            if original is None and _follows_request(self._timeline, round_):
                original = self._train_original(model)
            if round_.phase is Phase.UNLEARN:
                break
            self._purge(round_.timeline_round, round_.rounds_done)
            self._play_round(model, round_)
        return LearnedFederation(model, self._history, self.unknown, original, self.clients.tickets.noted)

    def finish(self, learned: LearnedFederation) -> dict[str, StateDict]:
        """Play the timeline from its first unlearn step on.

        Args:
            learned: what ``learn`` returned, of this or of an equal federation; it is changed.

        Returns:
            weights of the original, the unlearned and the recovered model

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        model, original, unlearned = learned.model, learned.original, None
        self._history, self.unknown = learned.history, learned.unknown
        self.clients.tickets.resume(learned.tickets)
        before = self._timeline.rounds_before_unlearning
        if before:
            self._purged = before[-1].timeline_round
        for round_ in self._timeline.rounds[len(before) :]:
            if original is None and _follows_request(self._timeline, round_):
                original = self._train_original(model)
            self._purge(round_.timeline_round, round_.rounds_done)
            self._play_round(model, round_)
            if round_.phase is Phase.UNLEARN:
                unlearned = model.weights
        if original is None:
            original = model.weights
        stages = (original, unlearned if unlearned is not None else model.weights, model.weights)
        return dict(zip(STAGES, stages, strict=True))

    # ---- the rounds ----------------------------------------------------------------------------------

    def _start(self) -> GlobalModel:
        initial = build_model(
            self._config.model, self._data.classes, rng_for(self._stream, "initial weights")
        )
        weights = calibrate_model(self.model, initial.state_dict(), self.clients.moments())
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def _play_round(self, model: GlobalModel, round_: TimelineRound) -> None:
        match round_.phase:
            case Phase.LEARN:
                self._learn(model, round_)
            case Phase.UNLEARN:
                model.weights = self._unlearn(model, round_)
            case Phase.RECOVER:
                model.weights = self._recover(model.weights, round_)

    def _learn(self, model: GlobalModel, round_: TimelineRound) -> None:
        learning_round = round_.rounds_done + 1
        withheld = self._timeline.withheld(round_.timeline_round)
        updates, mean = self._train_round(model, learning_round, withheld, notes=True)
        for update in updates:
            self._history.remember(update, learning_round)
        self._history.end_round(mean, self._config.training.server_lr)
        self._history.keep_model(model.weights, learning_round)
        if self._late.are_measured_after(learning_round):
            known = self._history.last_rounds()
            self.unknown = _measure_unknown(self.clients, self._late, model.weights, round_, known)

    def _train_original(self, model: GlobalModel) -> StateDict:
        branch = GlobalModel(model.weights, copy.deepcopy(model.optimizer), model.learning_rounds)
        for learning_round in range(model.learning_rounds + 1, self._config.training.rounds + 1):
            self._train_round(branch, learning_round, ())
        return branch.weights

    def _train_round(
        self, model: GlobalModel, learning_round: int, withheld: Collection[str], notes: bool = False
    ) -> tuple[list[Update], StateDict | None]:
        local = self._config.training.local
        lr = round_lr(self._config.training, learning_round)
        when = learning_round - 1, withheld, Phase.LEARN, learning_round
        updates = self.clients.train(model.weights, *when, local.work, lr, notes=notes)
        mean = weighted_mean(updates) if updates else None
        if mean is not None:
            model.weights = model.optimizer.apply(model.weights, mean)
        model.learning_rounds = learning_round
        return updates, mean

    def _recover(self, weights: StateDict, round_: TimelineRound) -> StateDict:
        recovery, gone = self._config.recovery, self._timeline.withheld(round_.timeline_round)
        updates = self.clients.train(
            weights,
            round_.rounds_done,
            gone,
            Phase.RECOVER,
            round_.timeline_round,
            recovery.work,
            recovery.lr,
            recovery.clients,
        )
        for update in updates:
            self._history.remember(update, None)
        mean = weighted_mean(updates) if updates else None
        return apply_recovery(weights, mean, recovery.reversion, self._steps)

    def _unlearn(self, model: GlobalModel, round_: TimelineRound) -> StateDict:
        """Take the joint step of those requesters that have any of its utterances."""
        before, method = model.weights, self._config.unlearning.method
        steps = ReplayedSteps(self._data, self._stream, self.clients, self._history, self._outside)
        if method in PRIVILEGED:
            weights = self._play_procedure(PRIVILEGED[method], model, round_, steps)
        else:
            reads = METHODS[method].reads_log_odds
            scalars = steps.scalars(before, round_, self.unknown, reads)
            weights, _ = steps.take(before, round_, steps.requests(round_), scalars)
        if self._config.recovery.reversion == "removed":
            self._steps.append(difference(weights, before))
        return weights

    def _play_procedure(
        self, card: PrivilegedCard, model: GlobalModel, round_: TimelineRound, steps: ReplayedSteps
    ) -> StateDict:
        requests = steps.requests(round_)
        if not requests:
            return model.weights
        rounds = ReplayedProcedureRounds(self._data, self._stream, self.clients, steps, round_, requests)
        stream = procedure_stream(self._stream, card, round_.since)
        played = Procedure(self._config, self.model, self._history, rounds).play(card, model, stream)
        if played is None:
            return model.weights
        model.optimizer = played.optimizer
        return played.weights

    def _purge(self, timeline_round: int, rounds_done: int) -> None:
        """Forget in the history what left the vaults since the last round."""
        for request in self._timeline.requests:
            if request.utterances and self._purged <= request.gone < timeline_round:
                left = not self.clients.vaults.held(
                    request.client, rounds_done, self._timeline.purged(timeline_round)
                )
                self._history.forget(request.client, left)
        self._purged = timeline_round


def _follows_request(timeline: Timeline, round_: TimelineRound) -> bool:
    """Whether, when a round begins, a request has been reported, so that the original takes another way."""
    reported = min((r.reported for r in timeline.requests if r.utterances), default=None)
    here = round_.timeline_round
    return reported is not None and (here > reported or (here == reported and round_.phase is Phase.UNLEARN))


def _measure_unknown(
    clients: ReplayedClients,
    late: LateClients,
    weights: StateDict,
    round_: TimelineRound,
    trained: Collection[int],
) -> UnknownSpeakers | None:
    """Compare the log-odds on the late clients' speech with those on the others' held-out speech."""
    data, timeline, model = clients.data, clients.data.timeline, clients.model
    gone, withheld = timeline.purged(round_.timeline_round), timeline.withheld(round_.timeline_round)
    model.load_state_dict(weights)
    known, unknown = list[Sums](), list[Sums]()
    for client, test in enumerate(data.test):
        held = clients.vaults.held(client, round_.rounds_done, withheld)
        if not held or client in timeline.away[round_.rounds_done]:
            continue
        held_out = clients.examples(u for u in test if u not in gone)
        if client in late.clients:
            unknown.append(sum_log_odds(model, [clients.examples(held), held_out]))
        elif client in trained:
            known.append(sum_log_odds(model, [held_out]))
    return compare_log_odds(known, unknown)
