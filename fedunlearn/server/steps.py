"""How the global model moves after learning: the requesters' joint step, under guard, and recovery.

Pure functions of what the server knows: the run's server takes these steps, and so do shadow federations.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedunlearn.blockwise import StateDict, sum_of_squares
from fedunlearn.config import Config
from fedunlearn.config.guard import PrivacySettings
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.probes import Probes
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import (
    aggregate_unlearning,
    step,
    weighted_mean,
    without_conflict,
    without_directions,
)
from fedunlearn.server.guard import Guard, Intervention, Limits
from fedunlearn.server.history import History
from fedunlearn.training import set_calibration
from fedunlearn.unlearning import METHODS

Accuracy = Callable[[StateDict, Sequence[int]], float | None]
"""Accuracy of a model on the held-out speech of these clients; None = no client could report it."""
Rehearse = Callable[[int], Sequence[Rehearsal]]
"""Rehearsals of an unlearn step with so many utterances each."""


class StepRehearsals:
    """The rehearsals of one unlearn step, made when they are needed, and again for a larger request.

    Where requesters unlearn one after another, all are measured by what was rehearsed before the first.

    Args:
        rehearse: makes them.
    """

    def __init__(self, rehearse: Rehearse) -> None:
        self._rehearse, self._size, self._found = rehearse, 0, list[Rehearsal]()

    def __call__(self, size: int) -> Sequence[Rehearsal]:
        """Return rehearsals of at least this size.

        Args:
            size: utterances.
        """
        if size > self._size:
            self._size, self._found = size, list(self._rehearse(size))
        return self._found


@dataclass(frozen=True)
class StepInputs:
    """What a joint unlearn step depends on besides the weights and the updates.

    Attributes:
        config: the experiment.
        template: a model of the run's kind.
        history: of the main line.
        examples: client -> training utterances it holds.
        requesters: clients with a request open, whose history and accuracy do not count here.
        accuracy: called by the guard.
        rehearse: called by the guard.
        timeline_round: the timeline round.
        share: of the joint step.
        orthogonal_to: differences whose directions are taken out of the joint step, at its old length.
    """

    config: Config
    template: EmotionModel
    history: History
    examples: Mapping[int, int]
    requesters: Collection[int]
    accuracy: Accuracy
    rehearse: Rehearse
    timeline_round: int
    share: float = 1.0
    orthogonal_to: Sequence[Mapping[str, Tensor]] = ()


def apply_unlearn_updates(
    weights: StateDict,
    updates: Sequence[Update],
    inputs: StepInputs,
    request_ids: Mapping[int, Sequence[str]],
) -> tuple[StateDict, list[Update], list[Intervention]]:
    """Take the requesters' joint step, as far as the guard lets their updates join.

    Args:
        weights: that the updates start from.
        updates: at least one.
        inputs: what else the step depends on.
        request_ids: client -> ids of the requests that its update serves.

    Returns:
        (the next global model, the updates that joined, what the guard did)
    """
    config, history = inputs.config, inputs.history
    staying = [client for client in inputs.examples if client not in inputs.requesters]
    last = [history.last[client] for client in staying if client in history.last]
    unlearning, usual = config.unlearning, history.usual_norm(staying)
    total, longest = sum(inputs.examples.values()), unlearning.clip * usual

    def join(those: Sequence[Update]) -> StateDict:
        how, options = unlearning.aggregation, unlearning.aggregation_options
        joint = aggregate_unlearning(those, how, total, last, longest, options)
        if inputs.orthogonal_to:
            joint = without_directions(joint, inputs.orthogonal_to)
        return {name: inputs.share * value for name, value in joint.items()}

    def accuracy(candidate: StateDict) -> float | None:
        return inputs.accuracy(candidate, staying)

    passed, done = list(updates), list[Intervention]()
    card = METHODS.get(unlearning.method)
    if config.guard.bounds and (card is None or card.guarded):
        probes = Probes(inputs.template, weights, config.seed)
        # Nobody rehearses a privileged baseline: its rounds see more than the forget set.
        rehearses = config.guard.rehearses and card is not None
        rehearsals = inputs.rehearse(max(u.examples for u in updates)) if rehearses else ()
        distance = distance_travelled(weights, history)
        noise = longest_noise(config.privacy, weights, history)
        limits = Limits.of(config.guard, rehearsals, distance, noise)
        guard = Guard(config.guard, weights, join, limits, accuracy, probes.silenced)
        passed, done = guard.examine(updates, request_ids, inputs.timeline_round)
    return step(weights, join(passed)) if passed else weights, passed, done


def distance_travelled(weights: Mapping[str, Tensor], history: History) -> float:
    """Compute the L2 distance of a model from the weights that learning began with, over the trained weights.

    Args:
        weights: of the model.
        history: of the main line.

    Returns:
        infinity where nothing has been learned
    """
    if not history.initial:
        return math.inf
    squares = (sum_of_squares(weights[name] - history.initial[name]) for name in history.trained)
    return math.sqrt(sum(squares)) or math.inf


def longest_noise(privacy: PrivacySettings, weights: Mapping[str, Tensor], history: History) -> float:
    """Bound the L2 norm of the noise that an honest client adds to its update.

    Of d normal values with standard deviation s it exceeds s (sqrt(d) + 6) with a probability below 2e-8
    (Laurent & Massart 2000, Annals of Statistics 28(5), lemma 1).

    Args:
        privacy: settings of the clients' noise.
        weights: of the model.
        history: of the main line, which knows the trained tensors.
    """
    dims = sum(weights[name].numel() for name in history.trained)
    return privacy.noise * privacy.clip * (math.sqrt(dims) + 6.0)


def apply_recovery(
    weights: StateDict, mean: StateDict | None, reversion: str, unlearn_steps: Sequence[StateDict]
) -> StateDict:
    """Take a recovery round's step.

    Reversion is removed from the mean, where FedOSD removes it from each client's step: the mean is what
    moves the model, and clients that pull back may be outweighed by those that do not.

    Args:
        weights: of the global model.
        mean: of the clients' differences; None = nothing moves.
        reversion: "kept" or "removed".
        unlearn_steps: what each of the run so far moved the model by; read where reversion is removed.

    Returns:
        the next global model
    """
    if mean is None:
        return weights
    return step(weights, without_conflict(mean, unlearn_steps) if reversion == "removed" else mean)


def sample_clients(
    clients: Collection[int], count: int, seed: int, phase: str, timeline_round: int
) -> tuple[int, ...]:
    """Draw clients at random.

    Args:
        clients: to draw from.
        count: how many; 0 = all.
        seed: of the experiment.
        phase: phase in which they are drawn.
        timeline_round: round in which they are drawn.

    Returns:
        in order; all of them where ``count`` is not less
    """
    there = sorted(clients)
    if not count or count >= len(there):
        return tuple(there)
    drawn = rng_for(seed, "asked", phase, timeline_round).choice(len(there), count, replace=False)
    return tuple(there[i] for i in sorted(drawn.tolist()))


def draw_rehearsing(staying: Collection[int], config: Config, timeline_round: int) -> tuple[int, ...]:
    """Draw the clients that rehearse an unlearn step.

    Args:
        staying: clients without a request that can be reached.
        config: the experiment.
        timeline_round: round of the step.

    Returns:
        in order; all of them where they are no more than the guard's rehearsals
    """
    return sample_clients(staying, config.guard.rehearsals, config.seed, "rehearse", timeline_round)


def calibrate_model(
    template: EmotionModel, initial: Mapping[str, Tensor], moments: Sequence[Update]
) -> dict[str, Tensor]:
    """Set the normalisation constants that follow from all clients' moments.

    Args:
        template: of the kind; its weights are overwritten.
        initial: weights to start from.
        moments: "mean" and "mean_square", counted by frames. A client with too little speech to hide in an
            average has none.

    Returns:
        the first weights
    """
    template.load_state_dict(dict(initial))
    counted = [update for update in moments if update.examples]
    if counted:
        means = weighted_mean(counted)
        set_calibration(template, means["mean"], means["mean_square"])
    return {k: v.clone() for k, v in template.state_dict().items()}
