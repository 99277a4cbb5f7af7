"""One prepared experiment, played: learn, listen, unlearn, recover, retrain, judge.

``Experiment.conduct`` is the body of the ServerApp and runs on whichever grid an engine provides.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from flwr.serverapp import Grid
from torch import Tensor

import fedunlearn.experiment.final_search as closing
from fedunlearn.checkpoints import save_checkpoint
from fedunlearn.config import Config
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.deletion.schedule import any_while_learning
from fedunlearn.evaluation.judge import Judge, Predictions
from fedunlearn.evaluation.verdict import STAGES
from fedunlearn.experiment.analyses import measure_request_privacy
from fedunlearn.experiment.background_evaluation import BackgroundEvaluation
from fedunlearn.experiment.checkpoint import RunCheckpoints
from fedunlearn.experiment.kept_original import add, noise_along
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.experiment.references import References, first_weights
from fedunlearn.experiment.request_contents import contents_of, named_by, read_books
from fedunlearn.experiment.results import JudgedModels, ResultsAssembler
from fedunlearn.experiment.shadows import Shadows, shadow_federations
from fedunlearn.experiment.timeline import build_timeline
from fedunlearn.ledger import Ledger
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel, constants_of, trained_names
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import stream_key
from fedunlearn.server.app import Server
from fedunlearn.server.clients import Clients
from fedunlearn.server.history import History
from fedunlearn.server.privileged import PrivilegedServer
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import Log, ServerStep, Standing
from fedunlearn.unlearning import PRIVILEGED

StateDict = Mapping[str, Tensor]


class Experiment:
    """A prepared run. ``conduct`` plays it, from where it stands, and leaves ``results``.

    Args:
        config: validated.
        run: its folder.
        corpus, partition: of it.
        judge: who knows all speech.
        template: a model of its kind.
        cache: of references.
        progress: shown meanwhile.
        standing: where the run stands; None = at the beginning.
    """

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
        standing: Standing | None = None,
    ) -> None:
        self.config, self.run, self.corpus, self.partition = config, run, corpus, partition
        self.stop = threading.Event()
        self.results: dict[str, Any] | None = None
        self._judge, self._cache, self._progress = judge, cache, progress
        self._ledger = Ledger(run.ledger, stream_key(config.seed, "ledger salt").to_bytes(16, "big"))
        self.ledger_head = self._ledger.head
        keeps_last = config.unlearning.reads_last_steps
        self.standing = standing or Standing(History(trained_names(template), keeps_last=keeps_last))
        self.template, self.corpus_digest = template, judge.content_of([])
        self._shelf = RunCheckpoints(run.standings, config, self.corpus_digest, cache.folder)
        self._new = standing is None
        self._unkept = 0
        self._log = self.standing.log
        aside = config.federation.engine != "inline"
        self._lookout = BackgroundEvaluation(judge.looking(aside), self._seen, aside)
        self._federation: Clients | None = None
        self._references: References | None = None
        self.engine_folders: Callable[[], Sequence[Path]] = tuple
        """where the engine, too, writes; set by whoever knows"""
        self.elsewhere: closing.Elsewhere | None = None
        """nodes that devices and their vaults live on; None = they live in the run folder"""
        self._seconds: dict[str, float] = {}
        self._started = datetime.now(UTC)
        self._start = perf_counter()
        self._catch_up()

    # ---- the story -----------------------------------------------------------------------------------

    def conduct(self, grid: Grid) -> None:
        """Learn, listen, unlearn, recover, retrain, judge; sets ``results``.

        Raises:
            RunFailed: a round lost its quorum, or the run was interrupted.
        """
        torch.set_num_threads(1)
        config, standing = self.config, self.standing
        with self._phase("meet", None):
            later = Counter[int]()
            for recording in config.partition.recordings:
                later[recording.client] += recording.count
            clients = len(self.partition.clients)
            federation = Clients(grid, config.federation, clients, self.stop, standing.faults, later)
        self._federation = federation
        # Of a run that is taken up, the server's own numbers: a purge may have been cut off in the middle.
        standing.examples = federation.examples = standing.examples or federation.examples
        standing.held_out = federation.held_out = standing.held_out or federation.held_out
        server = self._make_server(federation)
        self._references = References(
            server, config, self._cache, self._judge, self.partition, self.run, self._logging_to, self.keep
        )
        if self._new:
            server.begin(self._first_weights())
            self.keep(copies=2)
        rounds = config.training.rounds
        with self._phase("learn", rounds):
            self._learn(server, self._references)
        with self._phase("unlearn and recover", None):
            server.ask_again()
            server.play(lambda: False)
            self._lookout.settle()
        if standing.original is None:
            standing.original = dict(self._final)
        original = standing.original
        books = self._books()
        standing.contents = contents_of(books, self.corpus)
        forget = self._forgotten(books)
        states: dict[str, StateDict] = {"original": original, "recovered": self._final}
        states["unlearned"] = self._final if standing.unlearned is None else standing.unlearned
        seeds = config.evaluation.retrained_seeds if forget else 0
        with self._phase("retrain", rounds * seeds):
            for number in range(seeds):
                self._references.retrain(number, forget, named_by(standing.open, books))
        retrained = [learned.state for learned in standing.retrained[:seeds]] or [original]
        states["retrained"] = retrained[0]
        shadows = self._shadows(states, books)
        with self._phase("judge", None):
            kept = self._kept(states)
            models = JudgedModels(states, retrained, self._destroyed(), kept, shadows)
            results = self._assembler.describe_finished(models, books, self._times())
        for name, state in kept.items():
            file = self.run.checkpoints / f"{name}.safetensors"
            save_checkpoint(file, state, {"model": name, "seed": config.seed})
        self.keep(copies=2)
        if config.evaluation.search:
            with self._phase("search", None):
                self._close(results, states, books)
        closing.note_ledger(self.run, self._ledger)
        standing.finished = True
        self.keep(copies=2)
        closing.note_kept(self.run, self._cache.folder, results)
        self.results = results

    def _close(
        self,
        results: dict[str, Any],
        states: Mapping[str, StateDict],
        books: Mapping[RequestKey, DeletionRequest],
    ) -> None:
        """Search for what was deleted, and tell the people who asked what was measured."""
        gone = self._gone(books)
        receipts = closing.receipts_of(self.run, gone)
        folders = [self.run.path, self._cache.folder, *self.engine_folders()]
        look = self.elsewhere.search if self.elsewhere else None
        spared = self.config.corpus.folders
        found = closing.search(folders, self.partition, gone, receipts, self.template, look, spared)
        results["times"]["searched"] = {part: found.pop(f"scanned_{part}") for part in ("files", "bytes")}
        results["traces"] = found
        problems = closing.left_behind(found, self.elsewhere.lost if self.elsewhere else [], gone)
        if problems:
            failure = "; ".join(filter(None, (results["failure"], *problems)))
            results |= {"status": "partial", "failure": failure}
        closing.complete_receipts(receipts, gone, self._judge, states, results["gap"])

    def write_failure(self, reason: str, interrupted: bool = False) -> dict[str, Any]:
        """Leave, and return, a results.json that says that, why, and how far the run had come."""
        self._lookout.settle_seen()
        status: Literal["partial", "failed"] = "partial" if interrupted else "failed"
        results = self._assembler.describe_unfinished(status, reason, self._books(), self._started)
        self.run.write_results(results)
        return results

    def close(self) -> None:
        """Close the ledger and let other processes take the run up."""
        self._lookout.close()
        self._ledger.close()
        self.run.unlock()

    def _learn(self, server: Server, references: References) -> None:
        config, standing, stream = self.config, self.standing, self.config.seed
        key = standing.keys["original"] = references.key(stream, [])
        if standing.rounds_done == 0 and standing.step is ServerStep.LISTEN:
            clients = len(self.partition.clients)
            quiet = not any_while_learning(config.deletions, clients, config.training.rounds, config.seed)
            known = self._cache.find(key) if quiet else None
            # A retrained model of the very same data has no history, and not every history has all.
            enough = known and known.history and (known.history.last or not standing.history.keeps_last)
            standing.origins["original"] = "cached" if enough else "trained"
            if enough and known and known.history:
                references.begin_after(known, known.history)
        whole = server.learning
        server.play(lambda: not server.learning)
        self._lookout.settle()
        if whole and standing.original is None and standing.model and not standing.faults:
            # First where the run stands: taken up, it must not find itself in the cache.
            self.keep(copies=2)
            learned = standing.log.learned(standing.model.weights, standing.costs["learn"], standing.history)
            references.cache(key, learned, [])

    def _kept(self, states: Mapping[str, StateDict]) -> dict[str, StateDict]:
        """The models as the run folder keeps them: of what was unlearned, the original tells no more."""
        blur = self.standing.blur
        return {**states, "original": states["original"] if blur is None else add(states["original"], blur)}

    @property
    def _final(self) -> StateDict:
        model = self.standing.model
        return self._first_weights() if model is None else model.weights

    def _first_weights(self) -> StateDict:
        return first_weights(self.config, self._judge.classes, self.config.seed)

    def _shadows(
        self, states: Mapping[str, StateDict], books: Mapping[RequestKey, DeletionRequest]
    ) -> Shadows | None:
        """The run done again without random halves of what was forgotten; None where that is switched off."""
        config, count = self.config, self.config.evaluation.shadows
        if not count:
            return None
        with self._phase("shadows", count):
            plan = build_timeline(self.standing, books, self.partition, config)
            return shadow_federations(
                config,
                self._judge,
                self.partition,
                plan,
                {name: states[name] for name in STAGES},
                self._cache.folder,
                count,
                # The devices' processes keep their parts of a GPU until the run ends.
                config.evaluation.shadow_workers if self.template.device == "cpu" else 1,
                self._progress.step,
                self.stop,
            )

    # ---- watching (server.Observer) ------------------------------------------------------------------

    def on_round_end(self, row: Mapping[str, Any], weights: StateDict | None) -> None:
        """A round is over."""
        self._lookout.add_round(self._log, dict(row), weights)

    def _seen(self, log: Log, row: dict[str, Any], predictions: Predictions | None) -> None:
        """Keep a round's row, write a line to metrics.jsonl, move the progress display."""
        log.rows.append(row)
        log.curve.append(predictions)
        point = self._judge.curve_point(predictions) if predictions is not None else None
        measures = vars(point) if point else {}
        self.run.append_metrics({**row, **measures, "seconds": perf_counter() - self._start})
        self.standing.metrics += 1
        self._progress.advance(row, point)

    def on_request_state(self, request: TrackedRequest, state: str, round: int) -> None:
        """Into the ledger."""
        self._ledger.append(request.id, request.client, round, str(state))

    def on_first_request(self) -> None:
        """Somebody has asked, for the first time: the original is the model had nobody done so."""
        assert self._references is not None
        self.standing.original = self._references.counterfactual_original()

    def on_unlearn_updates(
        self, before: StateDict, updates: Sequence[Update], asked: Mapping[int, Sequence[str]], round: int
    ) -> dict[int, Any]:
        """What each update tells of its client's forget set: the privacy of the request itself."""
        about, standing = (self.partition, self.config, self.standing.rounds_done, before), self.standing
        found = {}
        for update in updates:
            books = list(self._books([update.client]).values())
            names = asked[update.client]
            found[update.client] = measure_request_privacy(self._judge, books, *about, update, names)
            secret = self._judge.content_of(sorted(u for r in books if r.id in names for u in r.utterances))
            noise = noise_along(update.difference, self.config.seed, f"{round} {secret}")
            standing.blur = noise if standing.blur is None else add(standing.blur, noise)
        return found

    def keep(self, copies: int = 1) -> None:
        """Write down where the run stands."""
        every = self.config.federation.checkpoint_every
        self._unkept += 1
        # Not while the judge looks at this very round: a round later it has seen it, and nobody has waited.
        due = self._unkept > every or (self._unkept == every and self._lookout.settled)
        if every and (copies > 1 or due):
            self._lookout.settle()
            for _ in range(copies):
                self._shelf.put(self.standing, self._ledger.head())
            self._unkept = 0

    def _catch_up(self) -> None:
        """Files that ran ahead of, or behind, the standing of a run that is taken up."""
        if self.run.truncate_metrics(self.standing.metrics) < self.standing.metrics:
            self._progress.warn(f"{self.run.metrics}: lacks lines of rounds before this one")
        for request in self.standing.requests.values():
            for step in request.history:
                self._ledger.append(request.id, request.client, step["round"], step["state"])

    # ---- parts ---------------------------------------------------------------------------------------

    def _destroyed(self) -> StateDict:
        original = self.standing.original
        assert original is not None
        fresh = first_weights(
            self.config, self._judge.classes, stream_key(self.config.seed, "destroy") % 2**31
        )
        return {**fresh, **constants_of(original)}

    def _make_server(self, federation: Clients) -> Server:
        card = PRIVILEGED.get(self.config.unlearning.method)
        if card is None:
            return Server(federation, self.config, self.template, self.standing, self)
        return PrivilegedServer(federation, self.config, self.template, self.standing, self, card)

    def _books(self, clients: Sequence[int] | None = None) -> dict[RequestKey, DeletionRequest]:
        of = range(len(self.partition.clients)) if clients is None else clients
        return read_books(self.run, self.corpus, self.standing.contents, of)

    def _gone(self, books: Mapping[RequestKey, DeletionRequest]) -> dict[RequestKey, DeletionRequest]:
        """Requests whose utterances have left the vaults."""
        return {r.key: books[r.key] for r in self.standing.requests.values() if r.gone and r.key in books}

    def _forgotten(self, books: Mapping[RequestKey, DeletionRequest]) -> list[str]:
        return named_by((r for r in self.standing.requests.values() if r.gone), books)

    @property
    def _assembler(self) -> ResultsAssembler:
        return ResultsAssembler(
            self.config,
            self.corpus,
            self.partition,
            self._judge,
            self.template,
            self.run.ledger,
            self.standing,
        )

    def _times(self) -> dict[str, Any]:
        return {
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": perf_counter() - self._start,
            "phases": self._seconds,
            "references": self.standing.origins,
        }

    @contextmanager
    def _phase(self, name: str, rounds: int | None) -> Iterator[None]:
        start = perf_counter()
        with self._progress.phase(name, rounds):
            yield
        self._seconds[name] = perf_counter() - start

    @contextmanager
    def _logging_to(self, log: Log) -> Iterator[None]:
        previous, self._log = self._log, log
        try:
            yield
            self._lookout.settle()
        finally:
            self._log = previous
