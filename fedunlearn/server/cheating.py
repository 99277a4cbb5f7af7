"""Servers that cheat with deletion requests: what the verifiers of ``fedunlearn audit bench`` are tested on.

Each is the honest server with one decision changed, and is otherwise as careful as the honest one: what it
writes down agrees with what it did, as far as it can. No run uses them unless it is given one by name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from flwr.app import ConfigRecord
from torch import Tensor

from fedunlearn.blockwise import StateDict, difference, moved, sum_of_squares
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import trained_names
from fedunlearn.seeding import rng_for
from fedunlearn.server.app import Server
from fedunlearn.server.clients import settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.main_line import MainLine
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import GlobalModel, ServerStep
from fedunlearn.server.training_rounds import CollectionSettings, RoundResult, TrainingRounds
from fedunlearn.server.unlearn_step import Outcomes


class WatchedServer(Server):
    """The honest server, which remembers its last unlearn step. Cheating servers change one of its hooks.

    Args:
        context: of this server.

    Attributes:
        before: weights before the last unlearn step; None = no step was taken.
        after: weights that the honest step led to.
        playing: whether it is playing the run's main line.
    """

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self._context = context
        self.before: StateDict | None = None
        self.after: StateDict | None = None
        self.playing = False

    def play(self, until: Callable[[], bool]) -> None:
        """Take steps until the run is over.

        Args:
            until: called between two steps; True = stop here.
        """

        self.playing = True
        super().play(until)
        self.playing = False

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Return the weights that the server goes on with in place of those of the honest step.

        Args:
            before: weights before the step.
            after: weights after it.
        """
        return after

    def send(self, client: int, weights: StateDict) -> StateDict:
        """Return the weights that a client is sent in place of the global model.

        Args:
            client: the receiver.
            weights: of the global model.
        """
        return weights

    def deploy(self) -> StateDict | None:
        """Return the weights that clients are given for use when the run is over; None = there are none."""
        return None if self.state.model is None else self.state.model.weights

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        served, outcomes = super()._unlearn(model, requests)
        if outcomes:
            self.before, self.after = model.weights, served.weights
            weights = self.replace_step(model.weights, served.weights)
            served = GlobalModel(weights, served.optimizer, served.learning_rounds)
        return served, outcomes

    def _go_on_with(self, weights: StateDict) -> None:
        model = self.state.model
        if model is not None:
            self.state.model = GlobalModel(weights, model.optimizer, model.learning_rounds)

    def _without_step(self, weights: StateDict) -> StateDict:
        """Weights from which the honest step is taken back."""
        if self.before is None or self.after is None:
            return weights
        return add(weights, difference(self.before, self.after), 1.0)


class IgnoringServer(WatchedServer):
    """Discards the updates; everything is written down as if they had joined."""

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Stay with the model before the step."""
        return before


class ScalingServer(WatchedServer):
    """Takes a tenth of the step."""

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Scale the step by 0.1."""
        return add(before, difference(after, before), 0.1)


class ShamServer(WatchedServer):
    """Takes a random step of the length of the honest one."""

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Draw a Gaussian direction on the trained tensors, of the same L2 norm as the step."""
        rng, trained = rng_for(self._config.seed, "sham step"), trained_names(self._context.template)
        noise = {name: torch.from_numpy(rng.standard_normal(tuple(before[name].shape))) for name in trained}
        return add(before, noise, norm(difference(after, before)) / norm(noise))


class OneOfManyServer(WatchedServer):
    """Applies the update of the first requester alone; the others unlearn for nothing."""

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        first = min(r.client for r in requests)
        _, outcomes = super()._unlearn(model, [r for r in requests if r.client != first])
        served, own = super()._unlearn(model, [r for r in requests if r.client == first])
        return served, {**outcomes, **own}


class OtherUpdateServer(WatchedServer):
    """Applies an ordinary update of a client that deletes nothing, at the length of the honest step."""

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        asking = {r.client for r in self.state.open}
        other = next(c for c in self._clients.active if c not in asking)
        self._ordinary = self._train_ordinary(model.weights, partial(_of_client, other))
        return super()._unlearn(model, requests)

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Move by the other client's update, scaled to the length of the step."""
        scale = norm(difference(after, before)) / norm(self._ordinary)
        return add(before, self._ordinary, scale)

    def _train_ordinary(self, weights: StateDict, counted: Callable[[Update], Update | None]) -> StateDict:
        """Train a round on what clients keep, before the requesters unlearn; the mean of what counts."""
        state, recovery = self.state, self._config.recovery
        when = {"round": state.timeline_round, "rounds_done": state.rounds_done}
        config = settings(
            **when,
            phase=str(Phase.RECOVER),
            stream=self._config.seed,
            steps=recovery.steps,
            epochs=recovery.epochs,
            lr=recovery.lr,
        )
        with self._clients.withholding(state.open):
            result = self.rounds.collect_updates(
                weights,
                state.timeline_round,
                state.rounds_done,
                Phase.RECOVER,
                config,
                CollectionSettings(counted=counted),
            )
        return result.mean or {name: torch.zeros_like(value) for name, value in weights.items()}


