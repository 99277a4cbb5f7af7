"""One round of all clients: have them train, read their updates. What the phases are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.config.work import LocalWork
from fedunlearn.errors import RunFailed
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.replies import (
    LONGEST_UPDATE,
    LONGEST_UTTERANCE,
    UpdateForm,
    read_moments,
    read_training,
)
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import trained_names
from fedunlearn.server.aggregation import RunningMean, ServerOptimizer
from fedunlearn.server.clients import Payload, settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.steps import calibrate_model, sample_clients
from fedunlearn.server.tickets import ticket_terms
from fedunlearn.training import round_lr

_SIDE_TRAINING = frozenset({Phase.RETRAIN, Phase.COUNTERFACTUAL})
"""phases beside the main line"""


@dataclass(frozen=True)
class RoundResult:
    """The result of a round in which clients trained.

    Attributes:
        mean: of the differences that count, weighted by examples, float64; None = there are none.
        loss: mean over the examples of all clients that trained; None = none did.
        refused: replies that did not count.
    """

    mean: StateDict | None = None
    loss: float | None = None
    refused: int = 0


@dataclass(frozen=True)
class CollectionSettings:
    """How updates are collected and what is done with them.

    Attributes:
        kind: of message.
        teacher: weights that go with the model; None = none.
        counted: an update as it counts; None = it does not.
        remember: called with every update as it arrived; None = nothing is remembered.
        most: number of clients that take part; 0 = all.
        notes_tickets: whether devices note tickets, where the method reads them.
    """

    kind: str = "train"
    teacher: StateDict | None = None
    counted: Callable[[Update], Update | None] = lambda update: update
    remember: Callable[[Update], None] | None = None
    most: int = 0
    notes_tickets: bool = False


class TrainingRounds:
    """Exchanges in which every client that can be reached takes part.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context, self._clients, self._config = context, context.clients, context.config
        self._state = context.state

    def calibrate(self, initial: Mapping[str, Tensor]) -> GlobalModel:
        """Ask all clients for their moments, and make the first global model from them.

        Args:
            initial: weights that learning begins with.

        Returns:
            the model with normalisation constants from all clients' moments, averaged by frames
        """
        template = self._context.template
        occasion = ExchangeInfo(0, Phase.CALIBRATE, self._state.costs[Phase.LEARN])
        dims = len(template.norm.mean)
        seconds = template.calibration_seconds
        rows = 1.0 if seconds is None else LONGEST_UTTERANCE / seconds  # of an utterance, at most
        replies = self._clients.ask(
            "train.calibrate",
            {c: RecordDict({"settings": settings(rounds_done=0)}) for c in self._context.reachable_at(0)},
            lambda client, reply: read_moments(reply, client, dims, rows * self._clients.examples[client]),
            occasion,
        )
        weights = calibrate_model(template, initial, list(replies.values()))
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def train_round(
        self,
        model: GlobalModel,
        stream: int,
        timeline_round: int,
        phase: Phase,
        learning_round: int | None = None,
        work: LocalWork | None = None,
        counted: Callable[[Update], Update | None] = lambda update: update,
    ) -> tuple[GlobalModel, RoundResult]:
        """Train one ordinary round.

        Args:
            model: to be trained.
            stream: seed of the clients' training streams.
            timeline_round: as rows and faults name it.
            phase: whose cost this is; the main line's, LEARN, is remembered.
            learning_round: number of the ordinary round, from 1; None = the model's next.
            work: of each client; None = training.local's.
            counted: an update as it counts; None = it does not.

        Returns:
            (the next model, the result of the round)
        """
        number = learning_round or model.learning_rounds + 1
        work = work or self._config.training.local.work
        config = settings(
            round=number,
            rounds_done=number - 1,
            phase=str(Phase.LEARN),
            stream=stream,
            steps=work.steps,
            epochs=work.epochs,
            lr=round_lr(self._config.training, number),
        )
        main_line = phase is Phase.LEARN
        remember = partial(self._state.history.remember, learning_round=number) if main_line else None
        collection = CollectionSettings(counted=counted, remember=remember, notes_tickets=main_line)
        result = self.collect_updates(model.weights, timeline_round, number - 1, phase, config, collection)
        weights = model.weights
        if result.mean is not None:
            weights = model.optimizer.apply(weights, result.mean)
        if main_line:
            self._state.history.end_round(result.mean, self._config.training.server_lr)
            self._state.costs[Phase.LEARN].bytes_stored = self._state.history.bytes_stored
        return GlobalModel(weights, model.optimizer, number), result

    def recovery_round(self, weights: StateDict, config: ConfigRecord) -> RoundResult:
        """Train one recovery round of the main line, which is remembered, though as no learning round.

        Args:
            weights: of the global model.
            config: settings of the messages.
        """
        state = self._state
        collection = CollectionSettings(
            remember=lambda update: state.history.remember(update, None), most=self._config.recovery.clients
        )
        when = state.timeline_round, state.rounds_done
        return self.collect_updates(weights, *when, Phase.RECOVER, config, collection)

    def collect_updates(
        self,
        weights: StateDict,
        timeline_round: int,
        rounds_done: int,
        phase: Phase,
        config: ConfigRecord,
        collection: CollectionSettings,
    ) -> RoundResult:
        """Collect the updates of all clients that train now, each read once, in order, and then dropped.

        They are those that can be reached and have joined learning. No client takes part, and the result is
        empty, where that is fewer than two of several: one survivor's model is not everybody's.

        Args:
            weights: of the model that clients start from.
            timeline_round: as faults name it.
            rounds_done: rounds done; decides who can train, and which recordings count.
            phase: whose cost this is.
            config: settings of the messages.
            collection: how updates are collected and what is done with them.

        Raises:
            RunFailed: no client holds any training data, or the round has no quorum.
        """
        occasion = ExchangeInfo(timeline_round, phase, self._state.costs[phase])
        occasion.cost.rounds += 1
        faults_before = len(self._state.faults)
        if not self._clients.active:
            raise RunFailed(f"round {timeline_round} ({phase}): no client holds any training data")
        there = self._context.training_at(rounds_done)
        if len(there) < min(2, len(self._clients.active)):
            return RoundResult()
        there = sample_clients(there, collection.most, self._config.seed, phase, timeline_round)
        side_training, last_report = phase in _SIDE_TRAINING, self._state.last_report
        known = {c: rounds_done if side_training else min(rounds_done, last_report.get(c, 0)) for c in there}
        payload = Payload(weights, collection.teacher)
        trained_on = sum(self._clients.examples[client] for client in there)
        noting = ticket_terms(self._config, rounds_done + 1, trained_on, len(there), collection.notes_tickets)
        by_rounds_done = {
            until: payload.with_settings(
                ConfigRecord({**config, **noting.as_settings(), "rounds_done": until})
            )
            for until in {*known.values()}
        }
        running = RunningMean()
        form = UpdateForm.of(weights, trained_names(self._context.template), LONGEST_UPDATE)

        def read(client: int, reply: RecordDict) -> tuple[int, float]:
            # How many recordings it held at another moment than its last report, the client alone knows.
            other = bool(self._config.partition.recordings) and known[client] != last_report.get(client, 0)
            held = self._clients.most[client] if other else self._clients.examples[client]
            report = read_training(reply, client, collection.kind, held, form, exactly=not other)
            update, examples = report.update, report.update.examples
            if examples:
                if collection.remember:
                    collection.remember(update)
                if (counts := collection.counted(update)) is not None:
                    running.add(counts)
                    if not side_training:
                        self._context.callbacks.digests.on_update(update, phase, timeline_round)
            return examples, report.loss

        content = {client: by_rounds_done[until] for client, until in known.items()}
        replies = self._clients.ask(collection.kind, content, read, occasion)
        trained = {c: (examples, loss) for c, (examples, loss) in replies.items() if examples}
        if not side_training:
            last_trained = self._state.last_trained
            last_trained |= {c: max(known[c], last_trained.get(c, -1)) for c in trained}
        refused = len(self._state.faults) - faults_before
        if not trained:
            return RoundResult(refused=refused)
        total = sum(n for n, _ in trained.values())
        loss = sum(n * loss for n, loss in trained.values()) / total
        return RoundResult(running.mean() if running.examples else None, loss, refused)

    def report_round(
        self,
        timeline_round: int,
        phase: Phase,
        weights: StateDict,
        result: RoundResult,
        evaluate: bool,
        request_ids: Sequence[str] = (),
    ) -> None:
        """Report to the callbacks that a round has ended.

        Args:
            timeline_round: its number.
            phase: of the round.
            weights: of the model after it.
            result: of the round.
            evaluate: whether the model is to be evaluated.
            request_ids: of the requests that were applied.
        """
        row: dict[str, Any] = {"round": timeline_round, "phase": str(phase), "loss": result.loss}
        row |= {"refused": result.refused, "requests": list(request_ids)}
        callbacks = self._context.callbacks
        if phase not in _SIDE_TRAINING:
            callbacks.digests.on_model(weights, phase, timeline_round)
        callbacks.on_round_end(row, weights if evaluate else None)


def is_evaluated(config: Config, learning_round: int) -> bool:
    """Find out whether the model is evaluated after this ordinary round.

    Args:
        config: the experiment.
        learning_round: from 1.
    """
    every, last = config.evaluation.curve_every, config.training.rounds
    return learning_round == last or (every > 0 and learning_round % every == 0)
