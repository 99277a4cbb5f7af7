"""The ServerApp: learn, listen, unlearn, recover. It knows numbers and weights, and nobody's speech.

A run's clock counts rounds: ordinary ones, then those after learning. Before each round the server asks
every client for deletions (``listen``). Where there are any, the requesters unlearn at once, each on its
own forget set alone; their updates join the global model; recovery rounds on what is left follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.deletion import State as RequestState
from fedunlearn.deletion import last_scheduled_round
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.cost import PhaseCost
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.federation.aggregation import (
    ServerOptimizer,
    Update,
    difference,
    join_unlearning,
    step,
    weighted_mean,
)
from fedunlearn.federation.exchange import Federation, Occasion, letter, settings
from fedunlearn.federation.projection import without_conflict
from fedunlearn.federation.requests import ServedRequest, grouped, read_outcome, read_requests
from fedunlearn.federation.scalars import as_settings, ask_scalars
from fedunlearn.federation.transport import Refused, State, count, number, weights_like
from fedunlearn.history import History
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import round_lr, set_calibration
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import ServerScalars

COSTED = ("learn", "listen", "unlearn", "recover", "retrain", "counterfactual")
"""what costs are booked under; "counterfactual" trains the original on when somebody asks during learning"""

_EXTRA_LISTENING = 3
"""rounds after the last planned one in which an unlearn step that failed is tried again"""


class Observer(Protocol):
    """Whoever watches the rounds: the judge's learning curve, the progress display, the ledger."""

    def look(self, state: Mapping[str, Tensor]) -> Predictions:
        """The judge's predictions with these weights."""
        ...

    def saw(self, row: Mapping[str, Any], predictions: Predictions | None) -> None:
        """A round is over; ``predictions`` where the judge looked."""
        ...

    def request_reached(self, request: "ServedRequest", state: RequestState, round: int) -> None:
        """A request moved on; must be durable when this returns."""
        ...


@dataclass
class GlobalModel:
    """The shared model in the middle of learning, with the server optimiser's memory."""

    weights: State
    optimizer: ServerOptimizer
    ordinary_rounds: int = 0


