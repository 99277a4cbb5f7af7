"""Models trained beside the run's main line: the original, had nobody asked, and the retrained ones.

A training is found by content where it was done before, and goes on from the standing where it was cut off.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.evaluation.judge import Judge
from fedunlearn.experiment.folder_check import hold_what_was_trained_on
from fedunlearn.experiment.reference_cache import Learned, ReferenceCache, reference_key
from fedunlearn.models import build_model
from fedunlearn.models.contract import constants_of
from fedunlearn.partition import Partition, recorded_later
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.app import Server
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import GlobalModel, Log, Training


def first_weights(config: Config, classes: int, stream: int) -> StateDict:
    """Random weights that a training begins with. ``stream``: the training's seed."""
    model = build_model(config.model, classes, rng_for(stream, "initial weights"))
    return {k: v.clone() for k, v in model.state_dict().items()}


def retrained_stream(seed: int, number: int) -> int:
    """The seed of one retrained model.

    It is never the original's: of two models that differ in the deleted utterances alone, these can be read.
    """
    return stream_key(seed, "retrained", number) % 2**31


class References:
    """Trains, or finds, what the run is compared with.

    Args:
        server: trains.
        cache: of references.
        judge, partition: who knows what is trained on.
        run: the folder with the clients' vaults.
        logging_to: inside, rounds are written to that log.
        keep: makes the standing durable; surely, if in 2 copies.
    """

    def __init__(
        self,
        server: Server,
        config: Config,
        cache: ReferenceCache,
        judge: Judge,
        partition: Partition,
        run: RunFolder,
        logging_to: Callable[[Log], AbstractContextManager[None]],
        keep: Callable[[int], None],
    ) -> None:
        self._server, self._config, self._cache = server, config, cache
        self._judge, self._partition, self._run = judge, partition, run
        self._logging_to, self._keep = logging_to, keep
        self._standing = server.standing

    def begin_after(self, known: Learned, history: History) -> None:
        """As if learning had just ended with what the cache holds."""
        standing, config, rounds = self._standing, self._config, self._config.training.rounds
        standing.model = GlobalModel(dict(known.state), ServerOptimizer(config.training), rounds)
        keeps_last = config.unlearning.reads_last_steps
        history = replace(history, keeps_last=keeps_last, last=history.last if keeps_last else {})
        standing.history = history
        log = Log.of(known)
        standing.log.rows, standing.log.curve = log.rows, log.curve
        standing.timeline_round = standing.rounds_done = rounds
        standing.rounds_done_at = {rounds_done + 1: rounds_done for rounds_done in range(rounds)}
        standing.costs["learn"] = PhaseCost.of(known.cost)
        standing.costs["learn"].bytes_stored = history.bytes_stored
        standing.trained = {client: number - 1 for client, number in history.last_rounds().items()}
        later = recorded_later(self._partition, config.partition, config.seed)
        for share in self._partition.clients:
            client = share.client
            rounds_done_at = [d for d in range(rounds) if self._server.availability.reachable(client, d)]
            if rounds_done_at:
                standing.last_report[client] = rounds_done_at[-1]
                standing.examples[client] = sum(later.get(u.id, 0) <= rounds_done_at[-1] for u in share.train)

    def counterfactual_original(self) -> StateDict:
        """The original, while a deletion waits: learn on from here as if there were none."""
        standing, stream = self._standing, self._config.seed
        model = standing.model
        assert model is not None
        if model.ordinary_rounds >= self._config.training.rounds:
            return model.weights
        known = self._cache.find(self.key(stream, []))
        if known:
            standing.origins["original"] = "cached"
            return dict(known.state)
        if standing.beside is None:
            branch = GlobalModel(model.weights, copy.deepcopy(model.optimizer), model.ordinary_rounds)
            standing.beside = Training("counterfactual", branch, Log(), len(standing.faults))
        return self._train_beside(standing.beside, stream, "counterfactual").weights

    def _train_beside(
        self, training: Training, stream: int, phase: str, withheld: Sequence[TrackedRequest] = ()
    ) -> GlobalModel:

        def kept(model: GlobalModel) -> None:
            training.model = model
            self._keep(1)

        with self._logging_to(training.log):
            model = self._server.train_without_deletions(training.model, stream, phase, kept, withheld)
        self._standing.beside = None
        return model

    def retrain(self, number: int, forget: Sequence[str], open_: Sequence[str] = ()) -> None:
        """The retrained model of one seed, into the standing.

        Args:
            number: of the seed.
            forget: utterances that are gone.
            open_: utterances of requests that are open still: nobody trains on these, either.
        """
        config, standing, name = self._config, self._standing, f"retrained-{number}"
        stream = retrained_stream(config.seed, number)
        key, withheld = self.key(stream, [*forget, *open_]), standing.open
        if len(standing.retrained) > number and standing.keys.get(name) == key:
            return  # before the run was taken up
        if standing.keys.get(name) != key:
            standing.beside = None
        del standing.retrained[number:]
        standing.keys[name] = key
        known = self._cache.find(key)
        standing.origins[name] = "cached" if known else "trained"
        if known is None and standing.beside is None:
            standing.costs["retrain"] = PhaseCost()
            faults = len(standing.faults)
            if not self._server.anybody_without(withheld):
                # Nobody has any speech left: what such a federation learns is nothing.
                known = Learned(self._first(stream), [], {}, PhaseCost().as_dict())
            else:
                model = GlobalModel(self._first(stream), ServerOptimizer(config.training))
                standing.beside = Training(name, model, Log(), faults)
        if known is None:
            training = standing.beside
            assert training is not None
            state = self._train_beside(training, stream, "retrain", withheld).weights
            known = training.log.learned(state, standing.costs["retrain"])
            if len(standing.faults) == training.faults:
                # First where the run stands: taken up, it must not find itself in the cache.
                standing.retrained.append(known)
                self._keep(2)
                self.cache(key, known, [*forget, *open_])
                return
        standing.retrained.append(known)
        self._keep(1)

    def cache(self, key: str, learned: Learned, forget: Sequence[str]) -> None:
        """Keep what was trained without ``forget``, if the clients hold what its key says."""
        if hold_what_was_trained_on(self._run, self._partition, self._judge, forget):
            self._cache.keep(key, learned)

    def key(self, stream: int, forget: Sequence[str]) -> str:
        """Of the model trained without ``forget``. ``stream``: the training's seed."""
        constants = weights_digest(self._constants())
        return reference_key(self._config, stream, self._contents(forget), constants, self._absences())

    def _contents(self, forget: Sequence[str]) -> list[str]:
        gone = set(forget)
        kept = [[u.id for u in share.train if u.id not in gone] for share in self._partition.clients]
        later = recorded_later(self._partition, self._config.partition, self._config.seed)
        rounds_done_at = [[[i, later[u]] for i, u in enumerate(ids) if u in later] for ids in kept]
        contents = [self._judge.content_of(ids) if ids else "" for ids in kept]
        return [f"{c} later {d}" if d else c for c, d in zip(contents, rounds_done_at, strict=True)]

    def _absences(self) -> list[list[int]]:
        """Who cannot be reached in each round of learning; empty where everybody always can."""
        rounds = self._config.training.rounds
        away = [list(self._server.availability.unreachable(rounds_done)) for rounds_done in range(rounds)]
        return away if any(away) else []

    def _first(self, stream: int) -> StateDict:
        """Random weights, with the run's normalisation constants: no device sends its moments twice."""
        return {**first_weights(self._config, self._judge.classes, stream), **self._constants()}

    def _constants(self) -> StateDict:
        model = self._standing.model
        assert model is not None
        return constants_of(model.weights)
