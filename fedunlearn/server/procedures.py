"""The procedures of privileged baselines, made of rounds that somebody else plays.

The run's server plays them with messages, shadow federations on arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.config import Config
from fedunlearn.config.work import LocalWork
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel, constants_of
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.server.aggregation import ServerOptimizer, step, without_directions
from fedunlearn.server.history import History
from fedunlearn.server.state import GlobalModel
from fedunlearn.unlearning.privileged.contract import (
    HistoryCard,
    PrivilegedCard,
    RewindCard,
    RoundsCard,
    ScratchCard,
)

NormsOfRound = Mapping[int, Mapping[str, float]]
"""client -> trained tensor -> L2 norm of its difference in one round"""
Counted = Callable[[Update], Update | None]
"""an update as it counts in a mean; None = it does not"""


class ProcedureRounds(Protocol):
    """Plays the rounds that a procedure is made of; each is a round of the timeline."""

    def measure(self, weights: StateDict) -> None:
        """Have the clients evaluate the model, for the numbers that requesters are sent in all rounds.

        Args:
            weights: of the global model, before the first round with a forget half.
        """
        ...

    def begin(self) -> None:
        """Begin a round of two halves."""
        ...

    def forget_half(
        self, weights: StateDict, teacher: StateDict | None, share: float, orthogonal_to: Sequence[StateDict]
    ) -> StateDict | None:
        """Have the requesters unlearn their forget sets. One that fails is not asked again.

        Args:
            weights: of the global model.
            teacher: weights that they get too; None = none.
            share: of the joint step.
            orthogonal_to: as of ``StepInputs``.

        Returns:
            the next weights; None where no requester is left
        """
        ...

    def retain_half(
        self, weights: StateDict, teacher: StateDict | None, counted: Counted
    ) -> StateDict | None:
        """Have all clients train on what they keep.

        Args:
            weights: of the global model.
            teacher: weights that they get too; None = none.
            counted: gives an update as it counts.

        Returns:
            the mean of their differences; None where none counts
        """
        ...

    def end(self, weights: StateDict) -> None:
        """End a round of two halves.

        Args:
            weights: after it.
        """
        ...

    def train_again(
        self, model: GlobalModel, learning_round: int, stream: int, work: LocalWork, counted: Counted
    ) -> GlobalModel:
        """Train one ordinary round again; do nothing where no client keeps any speech.

        Args:
            model: before it.
            learning_round: from 1.
            stream: seed of the clients' training streams.
            work: of each client.
            counted: gives an update as it counts.
        """
        ...


class Procedure:
    """A privileged baseline's unlearn step.

    Args:
        config: the experiment.
        template: a model of the run's kind.
        history: of the main line.
        rounds: plays its rounds.
    """

    def __init__(
        self, config: Config, template: EmotionModel, history: History, rounds: ProcedureRounds
    ) -> None:
        self._config, self._template, self._history, self._rounds = config, template, history, rounds

    def play(self, card: PrivilegedCard, model: GlobalModel, stream: int) -> GlobalModel | None:
        """Play all of it.

        Args:
            card: of the baseline.
            model: the global model.
            stream: seed of the clients' training streams in rounds that are trained again.

        Returns:
            the next global model; None where no requester has unlearned
        """
        match card:
            case RoundsCard():
                weights = self.unlearn_in_rounds(card, model, stream)
                if weights is None:
                    return None
                return GlobalModel(weights, model.optimizer, model.learning_rounds)
            case HistoryCard():
                return self.relearn_from_history(card, model, stream)
            case RewindCard():
                return self.rewind(model, stream)
            case ScratchCard():
                return self.train_from_scratch(model, stream)

    def unlearn_in_rounds(self, card: RoundsCard, model: GlobalModel, stream: int) -> StateDict | None:
        """Play rounds of two halves: requesters unlearn their forget sets, then all train on what they keep.

        Args:
            card: of the baseline.
            model: the global model.
            stream: as of ``play``.

        Returns:
            the next weights; None where no requester is left
        """
        plan, rounds = card.plan(self._config.unlearning), self._rounds
        original, teacher = model.weights, self._teacher(card, model, stream)
        if plan.forget_rounds and plan.rounds:
            rounds.measure(original)
        weights = card.start(original, self._template)
        for number in range(1, plan.rounds + 1):
            rounds.begin()
            forgets = number <= plan.forget_rounds
            if forgets:
                others = list[StateDict]()
                if card.orthogonal:
                    rounds.retain_half(weights, teacher, partial(_copy_to, others))
                unlearned = rounds.forget_half(weights, teacher, plan.forget_share, others)
                if unlearned is None:
                    return None
                weights = unlearned
            if plan.retain_share and not (forgets and card.orthogonal):
                counted = partial(_across, difference(weights, original)) if card.orthogonal else as_it_is
                mean = rounds.retain_half(weights, teacher, counted)
                if mean is not None:
                    weights = step(weights, mean, plan.retain_share)
            rounds.end(weights)
        return weights

    def _teacher(self, card: RoundsCard, model: GlobalModel, stream: int) -> StateDict | None:
        if card.teacher == "retrained":
            return self.train_from_scratch(model, stream).weights
        return model.weights if card.teacher else None

    def rewind(self, model: GlobalModel, stream: int) -> GlobalModel:
        """Train the ordinary rounds again since the model that was kept, or all, where none is.

        Args:
            model: the global model.
            stream: as of ``play``.
        """
        history = self._history
        done = history.rewind_to if history.earlier else 0
        return self._train_rounds_again(history.earlier or history.initial, done, model, stream)

    def relearn_from_history(self, card: HistoryCard, model: GlobalModel, stream: int) -> GlobalModel:
        """Train the ordinary rounds again, from the weights that learning began with.

        Args:
            card: of the baseline.
            model: the global model.
            stream: as of ``play``.
        """
        chosen, history = self._config.unlearning, self._history
        work = card.work(chosen, self._config.training.local.work)
        again = GlobalModel(dict(history.initial), ServerOptimizer(self._config.training))
        for learning_round in card.rounds(chosen, model.learning_rounds):
            sizes = history.norms_of(learning_round)

            def calibrate(update: Update, sizes: NormsOfRound = sizes) -> Update | None:
                if update.client not in sizes:
                    return None
                new = card.calibrate(update.difference, sizes[update.client])
                return Update(update.client, update.examples, new)

            again = self._rounds.train_again(again, learning_round, stream, work, calibrate)
        return GlobalModel(again.weights, again.optimizer, model.learning_rounds)

    def train_from_scratch(self, model: GlobalModel, stream: int) -> GlobalModel:
        """Train as many ordinary rounds as the model has had, from new random weights and the same constants.

        The normalisation constants stay those of learning: no device sends its moments twice.

        Args:
            model: the global model.
            stream: seed of the weights, and as of ``play``.
        """
        rng = rng_for(stream, "initial weights")
        fresh = build_model(self._config.model, self._template.classes, rng).state_dict()
        return self._train_rounds_again({**fresh, **constants_of(model.weights)}, 0, model, stream)

    def _train_rounds_again(
        self, start: Mapping[str, Tensor], done: int, model: GlobalModel, stream: int
    ) -> GlobalModel:
        """Train the ordinary rounds after the first ``done`` again, from these weights."""
        again, work = GlobalModel(dict(start), ServerOptimizer(self._config.training)), self._config.training
        for learning_round in range(done + 1, model.learning_rounds + 1):
            again = self._rounds.train_again(again, learning_round, stream, work.local.work, as_it_is)
        return GlobalModel(again.weights, again.optimizer, model.learning_rounds)


def procedure_stream(seed: int, card: PrivilegedCard, timeline_round: int) -> int:
    """Return the seed of the clients' training streams in rounds that a procedure trains again.

    Args:
        seed: of the federation.
        card: of the baseline.
        timeline_round: in which the procedure begins.
    """
    return stream_key(seed, "method", card.name, timeline_round) % 2**31


def as_it_is(update: Update) -> Update:
    """Count an update unchanged."""
    return update


def _copy_to(kept: list[StateDict], update: Update) -> None:
    """Keep a copy of an update, which does not join a mean."""
    kept.append({name: value.clone() for name, value in update.difference.items()})


def _across(way: StateDict, update: Update) -> Update:
    """The update without what it moves along a way, at its old length."""
    return Update(update.client, update.examples, without_directions(update.difference, [way]))