class Server:
    """The phases, over a federation that either engine provides.

    Args:
        federation: the clients. config: the experiment. template: a model of its kind.
        observer: told of every round and every step of a request.
    """

    def __init__(
        self, federation: Federation, config: Config, template: EmotionModel, observer: Observer
    ) -> None:
        self._clients, self._config, self._observer = federation, config, observer
        self._template = template
        self.clock = 0
        self.requests: dict[str, ServedRequest] = {}
        self.unheard: set[int] = set()
        """clients that did not answer the last listening: nobody knows what they wanted"""
        self.costs = {name: PhaseCost() for name in COSTED}
        self.history = History([name for name, p in template.named_parameters() if p.requires_grad])
        """of the training under way, not of references and counterfactuals"""
        self._unlearn_steps: list[State] = []
        """what each moved the global model by; no recovery round may go back along any of them"""

    # ---- learning ------------------------------------------------------------------------------------

    def start(self, initial: Mapping[str, Tensor], phase: str) -> GlobalModel:
        """Round 0: normalisation constants from all clients' moments, averaged by frames."""
        occasion = Occasion(0, "calibrate", self.costs[phase])
        dims = self._template.dims
        like = {name: torch.zeros(dims, dtype=torch.float64) for name in ("mean", "mean_square")}
        replies = self._clients.ask(
            "train.calibrate",
            {c: RecordDict() for c in self._clients.clients},
            lambda client, reply: Update(
                client, count(reply, "examples"), weights_like(reply, "moments", like)
            ),
            occasion,
        )
        self._template.load_state_dict(dict(initial))
        # A client with too little speech to hide in an average sends none.
        told = [update for update in replies.values() if update.examples]
        if told:
            moments = weighted_mean(told)
            set_calibration(self._template, moments["mean"], moments["mean_square"])
        weights = {k: v.clone() for k, v in self._template.state_dict().items()}
        if phase == "learn":
            self.history = History(self.history.trained, weights)
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def learn(
        self, model: GlobalModel, stream: int, phase: str, before_round: Callable[[GlobalModel], GlobalModel]
    ) -> GlobalModel:
        """Ordinary rounds until there have been ``training.rounds`` of them.

        Args:
            stream: seed of the clients' training streams.
            phase: whose cost and rows these are: "learn", "retrain" or "counterfactual".
            before_round: the listening; ``Server.deaf`` where nobody is asked.
        """
        training = self._config.training
        while model.ordinary_rounds < training.rounds:
            model = before_round(model)
            if not self._clients.clients:
                break  # everybody took everything back: nobody is left to learn from
            number_ = model.ordinary_rounds + 1
            self.clock += phase == "learn"
            row_round = self.clock if phase == "learn" else number_
            asked = self._ordinary(number_, stream, training.local.epochs)
            updates, loss, refused = self._round(model.weights, row_round, phase, asked)
            if phase == "learn":
                self._remember(updates, number_)
            weights = model.optimizer.apply(model.weights, weighted_mean(updates))
            model = GlobalModel(weights, model.optimizer, number_)
            due = self._config.evaluation.curve_every
            last = number_ == training.rounds
            self._report(row_round, phase, weights, loss, refused, last or (due > 0 and number_ % due == 0))
        return model

    @staticmethod
    def deaf(model: GlobalModel) -> GlobalModel:
        """Asks nobody: for references, in which no deletion ever happens."""
        return model

    # ---- listening and serving -----------------------------------------------------------------------

    def listen(self, date: int) -> list[ServedRequest]:
        """Ask every client for deletions; returns the requests that are to be served now, in client order.

        Args:
            date: rounds done, ordinary and after learning; what schedules count in.
        """
        # During learning the asking is part of what learning costs, so that a cached original has it too.
        phase = "learn" if date < self._config.training.rounds else "listen"
        occasion = Occasion(self.clock, "listen", self.costs[phase])
        content = {c: RecordDict({"settings": settings(date=date)}) for c in self._clients.clients}
        heard = self._clients.ask("query.deletions", content, read_requests, occasion, quorum=0.0)
        self.unheard = set(content) - set(heard)
        for client, wishes in heard.items():
            for request_id, utterances in wishes:
                if request_id not in self.requests:
                    request = ServedRequest(request_id, client, utterances, self.clock)
                    self.requests[request_id] = request
                    self._move(request, RequestState.RAISED)
                    self._move(request, RequestState.ACCEPTED)
        return [r for r in self.requests.values() if r.unfinished]

    def serve(self, model: GlobalModel, requests: Sequence[ServedRequest]) -> tuple[GlobalModel, bool]:
        """One unlearn step: requesters forget, their updates join, they purge.

        A requester that fails stays accepted, and is asked again at the next listening.

        Returns:
            (the model, whether anything was unlearned)
        """
        waiting = [r for r in requests if r.state is RequestState.ACCEPTED]
        before, model = model.weights, self._unlearn(model, waiting)
        for request in waiting:
            if request.state is RequestState.UNLEARNED:
                request.round_applied = self.clock
                self._move(request, RequestState.APPLIED)
        applied = [r.id for r in waiting if r.state is RequestState.APPLIED]
        if applied:
            if self._config.recovery.reversion == "removed":
                self._unlearn_steps.append(difference(model.weights, before))
                self.costs["recover"].bytes_stored += sum(
                    w.numel() * w.element_size() for w in model.weights.values()
                )
            self._report(self.clock, "unlearn", model.weights, None, 0, True, applied)
        self._purge([r for r in requests if r.state is RequestState.APPLIED])
        return model, bool(applied)

    def recover(self, model: GlobalModel) -> GlobalModel:
        """One recovery round on what the clients still hold.

        Reversion is removed from the mean, where FedOSD removes it from each client's step: the mean is what
        moves the model, and clients that pull back may be outweighed by those that do not.
        """
        recovery = self._config.recovery
        if not self._clients.clients:
            return model
        self.clock += 1
        stream, epochs, lr = self._config.seed, recovery.epochs, recovery.lr
        asked = settings(round=self.clock, phase="recover", stream=stream, epochs=epochs, lr=lr)
        updates, loss, refused = self._round(model.weights, self.clock, "recover", asked)
        self._remember(updates, None)
        mean = weighted_mean(updates)
        if recovery.reversion == "removed":
            mean = without_conflict(mean, self._unlearn_steps)
        weights = step(model.weights, mean)
        self._report(self.clock, "recover", weights, loss, refused, True)
        return GlobalModel(weights, model.optimizer, model.ordinary_rounds)

    def after_learning(self, model: GlobalModel, served: Callable[[GlobalModel], None]) -> GlobalModel:
        """Listen, unlearn and recover until nothing is planned and nothing is open.

        Args:
            model: after the last ordinary round.
            served: told the model right after each unlearn step.
        """
        rounds = self._config.training.rounds
        last = last_scheduled_round(self._config.deletions, rounds)
        date, owed, extra = rounds, 0, _EXTRA_LISTENING
        while True:
            requests = self.listen(date)
            if requests:
                model, unlearned = self.serve(model, requests)
                if unlearned:
                    served(model)
                    owed = self._config.recovery.rounds
            unfinished = self.unheard or any(r.unfinished for r in self.requests.values())
            if owed and self._clients.clients:
                model, owed = self.recover(model), owed - 1
            elif date < last or (unfinished and extra):
                self.clock += 1
                extra -= date >= last
            else:
                return model
            date += 1

    # ---- exchanges -----------------------------------------------------------------------------------

    def _ordinary(self, number_: int, stream: int, epochs: int) -> ConfigRecord:
        lr = round_lr(self._config.training, number_)
        return settings(round=number_, phase="learn", stream=stream, epochs=epochs, lr=lr)

    def _round(
        self, weights: State, row_round: int, phase: str, asked: ConfigRecord, kind: str = "train",
        teacher: State | None = None,
    ) -> tuple[list[Update], float, int]:  # fmt: skip
        """All clients' updates, their mean loss, and how many replies did not count."""
        occasion = Occasion(row_round, phase, self.costs[phase])
        occasion.cost.rounds += 1
        before = len(self._clients.faults)
        if not self._clients.clients:
            raise RunFailed(f"round {row_round} ({phase}): no client holds any training data")
        content = {c: letter(weights, asked, teacher) for c in self._clients.clients}

        def read(client: int, reply: RecordDict) -> tuple[Update, float]:
            examples = int(number(reply, "examples"))
            if examples != self._clients.examples[client]:
                held = self._clients.examples[client]
                raise Refused(f"claims {examples} utterances, but it holds {held}")
            return Update(client, examples, weights_like(reply, "update", weights)), number(reply, "loss")

        replies = self._clients.ask(kind, content, read, occasion)
        updates = [update for update, _ in replies.values()]
        total = sum(u.examples for u in updates)
        loss = sum(u.examples * loss for u, loss in replies.values()) / total
        return updates, loss, len(self._clients.faults) - before

    def _remember(self, updates: Sequence[Update], ordinary_round: int | None) -> None:
        for update in updates:
            self.history.remember(update.client, update.difference, ordinary_round)
        if ordinary_round is not None:
            self.costs["learn"].bytes_stored = self.history.bytes_stored

    def _unlearn(self, model: GlobalModel, requests: Sequence[ServedRequest]) -> GlobalModel:
        by_client = grouped(requests)
        if not by_client:
            return model
        asks = METHODS[self._config.unlearning.method].reads_log_odds
        weights, told = self._step_away(model.weights, by_client, self._scalars(model.weights, asks))
        self._unlearned(by_client, told)
        return GlobalModel(weights, model.optimizer, model.ordinary_rounds)

    def _scalars(self, weights: State, log_odds: bool) -> ServerScalars:
        occasion = Occasion(self.clock, "evaluate", self.costs["unlearn"])
        return ask_scalars(self._clients, weights, log_odds, occasion)

    def _step_away(
        self, weights: State, by_client: Mapping[int, Sequence[ServedRequest]], scalars: ServerScalars,
        kind: str = "train.unlearn", teacher: State | None = None, share: float = 1.0,
    ) -> tuple[State, dict[int, dict[str, Any]]]:  # fmt: skip
        """The requesters' joint step, and what became of it at each that answered."""
        how = self._config.unlearning.aggregation
        told: dict[int, dict[str, Any]] = {}
        for turn in [[c] for c in by_client] if how == "sequential" else [list(by_client)]:
            self.costs["unlearn"].rounds += 1
            if told:  # somebody has moved the model since
                scalars = self._scalars(weights, scalars.trained is not None)
            asked = {c: by_client[c] for c in turn}
            replies = self._ask_to_unlearn(weights, asked, scalars, kind, teacher)
            if not replies:
                continue
            weights = step(weights, self._join([update for update, _ in replies.values()]), share)
            told |= {c: {**outcome, "update_norm": u.norm} for c, (u, outcome) in replies.items()}
        return weights, told

    def _unlearned(
        self, by_client: Mapping[int, Sequence[ServedRequest]], told: Mapping[int, dict[str, Any]]
    ) -> None:
        for client, outcome in told.items():
            for request in by_client[client]:
                joint = [r.id for r in by_client[client] if r is not request]
                request.outcome = {**outcome, "joint_with": joint}
                self._move(request, RequestState.UNLEARNED)

    def _join(self, updates: Sequence[Update]) -> State:
        """The joint step; who has a request open does not speak for those who did not ask."""
        asking = {r.client for r in self.requests.values() if r.unfinished}
        clients = self._clients.examples
        staying = [client for client in clients if client not in asking]
        last = [self.history.last[client] for client in staying if client in self.history.last]
        unlearning = self._config.unlearning
        longest = unlearning.clip * self.history.usual_norm(staying)
        return join_unlearning(updates, unlearning.aggregation, sum(clients.values()), last, longest)

    def _ask_to_unlearn(
        self, weights: State, requests: Mapping[int, Sequence[ServedRequest]], scalars: ServerScalars,
        kind: str, teacher: State | None,
    ) -> dict[int, tuple[Update, dict[str, Any]]]:  # fmt: skip
        content = {}
        for client, own in requests.items():
            share = min(1.0, sum(r.utterances for r in own) / self._clients.examples[client])
            told = as_settings(replace(scalars, share=share))
            asked = settings(requests=[r.id for r in own], round=self.clock, **told)
            content[client] = letter(weights, asked, teacher)

        def read(client: int, reply: RecordDict) -> tuple[Update, dict[str, Any]]:
            wanted, claimed = sum(r.utterances for r in requests[client]), int(number(reply, "examples"))
            if claimed != wanted:
                raise Refused(f"forgot {claimed} utterances, but {wanted} were asked for")
            return Update(client, claimed, weights_like(reply, "update", weights)), read_outcome(reply)

        occasion = Occasion(self.clock, "unlearn", self.costs["unlearn"])
        return self._clients.ask(kind, content, read, occasion, quorum=0.0)

    def _purge(self, requests: Sequence[ServedRequest]) -> None:
        content = {
            c: RecordDict({"settings": settings(requests=[r.id for r in requests if r.client == c])})
            for c in sorted({r.client for r in requests})
        }
        occasion = Occasion(self.clock, "purge", self.costs["unlearn"])
        replies = self._clients.ask(
            "query.purge",
            content,
            lambda _, reply: (number(reply, "verified") == 1, int(number(reply, "train"))),
            occasion,
            quorum=0.0,
        )
        for request in requests:
            # Its speech is unlearned, so its last step goes even where the device did not answer.
            self.history.forget(request.client, left=replies.get(request.client, (False, 1))[1] == 0)
            if request.client in replies:
                verified, left = replies[request.client]
                self._clients.examples[request.client] = left
                self._move(request, RequestState.PURGED)
                if verified:
                    self._move(request, RequestState.VERIFIED)

    # ---- telling -------------------------------------------------------------------------------------

    def _move(self, request: ServedRequest, state: RequestState) -> None:
        self._observer.request_reached(request, state, self.clock)
        request.state = state

    def _report(
        self, round_: int, phase: str, weights: State, loss: float | None, refused: int, look: bool,
        requests: Sequence[str] = (),
    ) -> None:  # fmt: skip
        predictions = self._observer.look(weights) if look else None
        row = {"round": round_, "phase": phase, "loss": loss, "refused": refused, "requests": list(requests)}
        self._observer.saw(row, predictions)
