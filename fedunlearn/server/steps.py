"""How the global model moves after learning: the requesters' joint step, under guard, and recovery.

Pure functions of what the server knows: the run's server takes these steps, and so do shadow federations.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import aggregate_unlearning, step, weighted_mean, without_conflict
from fedunlearn.server.guard import Guard, Intervention, Probes
from fedunlearn.server.history import History
from fedunlearn.training import set_calibration
from fedunlearn.unlearning import METHODS

Accuracy = Callable[[StateDict, Sequence[int]], float | None]
"""Of a model on the held-out speech of these clients; None = nobody could say."""


def apply_unlearn_updates(
    weights: StateDict,
    updates: Sequence[Update],
    asked: Mapping[int, Sequence[str]],
    config: Config,
    template: EmotionModel,
    history: History,
    examples: Mapping[int, int],
    asking: Collection[int],
    accuracy: Accuracy,
    timeline_round: int,
    share: float = 1.0,
) -> tuple[StateDict, list[Update], list[Intervention]]:
    """The requesters' joint step, as far as the guard lets their updates join.

    Args:
        weights: that the updates start from.
        updates: at least one.
        asked: client -> ids of the requests that its update answers.
        template: a model of the run's kind.
        history: of the main line.
        examples: client -> training utterances it holds.
        asking: clients with a request open: they do not speak for those who did not ask.
        accuracy: asked by the guard.
        timeline_round: of the timeline.
        share: of the joint step.

    Returns:
        (the next global model, the updates that joined, what the guard did)
    """
    staying = [client for client in examples if client not in asking]
    last = [history.last[client] for client in staying if client in history.last]
    unlearning, usual = config.unlearning, history.usual_norm(staying)
    total, longest = sum(examples.values()), unlearning.clip * usual

    def join(those: Sequence[Update]) -> StateDict:
        how, options = unlearning.aggregation, unlearning.aggregation_options
        joint = aggregate_unlearning(those, how, total, last, longest, options)
        return {name: share * value for name, value in joint.items()}

    passed, done = list(updates), list[Intervention]()
    card = METHODS.get(unlearning.method)
    if card is None or card.guarded:
        probes = Probes(template, weights, config.seed)
        guard = Guard(
            config.guard, weights, join, usual, lambda state: accuracy(state, staying), probes.silenced
        )
        passed, done = guard.examine(updates, asked, timeline_round)
    return step(weights, join(passed)) if passed else weights, passed, done


def recovered(
    weights: StateDict, mean: StateDict | None, reversion: str, unlearn_steps: Sequence[StateDict]
) -> StateDict:
    """The global model after a recovery round.

    Reversion is removed from the mean, where FedOSD removes it from each client's step: the mean is what
    moves the model, and clients that pull back may be outweighed by those that do not.

    Args:
        mean: of the clients' differences; None = nothing moves.
        reversion: "kept" or "removed".
        unlearn_steps: what each of the run so far moved the model by; read where reversion is removed.
    """
    if mean is None:
        return weights
    return step(weights, without_conflict(mean, unlearn_steps) if reversion == "removed" else mean)


def sample_clients(
    clients: Collection[int], count: int, seed: int, what: str, timeline_round: int
) -> tuple[int, ...]:
    """So many of these clients, drawn at random, in order; all of them where ``count`` is 0 or is not less.

    Args:
        seed: of the experiment.
        what, timeline_round: for what they are asked, and at which round of the clock.
    """
    there = sorted(clients)
    if not count or count >= len(there):
        return tuple(there)
    drawn = rng_for(seed, "asked", what, timeline_round).choice(len(there), count, replace=False)
    return tuple(there[i] for i in sorted(drawn.tolist()))


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
