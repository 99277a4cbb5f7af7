"""Watches a run for the experimenter: rows, ledger, evaluations, checkpoints, progress."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.analyses import measure_request_privacy
from fedunlearn.experiment.background_evaluation import BackgroundEvaluation
from fedunlearn.experiment.checkpoint import RunCheckpoints
from fedunlearn.experiment.kept_original import add, noise_along
from fedunlearn.experiment.ledger_digests import LedgerDigests
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.record import Log, SavedRun
from fedunlearn.experiment.request_contents import read_deletions
from fedunlearn.ledger import Ledger, LedgerReader
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.seeding import stream_key
from fedunlearn.server.requests import RequestKey, TrackedRequest


class RunRecorder:
    """The callbacks of a run's server.

    Args:
        prepared: what the run is made of.
        saved: the server's state and the record that is kept of the run; both are checkpointed.
        progress: shown meanwhile.

    Attributes:
        digests: writes those of models, updates and recordings into the ledger.
    """

    def __init__(self, prepared: PreparedRun, saved: SavedRun, progress: Progress) -> None:
        config, run, judge = prepared.config, prepared.run, prepared.judge
        self._prepared, self._saved, self._progress = prepared, saved, progress
        self._state, self._record, self._log = saved.state, saved.record, saved.record.log
        self._ledger = Ledger(run.ledger, stream_key(config.seed, "ledger salt").to_bytes(16, "big"))
        self.digests = LedgerDigests(self._ledger)
        self._checkpoints = RunCheckpoints(
            run.standings, config, prepared.corpus_digest, prepared.cache.folder
        )
        self._rounds_since_checkpoint = 0
        in_background = config.federation.engine != "inline"
        self._evaluation = BackgroundEvaluation(
            judge.looking(in_background), self._record_round, in_background
        )
        self._make_original: Callable[[], StateDict] | None = None
        self._listeners: list[Callable[[Mapping[str, Any]], None]] = []
        self._start = perf_counter()
        progress.record_in(run)
        self._catch_up()

    @property
    def ledger(self) -> LedgerReader:
        """The run's ledger."""
        return self._ledger

    def make_original_with(self, make: Callable[[], StateDict]) -> None:
        """Set how the original is made when a deletion is requested.

        Args:
            make: returns the weights of the model as if no deletion had been requested.
        """
        self._make_original = make

    def add_listener(self, listener: Callable[[Mapping[str, Any]], None]) -> None:
        """Register a function to be called whenever a round has ended.

        Args:
            listener: called with the row of the round.
        """
        self._listeners.append(listener)

    # ---- callbacks of the server ---------------------------------------------------------------------

    def on_round_end(self, row: Mapping[str, Any], weights: StateDict | None) -> None:
        """Note a round, and have its model evaluated.

        Args:
            row: of the timeline, or of a training beside it.
            weights: to be evaluated; None = not this time.
        """
        if row["phase"] == Phase.UNLEARN and row["requests"]:
            self._record.unlearned = weights
        self._evaluation.add_round(self._log, dict(row), weights)
        for listener in self._listeners:
            listener(row)

    def on_request_state(self, request: TrackedRequest, state: str, timeline_round: int) -> None:
        """Write a request's new state into the ledger.

        Args:
            request: the request.
            state: that it has reached.
            timeline_round: the timeline round.
        """
        self._ledger.append(request.id, request.client, timeline_round, str(state))

    def ledger_head(self) -> str:
        """Return the hash of the ledger's last row."""
        return self._ledger.head()

    def on_first_request(self) -> None:
        """Make the original, which is the model as if no deletion had been requested."""
        if self._record.original is None:
            assert self._make_original is not None
            self._record.original = self._make_original()

    def on_unlearn_updates(
        self,
        before: StateDict,
        updates: Sequence[Update],
        request_ids: Mapping[int, Sequence[str]],
        timeline_round: int,
    ) -> dict[int, Any]:
        """Measure what each update reveals about its client's forget set, and add noise along it to the blur.

        Args:
            before: the global model's weights.
            updates: of the requesters.
            request_ids: client -> ids of the requests that its update serves.
            timeline_round: the timeline round.

        Returns:
            client -> what was measured on its update
        """
        judge, config, record = self._prepared.judge, self._prepared.config, self._record
        about = (self._prepared.partition, config, self._state.rounds_done, before)
        found = {}
        for update in updates:
            deletions = list(self.read_deletions([update.client]).values())
            ids = request_ids[update.client]
            privacy = measure_request_privacy(judge, deletions, *about, update, ids)
            found[update.client] = privacy.to_json()
            forget = sorted(u for r in deletions if r.id in ids for u in r.utterances)
            secret = f"{timeline_round} {judge.content_of(forget)}"
            noise = noise_along(update.difference, config.seed, secret)
            record.blur = noise if record.blur is None else add(record.blur, noise)
        return found

    def checkpoint(self, copies: int = 1) -> None:
        """Write down the state of the run.

        Args:
            copies: files to write; with 1, most rounds are left out as federation.checkpoint_every says.
        """
        every = self._prepared.config.federation.checkpoint_every
        self._rounds_since_checkpoint += 1
        rounds = self._rounds_since_checkpoint
        # Not while the judge evaluates this very round: a round later it has done so, and nothing waited.
        due = rounds > every or (rounds == every and self._evaluation.settled)
        if every and (copies > 1 or due):
            self._evaluation.settle()
            self._ledger.flush()
            for _ in range(copies):
                self._checkpoints.put(self._saved, self._ledger.head())
            self._rounds_since_checkpoint = 0

    # ---- for the experiment --------------------------------------------------------------------------

    def read_deletions(self, clients: Sequence[int] | None = None) -> dict[RequestKey, DeletionRequest]:
        """Read the deletion requests of devices, with the utterances that they name or named.

        Args:
            clients: whose; None = everybody's.
        """
        prepared = self._prepared
        of = range(len(prepared.partition.clients)) if clients is None else clients
        return read_deletions(prepared.run, prepared.corpus, self._record.contents, of)

    def settle(self) -> None:
        """Wait until the models of all rounds are evaluated."""
        self._evaluation.settle()

    def settle_evaluated(self) -> None:
        """Note the rounds whose models are evaluated, without waiting for the rest."""
        self._evaluation.settle_evaluated()

    @contextmanager
    def logging_to(self, log: Log) -> Iterator[None]:
        """Inside, rounds are noted in another log.

        Args:
            log: of a side training.
        """
        previous, self._log = self._log, log
        try:
            yield
            self._evaluation.settle()
        finally:
            self._log = previous

    def close(self) -> None:
        """Close the ledger and let other processes resume the run."""
        self._evaluation.close()
        self._ledger.close()
        self._prepared.run.unlock()

    # ---- parts ---------------------------------------------------------------------------------------

    def _record_round(self, log: Log, row: dict[str, Any], predictions: Predictions | None) -> None:
        """Keep a round's row, write a line to metrics.jsonl, move the progress display."""
        log.rows.append(row)
        log.curve.append(predictions)
        point = self._prepared.judge.curve_point(predictions) if predictions is not None else None
        measures = vars(point) if point else {}
        seconds = perf_counter() - self._start
        self._prepared.run.append_metrics({**row, **measures, "seconds": seconds})
        self._record.metrics += 1
        self._progress.advance(row, point)

    def _catch_up(self) -> None:
        """Bring files that are ahead of or behind the checkpoint of a resumed run in line with it."""
        run, metrics = self._prepared.run, self._record.metrics
        if run.truncate_metrics(metrics) < metrics:
            self._progress.warn(f"{run.metrics}: lacks lines of rounds before this one")
        for request in self._state.requests.values():
            for step in request.history:
                self._ledger.append(request.id, request.client, step["round"], step["state"])