class BriefTrainingServer(OtherUpdateServer):
    """Trains one round on what the clients keep, and passes that off as unlearning."""

    def _unlearn(self, model: GlobalModel, requests: list[TrackedRequest]) -> tuple[GlobalModel, Outcomes]:
        self._ordinary = self._train_ordinary(model.weights, lambda update: update)
        return WatchedServer._unlearn(self, model, requests)

    def replace_step(self, before: StateDict, after: StateDict) -> StateDict:
        """Move by the mean update of the round."""
        return add(before, self._ordinary, 1.0)


class RollbackServer(WatchedServer):
    """Takes the step, has devices purge and write their receipts, and goes back to the model before it."""

    def _purge(self) -> None:
        super()._purge()
        if self.before is not None:
            self._go_on_with(self.before)


class RelearningServer(WatchedServer):
    """Takes the step, and gives an equal share of it back with the updates of every recovery round.

    Args:
        context: of this server.
    """

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self.rounds = _GivingBack(context, self)
        self.main_line = MainLine(context, self.rounds, self.queue)


class _GivingBack(TrainingRounds):
    """Recovery rounds whose mean update has a share of the unlearn step taken back in it."""

    def __init__(self, context: ServerContext, server: WatchedServer) -> None:
        super().__init__(context)
        self._server = server

    def recovery_round(self, weights: StateDict, config: ConfigRecord) -> RoundResult:
        """Train one recovery round, and add the share.

        Args:
            weights: of the global model.
            config: settings of the messages.
        """
        result, server = super().recovery_round(weights, config), self._server
        if result.mean is None or server.before is None or server.after is None:
            return result
        step, share = difference(server.before, server.after), 1.0 / self._config.recovery.rounds
        return replace(result, mean={n: m + share * step[n] for n, m in result.mean.items()})


class OldModelServer(WatchedServer):
    """Serves the request as it should, and deploys the model from before the deletion."""

    def deploy(self) -> StateDict | None:
        """Return the model before the step."""
        return super().deploy() if self.before is None else self.before


class SwappingServer(WatchedServer):
    """Takes the step in the model that is evaluated and kept, and sends all clients one without the step."""

    def send(self, client: int, weights: StateDict) -> StateDict:
        """Take the step back."""
        return self._without_step(weights)


class TwoFacedServer(WatchedServer):
    """Sends the unlearned model to the requesters, and one without the step to everybody else."""

    def send(self, client: int, weights: StateDict) -> StateDict:
        """Take the step back, unless the receiver has requested a deletion."""
        asking = {r.client for r in self.state.requests.values()}
        return weights if client in asking else self._without_step(weights)


class DelayingServer(WatchedServer):
    """Accepts requests, and serves none of them before the run is over."""

    def _serve(self) -> None:
        self.state.step = ServerStep.ROUND


def add(weights: Mapping[str, Tensor], change: Mapping[str, Tensor], scale: float) -> StateDict:
    """Add a scaled difference to weights; tensors that it lacks stay as they are.

    Args:
        weights: the whole state.
        change: tensor -> difference.
        scale: factor of the difference.
    """
    return {
        name: moved(value, change[name], scale) if name in change else value
        for name, value in weights.items()
    }


def norm(change: Mapping[str, Tensor]) -> float:
    """Compute the L2 norm of a difference.

    Args:
        change: tensor -> difference.
    """
    return math.sqrt(sum(sum_of_squares(value) for value in change.values()))


def _of_client(client: int, update: Update) -> Update | None:
    return update if update.client == client else None
