"""One prepared experiment, played: learn, listen, unlearn, recover, retrain, judge.

``Experiment.conduct`` is the body of the ServerApp and runs on whichever grid an engine provides.
"""

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import torch
from flwr.serverapp import Grid
from torch import Tensor

import fedunlearn.federation.results as assemble
from fedunlearn.checkpoints import save_checkpoint
from fedunlearn.config import Config
from fedunlearn.corpora import Corpus
from fedunlearn.deletion import DeletionRequest, RequestBook, any_while_learning
from fedunlearn.deletion import State as RequestState
from fedunlearn.evaluation.cost import PhaseCost
from fedunlearn.evaluation.judge import Judge, Predictions
from fedunlearn.evaluation.reference import Learned, ReferenceCache, reference_key
from fedunlearn.federation.aggregation import ServerOptimizer
from fedunlearn.federation.exchange import Federation
from fedunlearn.federation.progress import Progress
from fedunlearn.federation.requests import ServedRequest
from fedunlearn.federation.server import GlobalModel, Server
from fedunlearn.federation.upper_references import ReferenceServer
from fedunlearn.history import History
from fedunlearn.ledger import Ledger
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.unlearning import REFERENCES, method_named

State = Mapping[str, Tensor]


@dataclass
class _Log:
    """Rows of one stretch of rounds, and what the judge saw in each."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve: list[Predictions | None] = field(default_factory=list)

    def learned(self, state: State, cost: PhaseCost, history: History | None = None) -> Learned:
        curve = {r["round"]: p for r, p in zip(self.rows, self.curve, strict=True) if p is not None}
        return Learned(state, self.rows, curve, cost.as_dict(), history)

    @classmethod
    def of(cls, learned: Learned) -> "_Log":
        return cls([dict(r) for r in learned.rows], [learned.curve.get(r["round"]) for r in learned.rows])


class Experiment:
    """A prepared run. ``conduct`` plays it and leaves ``results``."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        corpus: Corpus,
        partition: Partition,
        judge: Judge,
        template: EmotionModel,
        cache: ReferenceCache,
        progress: Progress,
    ) -> None:
        self.config, self.run, self.corpus, self.partition = config, run, corpus, partition
        self.stop = threading.Event()
        self.results: dict[str, Any] | None = None
        self._judge, self._template, self._cache, self._progress = judge, template, cache, progress
        self._ledger = Ledger(run.ledger)
        self._log = self._timeline = _Log()
        self._retrained_log = _Log()
        self._original: State | None = None
        self._unlearned: State | None = None
        self._federation: Federation | None = None
        self._server: Server | None = None
        self._retrain_cost = PhaseCost()
        self._origins: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._started = datetime.now(UTC)
        self._start = perf_counter()

    # ---- the story -----------------------------------------------------------------------------------

    def conduct(self, grid: Grid) -> None:
        """Learn, listen, unlearn, recover, retrain, judge; sets ``results``.

        Raises:
            RunFailed: a round lost its quorum, or the run was interrupted.
        """
        torch.set_num_threads(1)
        config = self.config
        with self._phase("meet", None):
            federation = Federation(grid, config.federation, len(self.partition.clients), self.stop)
        self._federation = federation
        server = self._server = self._make_server(federation)
        rounds = config.training.rounds
        with self._phase("learn", rounds):
            model = self._learn(server, federation)
        if self._original is None:
            self._original = model.weights
        with self._phase("unlearn and recover", None):
            model = server.after_learning(model, self._served)
        recovered = model.weights
        books = self._books()
        forget = _union(books[r.id] for r in server.requests.values() if r.gone and r.id in books)
        states: dict[str, State] = {"original": self._original, "recovered": recovered}
        states["unlearned"] = recovered if self._unlearned is None else self._unlearned
        seeds = config.evaluation.retrained_seeds if forget else 0
        with self._phase("retrain", rounds * seeds):
            retrained = [self._retrain(server, federation, number, forget) for number in range(seeds)]
        retrained = retrained or [self._original]
        with self._phase("judge", None):
            self.results = self._judged(server, federation, states, retrained, forget, books)
        for name, state in [*states.items(), ("retrained", retrained[0])]:
            file = self.run.checkpoints / f"{name}.safetensors"
            save_checkpoint(file, state, {"model": name, "seed": config.seed})

    def write_failure(self, reason: str) -> dict[str, Any]:
        """Leave, and return, a results.json that says that, why, and how far the run had come."""
        served = self._server.requests.values() if self._server else ()
        results = {
            "schema": assemble.SCHEMA,
            "config": self.config.model_dump(mode="json"),
            "seed": self.config.seed,
            "versions": assemble.versions(),
            "status": "failed",
            "failure": reason,
            "unlearning": assemble.about_method(method_named(self.config.unlearning.method)),
            "corpus": self._about_corpus(),
            "timeline": self._timeline.rows,
            "requests": assemble.request_rows(served, self._books()),
            "cost": assemble.costs(self._server.costs) if self._server else {},
            "faults": assemble.fault_rows(self._federation.faults if self._federation else []),
            "ledger": self._about_ledger(),
            "times": {"started": self._started.isoformat(timespec="seconds")},
        }
        self.run.write_results(results)
        return results

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _learn(self, server: Server, federation: Federation) -> GlobalModel:
        config, stream = self.config, self.config.seed
        key = self._keys["original"] = reference_key(config, stream, self._contents([]))
        clients = len(self.partition.clients)
        quiet = not any_while_learning(config.deletions, clients, config.training.rounds, config.seed)
        known = self._cache.find(key) if quiet else None
        history = known.history if known else None  # a retrained model of the very same data has none
        self._origins["original"] = "cached" if history else "trained"
        if known and history:
            self._timeline = self._log = _Log.of(known)
            server.clock = config.training.rounds
            server.costs["learn"] = PhaseCost.of(known.cost)
            server.history = history
            return _finished(known.state, config)
        model = server.start(self._initial(stream), "learn")
        model = server.learn(model, stream, "learn", lambda m: self._listen_while_learning(server, m))
        if self._original is None and not federation.faults:
            self._cache.keep(key, self._log.learned(model.weights, server.costs["learn"], server.history))
        return model

    def _listen_while_learning(self, server: Server, model: GlobalModel) -> GlobalModel:
        requests = server.listen(model.ordinary_rounds)
        if not requests:
            return model
        if self._original is None:
            self._original = self._had_nobody_asked(server, model)
        model, unlearned = server.serve(model, requests)
        if unlearned:
            self._served(model)
            for _ in range(self.config.recovery.rounds):
                model = server.recover(model)
        return model

    def _had_nobody_asked(self, server: Server, model: GlobalModel) -> State:
        """The original, while a deletion waits: learn on from here as if there were none."""
        stream = self.config.seed
        known = self._cache.find(reference_key(self.config, stream, self._contents([])))
        if known:
            self._origins["original"] = "cached"
            return known.state
        with self._logging_to(_Log()):
            branch = GlobalModel(model.weights, copy.deepcopy(model.optimizer), model.ordinary_rounds)
            return server.learn(branch, stream, "counterfactual", server.deaf).weights

    def _retrain(self, server: Server, federation: Federation, number: int, forget: Sequence[str]) -> State:
        config = self.config
        stream = config.seed if number == 0 else stream_key(config.seed, "retrained", number) % 2**31
        key = self._keys[f"retrained-{number}"] = reference_key(config, stream, self._contents(forget))
        known = self._cache.find(key)
        self._origins[f"retrained-{number}"] = "cached" if known else "trained"
        if known is None and not federation.clients:
            # Nobody has any speech left: what such a federation learns is nothing.
            known = Learned(self._initial(stream), [], {}, PhaseCost().as_dict())
        elif known is None:
            cost = server.costs["retrain"] = PhaseCost()
            before = len(federation.faults)
            with self._logging_to(_Log()):
                model = server.start(self._initial(stream), "retrain")
                model = server.learn(model, stream, "retrain", server.deaf)
                known = self._log.learned(model.weights, cost)
            if len(federation.faults) == before:
                self._cache.keep(key, known)
        if number == 0:
            self._retrained_log = _Log.of(known)
            self._retrain_cost = PhaseCost.of(known.cost)
        return known.state

    def _judged(
        self,
        server: Server,
        federation: Federation,
        states: Mapping[str, State],
        retrained: Sequence[State],
        forget: Sequence[str],
        books: Mapping[str, DeletionRequest],
    ) -> dict[str, Any]:
        judge, config = self._judge, self.config
        references = [judge.measure(state, forget) for state in retrained]
        models = {
            name: judge.measure(states[name], forget) for name in ("original", "unlearned", "recovered")
        }
        models["retrained"] = {**references[0], "seeds": references}
        controls = {
            "none": models["original"],
            "destroy": judge.measure(self._destroyed(), forget),
        }
        costs = {**server.costs, "retrain": self._retrain_cost}
        open_ends = assemble.unfulfilled(server.requests.values(), server.unheard, federation.faults)
        return {
            "schema": assemble.SCHEMA,
            "config": config.model_dump(mode="json"),
            "seed": config.seed,
            "versions": assemble.versions(),
            "status": "partial" if open_ends else "complete",
            "failure": "; ".join(open_ends) or None,
            "unlearning": assemble.about_method(method_named(self.config.unlearning.method)),
            "corpus": self._about_corpus(),
            "models": models,
            "gap": assemble.gaps(models, controls),
            "ranking": assemble.ranking(
                models, controls, config.unlearning.method, len(self.corpus.emotions)
            ),
            "references": self._keys,
            "requests": assemble.request_rows(server.requests.values(), books),
            "cost": assemble.costs(costs),
            "timeline": assemble.timeline(self._timeline.rows, self._timeline.curve, judge, forget),
            "retrained_timeline": assemble.timeline(
                self._retrained_log.rows, self._retrained_log.curve, judge, forget
            ),
            "faults": assemble.fault_rows(federation.faults),
            "ledger": self._about_ledger(),
            "times": {
                "started": self._started.isoformat(timespec="seconds"),
                "wall_seconds": perf_counter() - self._start,
                "phases": self._seconds,
                "references": self._origins,
            },
        }

    # ---- watching (server.Observer) ------------------------------------------------------------------

    def look(self, state: State) -> Predictions:
        """The judge's predictions with these weights."""
        return self._judge.predictions(state)

    def saw(self, row: Mapping[str, Any], predictions: Predictions | None) -> None:
        """A round is over: keep it, write a line to metrics.jsonl, move the progress display."""
        self._log.rows.append(dict(row))
        self._log.curve.append(predictions)
        point = self._judge.curve_point(predictions) if predictions is not None else None
        measures = vars(point) if point else {}
        self.run.append_metrics({**row, **measures, "seconds": perf_counter() - self._start})
        self._progress.advance(row, point)

    def request_reached(self, request: ServedRequest, state: RequestState, round: int) -> None:
        """Into the ledger."""
        self._ledger.append(request.id, request.client, round, str(state))

    # ---- parts ---------------------------------------------------------------------------------------

    def _initial(self, stream: int) -> State:
        model = build_model(self.config.model, len(self.corpus.emotions), rng_for(stream, "initial weights"))
        return {k: v.clone() for k, v in model.state_dict().items()}

    def _destroyed(self) -> State:
        assert self._original is not None
        fresh = self._initial(stream_key(self.config.seed, "destroy") % 2**31)
        return {k: self._original[k] if k.startswith("norm.") else v for k, v in fresh.items()}

    def _served(self, model: GlobalModel) -> None:
        self._unlearned = model.weights

    def _contents(self, forget: Sequence[str]) -> list[str]:
        gone = set(forget)
        kept = [[u.id for u in share.train if u.id not in gone] for share in self.partition.clients]
        return [self._judge.content_of(ids) if ids else "" for ids in kept]

    def _make_server(self, federation: Federation) -> Server:
        card = REFERENCES.get(self.config.unlearning.method)
        if card is None:
            return Server(federation, self.config, self._template, self)
        return ReferenceServer(federation, self.config, self._template, self, card)

    def _books(self) -> dict[str, DeletionRequest]:
        shares = self.partition.clients
        return {r.id: r for s in shares for r in RequestBook(self.run.vault(s.client)).all()}

    def _about_ledger(self) -> dict[str, Any]:
        ledger = Ledger(self.run.ledger)
        try:
            return {"entries": len(ledger.entries()), "head": ledger.head()}
        finally:
            ledger.close()

    def _about_corpus(self) -> dict[str, Any]:
        return {
            "name": self.corpus.name,
            "utterances": len(self.corpus.utterances),
            "speakers": len(self.corpus.speakers),
            "clients": len(self.partition.clients),
            "emotions": list(self.corpus.emotions),
            "unseen_speakers": len({u.speaker for u in self.partition.unseen}),
            "warnings": list(self.corpus.warnings),
        }

    @contextmanager
    def _phase(self, name: str, rounds: int | None) -> Iterator[None]:
        start = perf_counter()
        with self._progress.phase(name, rounds):
            yield
        self._seconds[name] = perf_counter() - start

    @contextmanager
    def _logging_to(self, log: _Log) -> Iterator[None]:
        previous, self._log = self._log, log
        try:
            yield
        finally:
            self._log = previous


def _finished(state: State, config: Config) -> GlobalModel:
    return GlobalModel(dict(state), ServerOptimizer(config.training), config.training.rounds)


def _union(requests: Iterator[DeletionRequest]) -> list[str]:
    return sorted({u for r in requests for u in r.utterances})
