"""The rounds of the main line: learning, recovery, and waiting for what is still to come."""

from fedunlearn.messages.phase import Phase
from fedunlearn.server.clients import settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.late_clients import LateClients
from fedunlearn.server.request_queue import RequestQueue
from fedunlearn.server.state import GlobalModel, ServerStep
from fedunlearn.server.steps import apply_recovery
from fedunlearn.server.training_rounds import TrainingRounds, is_evaluated
from fedunlearn.server.unknown_speakers import measure_unknown_speakers


class MainLine:
    """Plays the round that is due, and moves the state on to the next step.

    Args:
        context: of the server.
        rounds: of the server.
        queue: of the server.
    """

    def __init__(self, context: ServerContext, rounds: TrainingRounds, queue: RequestQueue) -> None:
        self._clients, self._config, self._callbacks = context.clients, context.config, context.callbacks
        self._context, self._state, self._rounds, self._queue = context, context.state, rounds, queue

    @property
    def learning(self) -> bool:
        """Whether ordinary training rounds of the main line are still to come."""
        model = self._state.model
        rounds = 0 if model is None else model.learning_rounds
        # Where all clients have deleted everything, there is nothing left to learn from.
        empty = self._state.step is ServerStep.ROUND and not any(self._state.examples.values())
        return rounds < self._config.training.rounds and not empty

    def play_round(self) -> None:
        """Play the round that is due, of recovery or of learning, or none; then the next step."""
        state = self._state
        if self.learning:
            assert state.model is not None
            if state.recovery_rounds_left:
                self._recover(state.model)
                self._callbacks.checkpoint()
                return
            self._learn(state.model)
            state.rounds_done += 1
        else:
            self._play_after_learning()
        if state.step is not ServerStep.OVER:
            state.step = ServerStep.LISTEN
            self._callbacks.checkpoint()

    def _learn(self, model: GlobalModel) -> None:
        state = self._state
        state.next_timeline_round()
        with self._clients.withholding(state.open):
            if not self._clients.active:
                model.learning_rounds += 1  # all that is left is to be unlearned
                return
            stream, timeline_round = self._config.seed, state.timeline_round
            model, result = self._rounds.train_round(model, stream, timeline_round, Phase.LEARN)
            if LateClients.of(self._config).are_measured_after(model.learning_rounds):
                state.unknown = measure_unknown_speakers(self._context, model.weights)
        state.model = model
        state.history.keep_model(model.weights, model.learning_rounds)
        evaluate = is_evaluated(self._config, model.learning_rounds)
        self._rounds.report_round(timeline_round, Phase.LEARN, model.weights, result, evaluate)

    def _recover(self, model: GlobalModel) -> None:
        """Play one recovery round on what the clients still hold."""
        state, recovery = self._state, self._config.recovery
        state.recovery_rounds_left -= 1
        with self._clients.withholding(state.open):
            if not self._clients.active:
                return
            state.next_timeline_round()
            config = settings(
                round=state.timeline_round,
                rounds_done=state.rounds_done,
                phase=str(Phase.RECOVER),
                stream=self._config.seed,
                steps=recovery.steps,
                epochs=recovery.epochs,
                lr=recovery.lr,
            )
            result = self._rounds.recovery_round(model.weights, config)
        weights = apply_recovery(model.weights, result.mean, recovery.reversion, state.unlearn_steps)
        state.model = GlobalModel(weights, model.optimizer, model.learning_rounds)
        self._rounds.report_round(state.timeline_round, Phase.RECOVER, weights, result, True)

    def _play_after_learning(self) -> None:
        """Recover, or wait, until nothing is planned and nothing is open, or patience is over."""
        state, deletions = self._state, self._config.deletions
        last = deletions.last_round(self._config.training.rounds)
        planned = max([last, *self._queue.leases(), *(reply.due for reply in state.late_replies)])
        waits = state.rounds_done < max(self._queue.due(), default=0)
        if state.recovery_rounds_left and state.model is not None and self._clients.active:
            self._recover(state.model)
        elif state.rounds_done < planned:
            state.next_timeline_round()
        elif waits and state.waiting_rounds < self._longest_wait:
            state.next_timeline_round()
            state.waiting_rounds += 1
        elif (state.silent_clients or state.open) and state.idle_rounds < deletions.patience:
            state.next_timeline_round()
            state.idle_rounds += 1
        else:
            state.step = ServerStep.OVER
            return
        state.rounds_done += 1

    @property
    def _longest_wait(self) -> int:
        """Rounds that requests may wait in all, as the settings have it.

        What a client itself reports of deadlines and of other devices ends no later than that and patience.
        """
        deletions = self._config.deletions
        deadlines = (deletions.deadline, *(planned.deadline for planned in deletions.schedule))
        return max(deletions.window, max(deadlines) + 1 if any(deadlines) else 0)
