"""How the global model moves after learning: the requesters' joint step, under guard, and recovery.

Pure functions of what the server knows: the run's server takes these steps, and so do shadow federations.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from fedunlearn.config import Config
from fedunlearn.federation.aggregation import Update, join_unlearning, step
from fedunlearn.federation.guard import UNGUARDED, Guard, Intervention, Probes
from fedunlearn.federation.projection import without_conflict
from fedunlearn.federation.transport import State
from fedunlearn.history import History
from fedunlearn.models.contract import EmotionModel

Accuracy = Callable[[State, Sequence[int]], float | None]
"""Of a model on the held-out speech of these clients; None = nobody could say."""


def join_step(
    weights: State, updates: Sequence[Update], asked: Mapping[int, Sequence[str]], config: Config,
    template: EmotionModel, history: History, examples: Mapping[int, int], asking: Collection[int],
    accuracy: Accuracy, clock: int, share: float = 1.0,
) -> tuple[State, list[Update], list[Intervention]]:  # fmt: skip
    """The requesters' joint step, as far as the guard lets their updates join.

    Args:
        weights: that the updates start from. updates: at least one.
        asked: client -> ids of the requests that its update answers. template: a model of the run's kind.
        history: of the main line. examples: client -> training utterances it holds.
        asking: clients with a request open: they do not speak for those who did not ask.
        accuracy: asked by the guard. clock: of the timeline. share: of the joint step.

    Returns:
        (the next global model, the updates that joined, what the guard did)
    """
    staying = [client for client in examples if client not in asking]
    last = [history.last[client] for client in staying if client in history.last]
    unlearning, usual = config.unlearning, history.usual_norm(staying)
    total, longest = sum(examples.values()), unlearning.clip * usual

    def join(those: Sequence[Update]) -> State:
        joint = join_unlearning(those, unlearning.aggregation, total, last, longest)
        return {name: share * value for name, value in joint.items()}

    passed, done = list(updates), list[Intervention]()
    if unlearning.method not in UNGUARDED:
        probes = Probes(template, weights, config.seed)
        guard = Guard(
            config.guard, weights, join, usual, lambda state: accuracy(state, staying), probes.silenced
        )
        passed, done = guard.examine(updates, asked, clock)
    return step(weights, join(passed)) if passed else weights, passed, done


def recovered(weights: State, mean: State | None, reversion: str, unlearn_steps: Sequence[State]) -> State:
    """The global model after a recovery round.

    Reversion is removed from the mean, where FedOSD removes it from each client's step: the mean is what
    moves the model, and clients that pull back may be outweighed by those that do not.

    Args:
        mean: of the clients' differences; None = nothing moves. reversion: "kept" or "removed".
        unlearn_steps: what each of the run so far moved the model by; read where reversion is removed.
    """
    if mean is None:
        return weights
    return step(weights, without_conflict(mean, unlearn_steps) if reversion == "removed" else mean)
