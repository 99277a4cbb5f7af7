"""One round of all clients: ask them to train, read their updates. What the phases are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.errors import RunFailed
from fedunlearn.federation.aggregation import ServerOptimizer, Update, weighted_mean
from fedunlearn.federation.availability import Availability
from fedunlearn.federation.exchange import Federation, Occasion, letter, settings
from fedunlearn.federation.observer import Observer
from fedunlearn.federation.standing import GlobalModel, Standing
from fedunlearn.federation.transport import Refused, State, count, number, weights_like
from fedunlearn.history import History
from fedunlearn.models.contract import EmotionModel
from fedunlearn.training import round_lr, set_calibration


class Rounds:
    """Exchanges in which every client that can be reached takes part.

    Args:
        federation: the clients. config: the experiment. template: a model of its kind.
        standing: of the run. observer: told of every round.
        availability: of the clients.
    """

    def __init__(
        self,
        federation: Federation,
        config: Config,
        template: EmotionModel,
        standing: Standing,
        observer: Observer,
        availability: Availability,
    ) -> None:
        self._clients, self._config, self._template = federation, config, template
        self._standing, self._observer = standing, observer
        self._availability = availability

    def reachable(self, date: int) -> tuple[int, ...]:
        """Clients that hold training data and can be reached once ``date`` rounds are done."""
        return tuple(c for c in self._clients.clients if self._availability.reachable(c, date))

    def start(self, initial: Mapping[str, Tensor], phase: str) -> GlobalModel:
        """Round 0: normalisation constants from all clients' moments, averaged by frames."""
        occasion = Occasion(0, "calibrate", self._standing.costs[phase])
        dims = len(self._template.norm.mean)
        like = {name: torch.zeros(dims, dtype=torch.float64) for name in ("mean", "mean_square")}
        replies = self._clients.ask(
            "train.calibrate",
            {c: RecordDict({"settings": settings(date=0)}) for c in self.reachable(0)},
            lambda client, reply: Update(
                client, count(reply, "examples"), weights_like(reply, "moments", like)
            ),
            occasion,
        )
        weights = calibrated(self._template, initial, list(replies.values()))
        return GlobalModel(weights, ServerOptimizer(self._config.training))

    def ordinary(
        self, model: GlobalModel, stream: int, row_round: int, phase: str, number: int | None = None,
        epochs: int | None = None, counted: Callable[[Update], Update | None] = lambda update: update,
    ) -> tuple[GlobalModel, list[Update], float | None, int]:  # fmt: skip
        """One ordinary round.

        Args:
            stream: seed of the clients' training streams. row_round: of the timeline.
            phase: whose cost this is.
            number: of the ordinary round, from 1; None = the model's next. epochs: None = training.local's.
            counted: an update as it counts; None = it does not.

        Returns:
            (the next model, the updates as they came, their mean loss, replies that did not count)
        """
        number = number or model.ordinary_rounds + 1
        lr = round_lr(self._config.training, number)
        asked = settings(
            round=number,
            date=number - 1,
            phase="learn",
            stream=stream,
            epochs=epochs or self._config.training.local.epochs,
            lr=lr,
        )
        updates, loss, refused = self.ask(model.weights, row_round, number - 1, phase, asked)
        counting = [c for c in map(counted, updates) if c is not None]
        weights = model.weights
        if counting:
            weights = model.optimizer.apply(weights, weighted_mean(counting))
        return GlobalModel(weights, model.optimizer, number), updates, loss, refused

    def ask(
        self, weights: State, row_round: int, date: int, phase: str, asked: ConfigRecord, kind: str = "train",
        teacher: State | None = None,
    ) -> tuple[list[Update], float | None, int]:  # fmt: skip
        """All reachable clients' updates, their mean loss, and how many replies did not count.

        Nobody is asked, and nothing comes back, where fewer than two of several can be reached: one
        survivor's model is not everybody's.
        """
        occasion = Occasion(row_round, phase, self._standing.costs[phase])
        occasion.cost.rounds += 1
        before = len(self._clients.faults)
        if not self._clients.clients:
            raise RunFailed(f"round {row_round} ({phase}): no client holds any training data")
        there = self.reachable(date)
        if len(there) < min(2, len(self._clients.clients)):
            return [], None, 0
        beside, heard = phase in {"retrain", "counterfactual"}, self._standing.heard
        known = {c: date if beside else min(date, heard.get(c, 0)) for c in there}
        content = {
            c: letter(weights, ConfigRecord({**asked, "date": by}), teacher) for c, by in known.items()
        }

        def read(client: int, reply: RecordDict) -> tuple[Update, float]:
            examples, held = count(reply, "examples"), self._clients.examples[client]
            # What it held at another date than it last spoke at, a client with recordings knows alone.
            another = self._config.partition.recordings and known[client] != heard.get(client, 0)
            if examples != held and not another:
                raise Refused(f"claims {examples} utterances, but it holds {held}")
            return Update(client, examples, weights_like(reply, "update", weights)), number(reply, "loss")

        replies = self._clients.ask(kind, content, read, occasion)
        counted = {c: (update, loss) for c, (update, loss) in replies.items() if update.examples}
        updates = [update for update, _ in counted.values()]
        if not beside:
            trained = self._standing.trained
            trained |= {c: max(known[c], trained.get(c, -1)) for c in counted}
        if not updates:
            return [], None, len(self._clients.faults) - before
        total = sum(u.examples for u in updates)
        loss = sum(u.examples * loss for u, loss in counted.values()) / total
        return updates, loss, len(self._clients.faults) - before

    def remember(self, updates: Sequence[Update], ordinary_round: int | None) -> None:
        """What the main line's clients sent; an ``ordinary_round`` counts, recovery (None) is remembered."""
        standing = self._standing
        for update in updates:
            standing.history.remember(update.client, update.difference, ordinary_round)
        if ordinary_round is not None:
            standing.costs["learn"].bytes_stored = standing.history.bytes_stored

    def begin_history(self, model: GlobalModel) -> None:
        """The main line begins here."""
        self._standing.history = History(self._standing.history.trained, model.weights)

    def report(
        self, round_: int, phase: str, weights: State, loss: float | None, refused: int, look: bool,
        requests: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Tell the observer that a round is over."""
        predictions = self._observer.look(weights) if look else None
        row: dict[str, Any] = {"round": round_, "phase": phase, "loss": loss, "refused": refused}
        self._observer.saw({**row, "requests": list(requests)}, predictions)


def calibrated(
    template: EmotionModel, initial: Mapping[str, Tensor], moments: Sequence[Update]
) -> dict[str, Tensor]:
    """First weights with the normalisation constants that follow from all clients' moments.

    Args:
        template: of the kind; its weights are overwritten.
        moments: "mean" and "mean_square", counted by frames. A client with too little speech to hide in an
            average has none.
    """
    template.load_state_dict(dict(initial))
    told = [update for update in moments if update.examples]
    if told:
        means = weighted_mean(told)
        set_calibration(template, means["mean"], means["mean_square"])
    return {k: v.clone() for k, v in template.state_dict().items()}
