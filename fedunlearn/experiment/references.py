"""Models trained beside the run's main line: the original and the retrained ones.

A training that was done before is found by its content; one that was interrupted goes on from its checkpoint.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.deletion.schedule import any_while_learning
from fedunlearn.experiment.folder_check import hold_what_was_trained_on
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.experiment.record import ExperimentRecord, Log, SideTraining
from fedunlearn.experiment.recorder import RunRecorder
from fedunlearn.experiment.reference_cache import Learned, reference_key
from fedunlearn.messages.phase import Phase
from fedunlearn.models import build_model
from fedunlearn.models.contract import constants_of
from fedunlearn.partition import recorded_later
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.app import Server
from fedunlearn.server.context import ServerContext
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.late_clients import LateClients
from fedunlearn.server.left_out import LeftOut, keep_left_out
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.rewind import rewind_round
from fedunlearn.server.side_training import has_examples_without, train_without_deletions
from fedunlearn.server.state import GlobalModel, ServerStep
from fedunlearn.unlearning import notes_tickets


def first_weights(config: Config, classes: int, stream: int) -> StateDict:
    """Draw the random weights that a training begins with.

    Args:
        config: the experiment.
        classes: emotions.
        stream: the training's seed.
    """
    model = build_model(config.model, classes, rng_for(stream, "initial weights"))
    return {k: v.clone() for k, v in model.state_dict().items()}


def untrained_weights(config: Config, classes: int, original: StateDict) -> StateDict:
    """Draw the weights of a model that has learned nothing, with the original's normalisation constants.

    Args:
        config: the experiment.
        classes: emotions.
        original: weights of the original.
    """
    fresh = first_weights(config, classes, stream_key(config.seed, "destroy") % 2**31)
    return {**fresh, **constants_of(original)}


def retrained_stream(seed: int, number: int) -> int:
    """Return the seed of one retrained model.

    It is never the original's: the difference of two models of the same seed without and with the deleted
    utterances alone would give these away.

    Args:
        seed: of the experiment.
        number: of the retrained model, 0 ...
    """
    return stream_key(seed, "retrained", number) % 2**31


def _holds_all(history: History, config: Config, left_out: LeftOut | None) -> bool:
    """Whether a cached history has what this run keeps.

    Last differences, models without one client each, and the model of the round to go back to.
    """
    has_last = bool(history.last or not config.unlearning.reads_last_steps)
    has_left_out = history.left_out is not None or left_out is None
    return has_last and has_left_out and rewind_round(config) in (0, history.rewind_to)


def _as_kept(history: History, config: Config) -> History:
    """A cached history without what this run does not keep."""
    keeps_last, rewind_to = config.unlearning.reads_last_steps, rewind_round(config)
    last, earlier = history.last if keeps_last else {}, history.earlier if rewind_to else {}
    return replace(history, keeps_last=keeps_last, last=last, rewind_to=rewind_to, earlier=earlier)


class References:
    """Trains, or finds, what the run is compared with.

    Args:
        prepared: what the run is made of.
        context: of the run's server.
        record: of the run.
        recorder: watches the trainings.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        context: ServerContext,
        record: ExperimentRecord,
        recorder: RunRecorder,
    ) -> None:
        self._prepared, self._config, self._cache = prepared, prepared.config, prepared.cache
        self._judge, self._partition = prepared.judge, prepared.partition
        self._context, self._state = context, context.state
        self._record, self._recorder = record, recorder

    # ---- the original --------------------------------------------------------------------------------

    def learn(self, server: Server) -> None:
        """Learn until the last ordinary round, or take from the cache what learning gives.

        Args:
            server: of the run.
        """
        config, state, record = self._config, self._state, self._record
        key = record.keys["original"] = self.key(config.seed, [])
        if state.rounds_done == 0 and state.step is ServerStep.LISTEN:
            clients = len(self._partition.clients)
            early = any_while_learning(config.deletions, clients, config.training.rounds, config.seed)
            # Tickets are the devices' own: where they are noted, learning itself must take place.
            known = None if early or notes_tickets(config) else self._cache.find(key)
            left_out = keep_left_out(config, self._context.template)
            # A retrained model of the very same data has no history, and not every history has all.
            enough = known and known.history and known.digests and _holds_all(known.history, config, left_out)
            record.origins["original"] = "cached" if enough else "trained"
            if enough and known and known.history:
                self._begin_after(known, replace(known.history, left_out=left_out and known.history.left_out))
        whole = server.main_line.learning
        server.play(lambda: not server.main_line.learning)
        self._recorder.settle()
        if whole and record.original is None and state.model and not state.faults:
            # The checkpoint comes first: a resumed run must not find itself in the cache.
            self._recorder.checkpoint(copies=2)
            learned = record.log.learned(
                state.model.weights, state.costs[Phase.LEARN], state.history, state.unknown
            )
            self._add_to_cache(key, replace(learned, digests=self._recorder.digests.learned()), [])

    def _begin_after(self, known: Learned, history: History) -> None:
        """Set the state as if learning had just ended with what the cache holds."""
        state, config, rounds = self._state, self._config, self._config.training.rounds
        state.model = GlobalModel(dict(known.state), ServerOptimizer(config.training), rounds)
        history = _as_kept(history, config)
        state.history, state.unknown = history, known.unknown
        log = Log.of(known)
        self._record.log.rows, self._record.log.curve = log.rows, log.curve
        self._recorder.digests.add_learned(known.digests)
        state.timeline_round = state.rounds_done = rounds
        state.rounds_done_at = {rounds_done + 1: rounds_done for rounds_done in range(rounds)}
        state.costs[Phase.LEARN] = PhaseCost.of(known.cost)
        state.costs[Phase.LEARN].bytes_stored = history.bytes_stored
        state.last_trained = {client: number - 1 for client, number in history.last_rounds().items()}
        later = recorded_later(self._partition, config.partition, config.seed)
        for share in self._partition.clients:
            client = share.client
            reached = [d for d in range(rounds) if self._context.availability.reachable(client, d)]
            if reached:
                state.last_report[client] = reached[-1]
                state.examples[client] = sum(later.get(u.id, 0) <= reached[-1] for u in share.train)

    def train_original(self) -> StateDict:
        """Continue training as if no deletion had been requested, while the deletion waits.

        Returns:
            weights of the original
        """
        stream, model, record = self._config.seed, self._state.model, self._record
        assert model is not None
        if model.learning_rounds >= self._config.training.rounds:
            return model.weights
        known = self._cache.find(self.key(stream, []))
        if known:
            record.origins["original"] = "cached"
            return dict(known.state)
        if record.side_training is None:
            branch = GlobalModel(model.weights, copy.deepcopy(model.optimizer), model.learning_rounds)
            name = str(Phase.COUNTERFACTUAL)
            record.side_training = SideTraining(name, branch, Log(), len(self._state.faults))
        return self._train(record.side_training, stream, Phase.COUNTERFACTUAL).weights

    # ---- retrained models ----------------------------------------------------------------------------

    def retrain(self, number: int, forget: Sequence[str], waiting: Sequence[str] = ()) -> None:
        """Train the retrained model of one seed, or find it in the cache, and add it to the record.

        Args:
            number: of the seed.
            forget: utterances that are deleted.
            waiting: utterances of requests that are still open; no client trains on these, either.
        """
        config, state, record, name = self._config, self._state, self._record, f"retrained-{number}"
        stream = retrained_stream(config.seed, number)
        key, withheld = self.key(stream, [*forget, *waiting]), state.open
        if len(record.retrained) > number and record.keys.get(name) == key:
            return  # done before the run was resumed
        if record.keys.get(name) != key:
            record.side_training = None
        del record.retrained[number:]
        record.keys[name] = key
        known = self._cache.find(key)
        record.origins[name] = "cached" if known else "trained"
        if known is None and record.side_training is None:
            state.costs[Phase.RETRAIN] = PhaseCost()
            faults = len(state.faults)
            if not has_examples_without(self._context, withheld):
                # No client has any speech left: such a federation learns nothing.
                known = Learned(self._first(stream), [], {}, PhaseCost().as_dict())
            else:
                model = GlobalModel(self._first(stream), ServerOptimizer(config.training))
                record.side_training = SideTraining(name, model, Log(), faults)
        if known is None:
            training = record.side_training
            assert training is not None
            weights = self._train(training, stream, Phase.RETRAIN, withheld).weights
            known = training.log.learned(weights, state.costs[Phase.RETRAIN])
            if len(state.faults) == training.faults:
                # The checkpoint comes first: a resumed run must not find itself in the cache.
                record.retrained.append(known)
                self._recorder.checkpoint(2)
                self._add_to_cache(key, known, [*forget, *waiting])
                return
        record.retrained.append(known)
        self._recorder.checkpoint(1)

    # ---- parts ---------------------------------------------------------------------------------------

    def key(self, stream: int, forget: Sequence[str]) -> str:
        """Compute the cache key of the model trained without some utterances.

        Args:
            stream: the training's seed.
            forget: utterances that no client trains on.
        """
        constants = weights_digest(self._constants())
        return reference_key(self._config, stream, self._contents(forget), constants, self._absences())

    def _train(
        self,
        training: SideTraining,
        stream: int,
        phase: Phase,
        withheld: Sequence[TrackedRequest] = (),
    ) -> GlobalModel:
        def after_round(model: GlobalModel) -> None:
            training.model = model
            self._recorder.checkpoint(1)

        with self._recorder.logging_to(training.log):
            model = train_without_deletions(
                self._context, training.model, stream, phase, after_round, withheld
            )
        self._record.side_training = None
        return model

    def _add_to_cache(self, key: str, learned: Learned, forget: Sequence[str]) -> None:
        """Keep what was trained without ``forget``, if the clients hold what its key says."""
        if hold_what_was_trained_on(self._prepared.run, self._partition, self._judge, forget):
            self._cache.keep(key, learned)

    def _contents(self, forget: Sequence[str]) -> list[str]:
        gone = set(forget)
        kept = [[u.id for u in share.train if u.id not in gone] for share in self._partition.clients]
        later = recorded_later(self._partition, self._config.partition, self._config.seed)
        recorded = [[[i, later[u]] for i, u in enumerate(ids) if u in later] for ids in kept]
        contents = [self._judge.content_of(ids) if ids else "" for ids in kept]
        return [f"{c} later {d}" if d else c for c, d in zip(contents, recorded, strict=True)]

    def _absences(self) -> list[list[int]]:
        """Clients that do not train in each round of learning; empty where all always do."""
        availability, late = self._context.availability, LateClients.of(self._config)
        away = [
            sorted({*availability.unreachable(rounds_done), *late.absent(rounds_done)})
            for rounds_done in range(self._config.training.rounds)
        ]
        return away if any(away) else []

    def _first(self, stream: int) -> StateDict:
        """Random weights, with the run's normalisation constants: no device sends its moments twice."""
        return {**first_weights(self._config, self._judge.classes, stream), **self._constants()}

    def _constants(self) -> StateDict:
        model = self._state.model
        assert model is not None
        return constants_of(model.weights)
