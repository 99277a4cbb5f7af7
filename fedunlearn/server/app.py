"""The server's main line: learn, listen, unlearn, recover. It knows numbers and weights, and no speech.

The timeline counts rounds: those of learning, then those after it. Before each round the server asks every
client for deletion requests (``request_tracker``). Where there are any, the requesters unlearn, each on its
own forget set alone; their updates join the global model (``unlearn_step``); recovery rounds follow.
The server goes from one ``ServerStep`` to the next, and all that lasts is in its ``ServerState``, so that a
run may stop after any step and be resumed.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from fedunlearn.blockwise import difference
from fedunlearn.deletion.request import RequestState
from fedunlearn.messages.phase import Phase
from fedunlearn.server.context import ServerContext
from fedunlearn.server.history import History
from fedunlearn.server.left_out import keep_left_out
from fedunlearn.server.main_line import MainLine
from fedunlearn.server.request_queue import RequestQueue
from fedunlearn.server.request_tracker import RequestTracker, weights_digest
from fedunlearn.server.requests import TrackedRequest, ids_of
from fedunlearn.server.rewind import rewind_round
from fedunlearn.server.state import GlobalModel, ServerStep
from fedunlearn.server.training_rounds import RoundResult, TrainingRounds
from fedunlearn.server.unlearn_step import Outcomes, UnlearnStep
from fedunlearn.unlearning import METHODS


class Server:
    """Takes the steps of a run, over clients that any engine provides.

    Args:
        context: of this server; it goes on from the state in there.
    """

    def __init__(self, context: ServerContext) -> None:
        self._clients, self._config, self._callbacks = context.clients, context.config, context.callbacks
        self.state, self._template = context.state, context.template
        self.rounds = TrainingRounds(context)
        self.tracker, self.queue = RequestTracker(context), RequestQueue(context)
        self.unlearn_step = UnlearnStep(context)
        self.main_line = MainLine(context, self.rounds, self.queue)

    def begin(self, initial: Mapping[str, Tensor]) -> None:
        """Calibrate: make the first global model, with the normalisation constants of all models of this run.

        Devices send their moments here and never again: the moments of a set before and after a
        deletion would tell what was deleted.

        Args:
            initial: weights that learning begins with.
        """
        model, known = self.rounds.calibrate(initial), self.state.history
        self._callbacks.digests.on_model(model.weights, Phase.CALIBRATE, 0)
        self.state.model = model
        left_out = keep_left_out(self._config, self._template)
        self.state.history = History(
            known.trained,
            model.weights,
            keeps_last=known.keeps_last,
            left_out=left_out,
            rewind_to=rewind_round(self._config),
        )

    def play(self, until: Callable[[], bool]) -> None:
        """Take steps until the run is over.

        Args:
            until: called between two steps; True = stop here.
        """
        state = self.state
        while state.step is not ServerStep.OVER and not until():
            match state.step:
                case ServerStep.LISTEN:
                    self.tracker.listen()
                    state.step = ServerStep.SERVE
                case ServerStep.SERVE:
                    self._serve()
                case ServerStep.PURGE:
                    self._purge()
                case ServerStep.ROUND:
                    self.main_line.play_round()

    def listen_again(self, retry_open: bool) -> bool:
        """Find out whether deletions have been requested since the run ended.

        Clients that cannot be reached are waited for, as long as ``deletions.patience``. If nobody requests
        anything, the state is as if the server had not listened.

        Args:
            retry_open: whether requests that were left open are tried again, as are clients that were silent.

        Returns:
            whether the run goes on
        """
        state = self.state
        if state.step is not ServerStep.OVER:
            return False
        before, silent = state.snapshot(), set(state.held_out)
        for waited in range(self._config.deletions.patience + 1):
            if waited:
                state.next_timeline_round()
                state.rounds_done += 1
            self.tracker.listen()
            silent -= {c for c, rounds_done in state.last_report.items() if rounds_done == state.rounds_done}
            new = len(state.requests) > before.requests
            if new or not silent or state.open or state.silent_clients:
                break
        goes_on = new or (retry_open and bool(state.open or state.silent_clients))
        if goes_on:
            state.step = ServerStep.SERVE
            state.idle_rounds = state.waiting_rounds = 0
        else:
            state.restore(before)
        return goes_on

    def _serve(self) -> None:
        """Have requesters unlearn and their updates join. Requests that fail stay accepted, to be retried."""
        state = self.state
        # Deleting held-out speech changes no model.
        if any(r.utterances for r in state.open) and not state.deletion_requested:
            self._callbacks.on_first_request()
            state.deletion_requested = True
        applied = self._unlearn_what_is_ripe()
        state.step = ServerStep.PURGE if self.tracker.to_purge() else ServerStep.ROUND
        if applied and state.model is not None:
            ids = ids_of(applied)
            weights = state.model.weights
            self.rounds.report_round(state.timeline_round, Phase.UNLEARN, weights, RoundResult(), True, ids)
        if applied or state.step is ServerStep.PURGE:
            # What is purged next can never be unlearned again, nor trained on in a side training: the model,
            # and that a deletion was requested, must outlast any crash.
            self._callbacks.checkpoint(copies=2)
        for request in applied:
            self._callbacks.on_request_state(request, RequestState.APPLIED, state.timeline_round)

    def _unlearn_what_is_ripe(self) -> list[TrackedRequest]:
        state, model = self.state, self.state.model
        if model is None:
            return []
        weights, outcomes = self.unlearn_step.join_late_replies(model.weights)
        served = GlobalModel(weights, model.optimizer, model.learning_rounds)
        requests = [r for r in self.queue.ready() if r.learned]
        if requests:
            served, at_once = self._unlearn(served, requests)
            outcomes |= {r.key: at_once[r.client] for r in requests if r.client in at_once}
        applied = [state.requests[key] for key in outcomes]
        if not applied:
            return []
        for request in applied:
            joint = [r.id for r in applied if r.client == request.client and r is not request]
            request.outcome = {**outcomes[request.key], "joint_with": joint}
            self.tracker.move(request, RequestState.UNLEARNED)
            request.lease = None
        if self._config.recovery.reversion == "removed":
            state.unlearn_steps.append(difference(served.weights, model.weights))
            state.costs[Phase.RECOVER].bytes_stored += sum(
                w.numel() * w.element_size() for w in served.weights.values()
            )
        digest, before = weights_digest(served.weights), weights_digest(model.weights)
        for request in applied:
            request.round_applied, request.model = state.timeline_round, digest
            request.model_before = before
            self.tracker.note(request, RequestState.APPLIED)
        state.model = served
        state.recovery_rounds_left, state.waiting_rounds = self._config.recovery.rounds, 0
        return applied

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        """The model after the requesters' step, and the outcome at each that replied at once."""
        log_odds = METHODS[self._config.unlearning.method].reads_log_odds
        scalars = self.unlearn_step.request_scalars(model.weights, log_odds)
        weights, outcomes = self.unlearn_step.take(model.weights, requests, scalars)
        return GlobalModel(weights, model.optimizer, model.learning_rounds), outcomes

    def _purge(self) -> None:
        state = self.state
        self.tracker.purge(self.tracker.to_purge())
        if state.model is not None:
            self._callbacks.digests.on_model(state.model.weights, Phase.PURGE, state.timeline_round)
        state.step = ServerStep.ROUND
        self._callbacks.checkpoint(copies=2)
