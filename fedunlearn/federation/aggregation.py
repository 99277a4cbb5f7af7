"""How updates become the next global model. Sums run in client order and in float64.

Order and precision matter for promise 4: replies arrive in any order, floating-point sums depend on it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedunlearn.blockwise import add_weighted, moved, sum_of_squares
from fedunlearn.config import TrainingSettings
from fedunlearn.federation.projection import without_conflict
from fedunlearn.federation.transport import LARGE, State


@dataclass(frozen=True)
class Update:
    """One client's contribution.

    Attributes:
        client: its number; sums run in this order.
        examples: how many utterances stand behind it, > 0.
        difference: trained (or unlearned) weights minus the weights it started from.
    """

    client: int
    examples: int
    difference: Mapping[str, Tensor]

    @cached_property
    def sizes(self) -> dict[str, float]:
        """L2 norm of each tensor of the difference: finite where all of its values are."""
        return {name: math.sqrt(sum_of_squares(d)) for name, d in self.difference.items()}

    @property
    def not_finite(self) -> str | None:
        """The first tensor with a value that is not finite; None = there is none."""
        return next((name for name, norm in self.sizes.items() if not math.isfinite(norm)), None)

    @property
    def norm(self) -> float:
        """L2 norm of the difference over all tensors."""
        return math.hypot(*self.sizes.values())


class RunningMean:
    """Mean difference weighted by examples, float64 (McMahan et al. 2017), one update after another.

    Only the sum is kept. Updates are added in the order in which they come, which must be client order, and
    several at a time: while a block of the sum is in the processor's cache, all that wait are added to it.
    How many wait does not change a bit.
    """

    def __init__(self) -> None:
        self._sum: dict[str, Tensor] = {}
        self._waiting: list[tuple[float, Mapping[str, Tensor]]] = []
        self._bytes = 0
        self.examples = 0

    def add(self, update: Update) -> None:
        """One more update. Its difference is read now or, unless it is ``LARGE``, at a later ``add``."""
        if not self._sum:
            zeros = {k: torch.zeros(d.shape, dtype=torch.float64) for k, d in update.difference.items()}
            self._sum = zeros
        self.examples += update.examples
        self._waiting.append((float(update.examples), update.difference))
        self._bytes += sum(d.nbytes for d in update.difference.values())
        if self._bytes >= LARGE:
            self._flush()

    def mean(self, total: int | None = None) -> State:
        """The mean, float64. The sum becomes it: nothing can be added afterwards.

        Args:
            total: what the weights are shares of; None = the examples that were added. A larger total counts
                the clients that sent nothing as clients that changed nothing.
        """
        self._flush()
        whole = self.examples if total is None else total
        mean, self._sum = {key: value.div_(whole) for key, value in self._sum.items()}, {}
        return mean

    def _flush(self) -> None:
        for key, value in self._sum.items():
            add_weighted(value, [(weight, d[key]) for weight, d in self._waiting])
        self._waiting, self._bytes = [], 0


def weighted_mean(updates: Sequence[Update], total: int | None = None) -> State:
    """Mean difference weighted by examples, summed in client order.

    Args:
        updates: at least one. total: as of ``RunningMean.mean``.

    Returns:
        float64 differences.
    """
    running = RunningMean()
    for update in sorted(updates, key=lambda u: u.client):
        running.add(update)
    return running.mean(total)


def _sum(updates: Sequence[Update], weight: Callable[[Update], float]) -> State:
    ordered = sorted(updates, key=lambda u: u.client)
    return {
        key: torch.stack([weight(u) * u.difference[key].double() for u in ordered]).sum(0)
        for key in ordered[0].difference
    }


def step(state: Mapping[str, Tensor], difference: Mapping[str, Tensor], scale: float = 1.0) -> State:
    """``state + scale * difference``, computed in float64, in the state's own types."""
    return {k: moved(v, difference[k], scale) for k, v in state.items()}


def difference(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
) -> State:
    """``new - old`` in their own type: what a client sends. ``into``: to be overwritten; None = new ones."""
    if into is None:
        return {key: new[key] - old[key] for key in old}
    return {key: torch.sub(new[key], old[key], out=into[key]) for key in old}


def join_unlearning(
    updates: Sequence[Update],
    how: str,
    total: int,
    others: Sequence[Mapping[str, Tensor]] = (),
    longest: float = math.inf,
) -> State:
    """The requesters' joint step.

    Args:
        updates: of the requesters, all from the same global model; at least one.
        how: "sum" | "mean" (each requester counts alike) | "fedavg" (weighted by utterances among all
            ``total`` of them in the federation, so that those who did not ask dilute it) | "projected" (the
            vector nearest to the sum that works against none of the ``others``) | "norm-clipped" (the sum,
            each update scaled down to a norm of at most ``longest``).
        others: last differences of clients that did not ask, in client order; read by "projected".
        longest: > 0; read by "norm-clipped".

    Returns:
        float64 differences to add to the global model. With one requester "sum" and "mean" are its update;
        so are "projected" where nothing is in conflict and "norm-clipped" where it is not too long.
    """
    if how == "fedavg":
        return weighted_mean(updates, total)
    if how == "mean":
        return _sum(updates, lambda _: 1.0 / len(updates))
    if how == "norm-clipped":
        return _sum(updates, lambda u: longest / u.norm if u.norm > longest else 1.0)
    whole = _sum(updates, lambda _: 1.0)
    return without_conflict(whole, others) if how == "projected" else whole


@dataclass
class ServerOptimizer:
    """The server's step along the mean difference; its state lives from round to round.

    "average": theta + lr * d, plain FedAvg at lr 1. "momentum": FedAvgM (Hsu et al. 2019, arXiv
    1909.06335): m = beta m + d, theta + lr * m. "adam": FedAdam (Reddi et al. 2021, arXiv 2003.00295)
    with beta_2 = 0.99, tau = 1e-3.
    """

    settings: TrainingSettings
    moments: dict[str, State] = field(default_factory=dict)

    def apply(self, state: Mapping[str, Tensor], mean: State) -> State:
        """The next global model from this round's mean difference."""
        kind, beta = self.settings.server_optimizer, self.settings.server_momentum
        if kind == "average":
            return step(state, mean, self.settings.server_lr)
        first = self._decay("first", beta, mean, 1.0 if kind == "momentum" else 1.0 - beta)
        if kind == "momentum":
            return step(state, first, self.settings.server_lr)
        second = self._decay("second", 0.99, {k: d.square() for k, d in mean.items()}, 0.01)
        ratio = {key: first[key] / (second[key].sqrt() + 1e-3) for key in first}
        return step(state, ratio, self.settings.server_lr)

    def _decay(self, name: str, beta: float, new: State, weight: float) -> State:
        old = self.moments.get(name)
        moment = {k: (beta * old[k] if old else 0.0) + weight * v for k, v in new.items()}
        self.moments[name] = moment
        return moment
