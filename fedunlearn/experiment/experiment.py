"""One prepared experiment, conducted: learn, listen, unlearn, recover, retrain, judge.

``Experiment.conduct`` is the body of the ServerApp and runs on whichever grid an engine provides.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter

import torch
from flwr.serverapp import Grid
from torch import Tensor

from fedunlearn.checkpoints import save_checkpoint
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.evaluation.verdict import STAGES
from fedunlearn.experiment import final_search
from fedunlearn.experiment.final_search import EngineStorage
from fedunlearn.experiment.kept_original import add
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.record import ExperimentRecord, SavedRun
from fedunlearn.experiment.recorder import RunRecorder
from fedunlearn.experiment.references import References, first_weights, untrained_weights
from fedunlearn.experiment.request_contents import close_requests, contents_of, utterances_of
from fedunlearn.experiment.results import JudgedModels, ResultsAssembler
from fedunlearn.experiment.shadows import Shadows, shadow_federations
from fedunlearn.experiment.timeline import build_timeline
from fedunlearn.models.contract import trained_names
from fedunlearn.results_schema import Results, Status, Times
from fedunlearn.run_progress import RunPhase
from fedunlearn.server.app import Server
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients
from fedunlearn.server.context import ServerContext
from fedunlearn.server.history import History
from fedunlearn.server.privileged import PrivilegedServer
from fedunlearn.server.requests import RequestKey
from fedunlearn.server.state import ServerState
from fedunlearn.unlearning import PRIVILEGED

Deletions = Mapping[RequestKey, DeletionRequest]
MakeServer = Callable[[ServerContext], Server]
"""makes the server of a run"""


def make_context(
    grid: Grid, prepared: PreparedRun, state: ServerState, callbacks: Callbacks, stop: threading.Event
) -> ServerContext:
    """Meet the clients, and make what the parts of the server share.

    Args:
        grid: to the clients.
        prepared: what the run is made of.
        state: of the server.
        callbacks: called for every round, request and checkpoint.
        stop: set from outside to end all waiting.
    """
    config, later = prepared.config, Counter[int]()
    for recording in config.partition.recordings:
        later[recording.client] += recording.count
    count = len(prepared.partition.clients)
    clients = Clients(grid, config.federation, count, stop, state, later)
    availability = Availability(config.availability, config.seed, config.partition.client_count)
    if state.model is None:  # later ones are made when something was purged
        callbacks.digests.on_commitments(clients.commitments, 0)
    return ServerContext(clients, config, prepared.template, state, callbacks, availability)


def make_server(context: ServerContext) -> Server:
    """Make the server that the unlearning method needs.

    Args:
        context: of the server.
    """
    card = PRIVILEGED.get(context.config.unlearning.method)
    return Server(context) if card is None else PrivilegedServer(context, card)


class Experiment:
    """A prepared run. ``conduct`` plays it, from where it stands, and leaves ``results``.

    Args:
        prepared: what the run is made of.
        progress: shown meanwhile.
        saved: where a resumed run stands; None = at the beginning.

    Attributes:
        prepared: what the run is made of.
        config: the experiment.
        run: the run folder.
        corpus: all speech of the run.
        partition: of the corpus.
        judge: who knows all speech.
        template: a model of the run's kind.
        saved: state and record, as they are checkpointed.
        state: of the server.
        record: of the experimenter.
        recorder: watches the run.
        stop: ends all waiting when it is set.
        results: of the run; None before it is over.
    """

    def __init__(self, prepared: PreparedRun, progress: Progress, saved: SavedRun | None = None) -> None:
        self.config, self.run, self.corpus = prepared.config, prepared.run, prepared.corpus
        self.partition, self.judge, self.template = prepared.partition, prepared.judge, prepared.template
        self.stop = threading.Event()
        self.results: Results | None = None
        self.prepared, self._cache, self._progress = prepared, prepared.cache, progress
        self._is_new = saved is None
        if saved is None:
            keeps_last = self.config.unlearning.reads_last_steps
            history = History(trained_names(self.template), keeps_last=keeps_last)
            saved = SavedRun(ServerState(history), ExperimentRecord())
        self.saved, self.state, self.record = saved, saved.state, saved.record
        self.recorder = RunRecorder(prepared, saved, progress)
        self._seconds: dict[str, float] = {}
        self._started = datetime.now(UTC)
        self._start = perf_counter()

    def conduct(
        self, grid: Grid, storage: EngineStorage | None = None, make: MakeServer = make_server
    ) -> None:
        """Learn, listen, unlearn, recover, retrain, judge; sets ``results``.

        Args:
            grid: to the clients.
            storage: where the engine keeps data; None = nowhere.
            make: makes the server; for audits, one that cheats.

        Raises:
            RunFailed: a round lost its quorum, or the run was interrupted.
        """
        torch.set_num_threads(1)
        config, record, recorder = self.config, self.record, self.recorder
        with self._phase(RunPhase.MEET, None):
            context = make_context(grid, self.prepared, self.state, self.recorder, self.stop)
        server = make(context)
        references = References(self.prepared, context, record, recorder)
        recorder.make_original_with(references.train_original)
        if self._is_new:
            server.begin(first_weights(config, self.judge.classes, config.seed))
            recorder.checkpoint(copies=2)
        with self._phase(RunPhase.LEARN, config.training.rounds):
            references.learn(server)
        with self._phase(RunPhase.UNLEARN, None):
            if server.listen_again(retry_open=record.finished):
                record.finished = False
            server.play(lambda: False)
            recorder.settle()
        deletions = recorder.read_deletions()
        record.contents = contents_of(deletions, self.corpus)
        models = self._finish_models(references, deletions)
        with self._phase(RunPhase.JUDGE, None):
            results = self._assembler.describe_finished(models, deletions, self._times())
        for name, weights in models.kept.items():
            file = self.run.checkpoints / f"{name}.safetensors"
            save_checkpoint(file, weights, {"model": name, "seed": config.seed})
        recorder.checkpoint(copies=2)
        if config.evaluation.search:
            with self._phase(RunPhase.SEARCH, None):
                tracked = self.state.requests.values()
                gone = {r.key: deletions[r.key] for r in tracked if r.gone and r.key in deletions}
                storage = storage or EngineStorage()
                final_search.search_run(self.prepared, gone, models.states, results, storage)
        final_search.note_ledger(self.run, recorder.ledger)
        record.finished = True
        recorder.checkpoint(copies=2)
        final_search.note_kept(self.run, self._cache.folder, results)
        results.times.phases = dict(self._seconds)
        self.results = results

    def write_failure(self, reason: str, interrupted: bool = False) -> Results:
        """Leave a results.json that says why the run failed, and how far it had come.

        Args:
            reason: one line.
            interrupted: whether the run was interrupted.

        Returns:
            its content
        """
        self.recorder.settle_evaluated()
        status: Status = "partial" if interrupted else "failed"
        deletions = self.recorder.read_deletions()
        results = self._assembler.describe_unfinished(status, reason, deletions, self._started)
        self.run.write_results(results.to_json())
        return results

    def close(self) -> None:
        """Close the ledger and let other processes resume the run."""
        self.recorder.close()

    def forget_set(self, deletions: Deletions) -> list[str]:
        """List the training utterances that have left the vaults, sorted.

        Args:
            deletions: all requests of the run, with the utterances that they name.
        """
        return utterances_of((r for r in self.state.requests.values() if r.gone), deletions)

    # ---- parts ---------------------------------------------------------------------------------------

    def _finish_models(self, references: References, deletions: Deletions) -> JudgedModels:
        """Train what the final models are compared with, and collect all of them."""
        config, record = self.config, self.record
        model = self.state.model
        initial = first_weights(config, self.judge.classes, config.seed)
        final = initial if model is None else model.weights
        if record.original is None:
            record.original = dict(final)
        forget, waiting = self.forget_set(deletions), utterances_of(self.state.open, deletions)
        # Of added recordings, which are in no corpus, the judge knows nothing but that they are gone.
        deleted = any(r.gone and r.utterances for r in self.state.requests.values())
        seeds = config.evaluation.retrained_seeds if deleted else 0
        with self._phase(RunPhase.RETRAIN, config.training.rounds * seeds):
            for number in range(seeds):
                references.retrain(number, forget, waiting)
        retrained = [learned.state for learned in record.retrained[:seeds]] or [record.original]
        states = {
            "original": record.original,
            "recovered": final,
            "unlearned": final if record.unlearned is None else record.unlearned,
            "retrained": retrained[0],
        }
        # The run folder keeps the original blurred along what was unlearned; of an ephemeral run, not at all.
        kept = dict(states)
        if record.blur is not None:
            kept["original"] = add(record.original, record.blur)
        if config.evaluation.ephemeral:
            del kept["original"]
        untrained = untrained_weights(config, self.judge.classes, record.original)
        shadows = self._train_shadows(states, deletions)
        return JudgedModels(states, retrained, untrained, kept, shadows)

    def _train_shadows(
        self, states: Mapping[str, Mapping[str, Tensor]], deletions: Deletions
    ) -> Shadows | None:
        """Run it again without random halves of what was unlearned; None where that is switched off."""
        config, count = self.config, self.config.evaluation.shadows
        if not count:
            return None
        with self._phase(RunPhase.SHADOWS, count):
            rows = self.record.log.rows
            return shadow_federations(
                config,
                self.judge,
                self.partition,
                build_timeline(self.state, rows, deletions, self.partition, config),
                {name: states[name] for name in STAGES},
                self._cache.folder,
                count,
                # The devices' processes keep their parts of a GPU until the run ends.
                config.evaluation.shadow_workers if self.template.device == "cpu" else 1,
                self._progress.step,
                self.stop,
            )

    @property
    def _assembler(self) -> ResultsAssembler:
        return ResultsAssembler(self.prepared, self.state, self.record)

    def _times(self) -> Times:
        return Times(
            started=self._started.isoformat(timespec="seconds"),
            wall_seconds=perf_counter() - self._start,
            phases=self._seconds,
            references=self.record.origins,
        )

    @contextmanager
    def _phase(self, phase: RunPhase, rounds: int | None) -> Iterator[None]:
        start = perf_counter()
        with self._progress.phase(phase, rounds):
            yield
        self._seconds[str(phase)] = perf_counter() - start


def write_completed(experiment: Experiment, results: Results) -> None:
    """Leave the results.json of an experiment that has ended, and close the requests that it answers.

    A complete ephemeral run then loses all that it could be resumed from.
    """
    experiment.run.write_results(results.to_json())
    close_requests(experiment.run, experiment.partition, experiment.saved)
    if experiment.config.evaluation.ephemeral and results.status == "complete":
        final_search.wipe_references(experiment.run)
