"""One round of all clients: ask them to train, read their updates. What the phases are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.errors import RunFailed
from fedunlearn.messages.replies import (
    LONGEST_UPDATE,
    LONGEST_UTTERANCE,
    UpdateForm,
    read_moments,
    read_training,
)
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel, trained_names
from fedunlearn.server.aggregation import RunningMean, ServerOptimizer
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients, ExchangeInfo, Payload, settings
from fedunlearn.server.history import History
from fedunlearn.server.state import GlobalModel, Standing
from fedunlearn.server.steps import calibrated, sample_clients
from fedunlearn.training import round_lr


@dataclass(frozen=True)
class RoundResult:
    """What came of asking all clients to train.

    Attributes:
        mean: of the differences that count, weighted by examples, float64; None = there are none.
        loss: mean over the examples of all who trained; None = nobody did.
        refused: replies that did not count.
    """

    mean: StateDict | None = None
    loss: float | None = None
    refused: int = 0


class TrainingRounds:
    """Exchanges in which every client that can be reached takes part.

    Args:
        federation: the clients.
        config: the experiment.
        template: a model of its kind.
        standing: of the run.
        observer: told of every round.
        availability: of the clients.
    """

    def __init__(
        self,
        federation: Clients,
        config: Config,
        template: EmotionModel,
        standing: Standing,
        observer: Callbacks,
        availability: Availability,
    ) -> None:
        self._clients, self._config, self._template = federation, config, template
        self._standing, self._observer = standing, observer
        self._availability = availability

    def reachable(self, rounds_done: int) -> tuple[int, ...]:
        """Clients that hold training data and can be reached once ``rounds_done`` rounds are done."""
        return tuple(c for c in self._clients.clients if self._availability.reachable(c, rounds_done))

    def start(self, initial: Mapping[str, Tensor]) -> GlobalModel:
        """Round 0: normalisation constants from all clients' moments, averaged by frames."""
        occasion = ExchangeInfo(0, "calibrate", self._standing.costs["learn"])
        dims = len(self._template.norm.mean)
        seconds = self._template.calibration_seconds
        rows = 1.0 if seconds is None else LONGEST_UTTERANCE / seconds  # of an utterance, at most
        replies = self._clients.ask(
            "train.calibrate",
            {c: RecordDict({"settings": settings(rounds_done=0)}) for c in self.reachable(0)},
            lambda client, reply: read_moments(reply, client, dims, rows * self._clients.examples[client]),
            occasion,
        )
        weights = calibrated(self._template, initial, list(replies.values()))
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def ordinary(
        self,
        model: GlobalModel,
        stream: int,
        row_round: int,
        phase: str,
        number: int | None = None,
        epochs: int | None = None,
        counted: Callable[[Update], Update | None] = lambda update: update,
    ) -> tuple[GlobalModel, RoundResult]:
        """One ordinary round.

        Args:
            stream: seed of the clients' training streams.
            row_round: of the timeline.
            phase: whose cost this is; the main line's, "learn", is remembered.
            number: of the ordinary round, from 1; None = the model's next.
            epochs: None = training.local's.
            counted: an update as it counts; None = it does not.

        Returns:
            (the next model, what came)
        """
        number = number or model.ordinary_rounds + 1
        lr = round_lr(self._config.training, number)
        asked = settings(
            round=number,
            rounds_done=number - 1,
            phase="learn",
            stream=stream,
            epochs=epochs or self._config.training.local.epochs,
            lr=lr,
        )
        remembers = (lambda update: self._remember(update, number)) if phase == "learn" else None
        gathered = self.ask(
            model.weights, row_round, number - 1, phase, asked, counted=counted, remembers=remembers
        )
        weights = model.weights
        if gathered.mean is not None:
            weights = model.optimizer.apply(weights, gathered.mean)
        if remembers:
            self._standing.costs["learn"].bytes_stored = self._standing.history.bytes_stored
        return GlobalModel(weights, model.optimizer, number), gathered

    def recovering(self, weights: StateDict, asked: ConfigRecord) -> RoundResult:
        """One recovery round of the main line, which is remembered, though as no ordinary step."""
        standing = self._standing
        return self.ask(
            weights,
            standing.timeline_round,
            standing.rounds_done,
            "recover",
            asked,
            remembers=lambda update: self._remember(update, None),
            most=self._config.recovery.clients,
        )

    def ask(
        self,
        weights: StateDict,
        row_round: int,
        rounds_done: int,
        phase: str,
        asked: ConfigRecord,
        kind: str = "train",
        teacher: StateDict | None = None,
        counted: Callable[[Update], Update | None] = lambda update: update,
        remembers: Callable[[Update], None] | None = None,
        most: int = 0,
    ) -> RoundResult:
        """All reachable clients' updates, each read once, in client order, and then let go.

        Nobody is asked, and nothing comes back, where fewer than two of several can be reached: one
        survivor's model is not everybody's.

        Args:
            counted: an update as it counts; None = it does not.
            remembers: told of every update as it came.
            most: clients that are asked; 0 = all.
        """
        occasion = ExchangeInfo(row_round, phase, self._standing.costs[phase])
        occasion.cost.rounds += 1
        before = len(self._clients.faults)
        if not self._clients.clients:
            raise RunFailed(f"round {row_round} ({phase}): no client holds any training data")
        there = self.reachable(rounds_done)
        if len(there) < min(2, len(self._clients.clients)):
            return RoundResult()
        there = sample_clients(there, most, self._config.seed, phase, row_round)
        beside, last_report = phase in {"retrain", "counterfactual"}, self._standing.last_report
        known = {c: rounds_done if beside else min(rounds_done, last_report.get(c, 0)) for c in there}
        letter = Payload(weights, teacher)
        by_date = {by: letter(ConfigRecord({**asked, "rounds_done": by})) for by in {*known.values()}}
        running = RunningMean()
        form = UpdateForm.of(weights, trained_names(self._template), LONGEST_UPDATE)

        def read(client: int, reply: RecordDict) -> tuple[int, float]:
            # What it held at another date than it last spoke at, a client with recordings knows alone.
            another = bool(self._config.partition.recordings) and known[client] != last_report.get(client, 0)
            held = self._clients.most[client] if another else self._clients.examples[client]
            said = read_training(reply, client, kind, held, form, exactly=not another)
            update, examples = said.update, said.update.examples
            if examples:
                if remembers:
                    remembers(update)
                if (counts := counted(update)) is not None:
                    running.add(counts)
            return examples, said.loss

        content = {client: by_date[by] for client, by in known.items()}
        replies = self._clients.ask(kind, content, read, occasion)
        trained = {c: loss for c, loss in replies.items() if loss[0]}
        if not beside:
            rounds_done_at = self._standing.trained
            rounds_done_at |= {c: max(known[c], rounds_done_at.get(c, -1)) for c in trained}
        refused = len(self._clients.faults) - before
        if not trained:
            return RoundResult(refused=refused)
        total = sum(n for n, _ in trained.values())
        loss = sum(n * loss for n, loss in trained.values()) / total
        return RoundResult(running.mean() if running.examples else None, loss, refused)

    def _remember(self, update: Update, ordinary_round: int | None) -> None:
        """What the main line's client sent; an ``ordinary_round`` counts, recovery (None) is remembered."""
        self._standing.history.remember(update.client, update.difference, ordinary_round, update.sizes)

    def begin_history(self, model: GlobalModel) -> None:
        """The main line begins here."""
        known = self._standing.history
        self._standing.history = History(known.trained, model.weights, keeps_last=known.keeps_last)

    def report(
        self,
        round_: int,
        phase: str,
        weights: StateDict,
        came: RoundResult,
        look: bool,
        requests: Sequence[str] = (),
    ) -> None:
        """Tell the observer that a round is over."""
        row: dict[str, Any] = {"round": round_, "phase": phase, "loss": came.loss, "refused": came.refused}
        self._observer.on_round_end({**row, "requests": list(requests)}, weights if look else None)
