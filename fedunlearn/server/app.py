"""The ServerApp: learn, listen, unlearn, recover. It knows numbers and weights, and nobody's speech.

The timeline counts rounds: those of learning, then those after it. Before each round the server asks every
client for deletions (``request_tracker``). Where there are any, the requesters unlearn, each on its own
forget set alone; their updates join the global model (``unlearn_step``); recovery rounds follow.
The server goes from one ``ServerStep`` to the next, and all that lasts is in its ``Standing``, so that a run
may stop after any step and be resumed.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fedunlearn.blockwise import difference
from fedunlearn.config import Config
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.schedule import last_scheduled_round
from fedunlearn.models.contract import EmotionModel
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients, settings
from fedunlearn.server.request_tracker import RequestTracker, weights_digest
from fedunlearn.server.requests import TrackedRequest, ids_of
from fedunlearn.server.state import GlobalModel, ServerStep, Standing
from fedunlearn.server.steps import recovered
from fedunlearn.server.training_rounds import RoundResult, TrainingRounds
from fedunlearn.server.unlearn_step import Outcomes, UnlearnStep
from fedunlearn.unlearning import METHODS


class Server:
    """The phases, over a federation that either engine provides.

    Args:
        federation: the clients.
        config: the experiment.
        template: a model of its kind.
        standing: where the run stands; goes on from there.
        observer: told of every round and request.
    """

    def __init__(
        self,
        federation: Clients,
        config: Config,
        template: EmotionModel,
        standing: Standing,
        observer: Callbacks,
    ) -> None:
        self._clients, self._config, self._template = federation, config, template
        self._observer, self.standing = observer, standing
        self.availability = Availability(config.availability, config.seed, config.partition.clients)
        parts = (standing, observer, self.availability)
        self.rounds = TrainingRounds(federation, config, template, *parts)
        self.desk = RequestTracker(federation, config, *parts)
        self.unlearn_step = UnlearnStep(federation, config, template, *parts)

    # ---- the main line -------------------------------------------------------------------------------

    @property
    def learning(self) -> bool:
        """Whether ordinary rounds of the main line are still to come."""
        model = self.standing.model
        rounds = 0 if model is None else model.ordinary_rounds
        # Where everybody has taken everything back, nobody is left to learn from.
        nobody = self.standing.step is ServerStep.ROUND and not any(self.standing.examples.values())
        return rounds < self._config.training.rounds and not nobody

    def begin(self, initial: Mapping[str, Tensor]) -> None:
        """Calibrate: the first global model, with the normalisation constants of all models of this run.

        Devices are asked for their moments here and never again: the moments of a set before and after a
        deletion would tell what was deleted.

        Args:
            initial: weights that learning begins with.
        """
        self.standing.model = self.rounds.start(initial)
        self.rounds.begin_history(self.standing.model)

    def play(self, until: Callable[[], bool]) -> None:
        """Take steps until it is over, or ``until`` says so between two of them."""
        standing = self.standing
        while standing.step is not ServerStep.OVER and not until():
            match standing.step:
                case ServerStep.LISTEN:
                    self.desk.listen()
                    standing.step = ServerStep.SERVE
                case ServerStep.SERVE:
                    self._serve()
                case ServerStep.PURGE:
                    self._purge()
                case ServerStep.ROUND:
                    self._go_on()

    def ask_again(self) -> None:
        """Of a run that was over: whether anybody has asked since. If not, nothing has happened.

        Who cannot be reached at its last date is waited for, as long as ``deletions.patience``. And what was
        left open is tried anew, unless the run was cut off before it told so.
        """
        standing = self.standing
        if standing.step is not ServerStep.OVER:
            return
        before, silent = standing.snapshot(), set(standing.held_out)
        for waited in range(self._config.deletions.patience + 1):
            if waited:
                standing.next_round()
                standing.rounds_done += 1
            self.desk.listen()
            silent -= {
                c for c, rounds_done in standing.last_report.items() if rounds_done == standing.rounds_done
            }
            asked = len(standing.requests) > before.requests
            if asked or not silent or standing.open or standing.silent_clients:
                break
        left = standing.finished and (standing.open or standing.silent_clients)
        if left or asked:
            standing.step, standing.finished = ServerStep.SERVE, False
            standing.idle_rounds = standing.waited = 0
        else:
            standing.restore(before)

    def _serve(self) -> None:
        """Requesters forget, and their updates join. Whoever fails stays accepted, and is asked again."""
        standing = self.standing
        # Held-out speech changes no model, whoever asks for it.
        if any(r.utterances for r in standing.open) and standing.original is None:
            self._observer.on_first_request()
        applied = self._unlearn_what_is_ripe()
        standing.step = ServerStep.PURGE if self.desk.to_purge() else ServerStep.ROUND
        if applied and standing.model is not None:
            ids = ids_of(applied)
            self.rounds.report(
                standing.timeline_round, "unlearn", standing.model.weights, RoundResult(), True, ids
            )
        if applied or standing.step is ServerStep.PURGE:
            # What is about to be purged can never be unlearned, nor trained on beside, again: the model, and
            # that somebody asked, must outlast any crash.
            self._observer.keep(copies=2)
        for request in applied:
            self._observer.on_request_state(request, RequestState.APPLIED, standing.timeline_round)

    def _unlearn_what_is_ripe(self) -> list[TrackedRequest]:
        standing, model = self.standing, self.standing.model
        if model is None:
            return []
        weights, done = self.unlearn_step.arrived(model.weights)
        served = GlobalModel(weights, model.optimizer, model.ordinary_rounds)
        requests = [r for r in self.desk.ripe() if r.learned]
        if requests:
            served, told = self._unlearn(served, requests)
            done |= {r.key: told[r.client] for r in requests if r.client in told}
        applied = [standing.requests[key] for key in done]
        if not applied:
            return []
        for request in applied:
            joint = [r.id for r in applied if r.client == request.client and r is not request]
            request.outcome = {**done[request.key], "joint_with": joint}
            self.desk.move(request, RequestState.UNLEARNED)
            request.lease = None
        if self._config.recovery.reversion == "removed":
            standing.unlearn_steps.append(difference(served.weights, model.weights))
            standing.costs["recover"].bytes_stored += sum(
                w.numel() * w.element_size() for w in served.weights.values()
            )
        digest = weights_digest(served.weights)
        for request in applied:
            request.round_applied, request.model = standing.timeline_round, digest
            self.desk.note(request, RequestState.APPLIED)
        standing.model, standing.unlearned = served, served.weights
        standing.recovery_rounds_left, standing.waited = self._config.recovery.rounds, 0
        return applied

    def _purge(self) -> None:
        standing = self.standing
        self.desk.purge(self.desk.to_purge())
        standing.step = ServerStep.ROUND
        self._observer.keep(copies=2)

    def _go_on(self) -> None:
        """The round of this date: of recovery or of learning, or none, and the next date."""
        standing = self.standing
        if self.learning:
            assert standing.model is not None
            if standing.recovery_rounds_left:
                self._recover(standing.model)
                self._observer.keep()
                return
            self._learn(standing.model)
            standing.rounds_done += 1
        else:
            self._after_learning()
        if standing.step is not ServerStep.OVER:
            standing.step = ServerStep.LISTEN
            self._observer.keep()

    def _learn(self, model: GlobalModel) -> None:
        standing, config = self.standing, self._config
        standing.next_round()
        with self._clients.withholding(standing.open):
            if not self._clients.clients:
                model.ordinary_rounds += 1  # all that is left waits to be forgotten
                return
            model, gathered = self.rounds.ordinary(model, config.seed, standing.timeline_round, "learn")
        standing.model = model
        self.rounds.report(
            standing.timeline_round, "learn", model.weights, gathered, self._looks(model.ordinary_rounds)
        )

    def _looks(self, number: int) -> bool:
        due = self._config.evaluation.curve_every
        return number == self._config.training.rounds or (due > 0 and number % due == 0)

    def _recover(self, model: GlobalModel) -> None:
        """One recovery round on what the clients still hold."""
        standing, recovery = self.standing, self._config.recovery
        standing.recovery_rounds_left -= 1
        with self._clients.withholding(standing.open):
            if not self._clients.clients:
                return
            standing.next_round()
            asked = settings(
                round=standing.timeline_round,
                rounds_done=standing.rounds_done,
                phase="recover",
                stream=self._config.seed,
                epochs=recovery.epochs,
                lr=recovery.lr,
            )
            gathered = self.rounds.recovering(model.weights, asked)
        weights = recovered(model.weights, gathered.mean, recovery.reversion, standing.unlearn_steps)
        standing.model = GlobalModel(weights, model.optimizer, model.ordinary_rounds)
        self.rounds.report(standing.timeline_round, "recover", weights, gathered, True)

    def _after_learning(self) -> None:
        """Recover, or wait, until nothing is planned and nothing is open, or patience is over."""
        standing, config = self.standing, self._config
        last = last_scheduled_round(config.deletions, config.training.rounds)
        planned = max([last, *self.desk.leases(), *(reply.due for reply in standing.late_replies)])
        if standing.recovery_rounds_left and standing.model is not None and self._clients.clients:
            self._recover(standing.model)
        elif standing.rounds_done < planned:
            standing.next_round()
        elif standing.rounds_done < max(self.desk.due(), default=0) and standing.waited < self._longest_wait:
            standing.next_round()
            standing.waited += 1
        elif (standing.silent_clients or standing.open) and standing.idle_rounds < config.deletions.patience:
            standing.next_round()
            standing.idle_rounds += 1
        else:
            standing.step = ServerStep.OVER
            return
        standing.rounds_done += 1

    @property
    def _longest_wait(self) -> int:
        """Rounds that are waited, all in all, because clients say that they have asked: as settings have it.

        What a client itself says of deadlines and of other devices ends no later than that and patience.
        """
        deletions = self._config.deletions
        deadlines = (deletions.deadline, *(planned.deadline for planned in deletions.schedule))
        return max(deletions.window, max(deadlines) + 1 if any(deadlines) else 0)

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        """The model after the requesters' step, and what became of it at each that answered at once."""
        asks = METHODS[self._config.unlearning.method].reads_log_odds
        scalars = self.unlearn_step.scalars(model.weights, asks)
        weights, told = self.unlearn_step.take(model.weights, requests, scalars)
        return GlobalModel(weights, model.optimizer, model.ordinary_rounds), told

    # ---- references ----------------------------------------------------------------------------------

    def anybody_without(self, withheld: Sequence[TrackedRequest]) -> bool:
        """Whether any client has something to train on besides what these requests name."""
        with self._clients.withholding(withheld):
            return bool(self._clients.clients)

    def train_without_deletions(
        self,
        model: GlobalModel,
        stream: int,
        phase: str,
        after_round: Callable[[GlobalModel], None],
        withheld: Sequence[TrackedRequest] = (),
    ) -> GlobalModel:
        """Ordinary rounds until there have been ``training.rounds`` of them, in which no deletion happens.

        Args:
            model: to go on from.
            stream: seed of the clients' training streams.
            phase: whose cost and rows these are: "retrain" or "counterfactual".
            after_round: told the model after each.
            withheld: requests whose utterances no client trains on.
        """
        while model.ordinary_rounds < self._config.training.rounds:
            number_ = model.ordinary_rounds + 1
            # Not around ``after_round``: what is written down must count all that the vaults hold.
            with self._clients.withholding(withheld):
                if not self._clients.clients:
                    break
                model, gathered = self.rounds.ordinary(model, stream, number_, phase)
            self.rounds.report(number_, phase, model.weights, gathered, self._looks(number_))
            after_round(model)
        return model
