"""Aggregation of updates into the next global model. Sums run in client order and in float64.

Order and precision matter for promise 4: replies arrive in any order, floating-point sums depend on it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedunlearn.blockwise import LARGE, StateDict, add_weighted, moved
from fedunlearn.config import TrainingSettings
from fedunlearn.config.fields import Options
from fedunlearn.config.plugins import find
from fedunlearn.messages.update import Update


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
        """Add an update. Its difference is read now or, unless it is ``LARGE``, at a later ``add``.

        Args:
            update: of a client.
        """
        if not self._sum:
            zeros = {k: torch.zeros(d.shape, dtype=torch.float64) for k, d in update.difference.items()}
            self._sum = zeros
        self.examples += update.examples
        self._waiting.append((float(update.examples), update.difference))
        self._bytes += sum(d.nbytes for d in update.difference.values())
        if self._bytes >= LARGE:
            self._flush()

    def mean(self, total: int | None = None) -> StateDict:
        """Take the mean, float64. The sum becomes it: nothing can be added afterwards.

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


def weighted_mean(updates: Sequence[Update], total: int | None = None) -> StateDict:
    """Compute the mean difference weighted by examples, summed in client order.

    Args:
        updates: at least one.
        total: as of ``RunningMean.mean``.

    Returns:
        float64 differences.
    """
    running = RunningMean()
    for update in sorted(updates, key=lambda u: u.client):
        running.add(update)
    return running.mean(total)


def _sum(updates: Sequence[Update], weight: Callable[[Update], float]) -> StateDict:
    ordered = sorted(updates, key=lambda u: u.client)
    return {
        key: torch.stack([weight(u) * u.difference[key].double() for u in ordered]).sum(0)
        for key in ordered[0].difference
    }


def step(state: Mapping[str, Tensor], difference: Mapping[str, Tensor], scale: float = 1.0) -> StateDict:
    """Compute ``state + scale * difference`` in float64; the result has the state's own types.

    Args:
        state: weights.
        difference: of the same names and shapes.
        scale: of the step.
    """
    return {k: moved(v, difference[k], scale) for k, v in state.items()}


@dataclass(frozen=True)
class AggregationContext:
    """What an aggregation knows besides the requesters' updates.

    Attributes:
        total: training utterances of all clients together.
        others: last differences of the clients that requested no deletion, in client order; filled only for
            an aggregation that declares that it reads them.
        longest: > 0, the longest update that ``unlearning.clip`` lets through (L2); inf = any.
    """

    total: int
    others: Sequence[Mapping[str, Tensor]] = ()
    longest: float = math.inf


@dataclass(frozen=True)
class AggregationCard:
    """A user's own aggregation.

    Attributes:
        name: as tables show it.
        aggregate: updates, context and the config's options -> float64 differences.
        reads_last_steps: whether it reads ``AggregationContext.others``.
    """

    name: str
    aggregate: Callable[[Sequence[Update], AggregationContext, Options | None], StateDict]
    reads_last_steps: bool = False


def _clipped_sum(updates: Sequence[Update], context: AggregationContext) -> StateDict:
    longest = context.longest
    return _sum(updates, lambda u: longest / u.norm if u.norm > longest else 1.0)


def _plain_sum(updates: Sequence[Update], context: AggregationContext) -> StateDict:
    return _sum(updates, lambda _: 1.0)


_JOINS: Mapping[str, Callable[[Sequence[Update], AggregationContext], StateDict]] = {
    "sum": _plain_sum,
    "mean": lambda updates, context: _sum(updates, lambda _: 1.0 / len(updates)),
    "sequential": _plain_sum,  # of one requester at a time: the server asks one after another
    "fedavg": lambda updates, context: weighted_mean(updates, context.total),
    "projected": lambda updates, context: without_conflict(_plain_sum(updates, context), context.others),
    "norm-clipped": _clipped_sum,
}
"""Each of ``config.unlearning.AGGREGATIONS``."""


def aggregate_unlearning(
    updates: Sequence[Update],
    how: str,
    total: int,
    others: Sequence[Mapping[str, Tensor]] = (),
    longest: float = math.inf,
    options: Options | None = None,
) -> StateDict:
    """Compute the requesters' joint step.

    Args:
        updates: of the requesters, all from the same global model; at least one.
        how: "sum" | "mean" (each requester counts alike) | "fedavg" (weighted by utterances among all
            ``total`` of them in the federation, so that clients without a request dilute it) | "projected"
            (the vector nearest to the sum that works against none of the ``others``) | "norm-clipped" (the
            sum, each update scaled down to a norm of at most ``longest``); or a reference to a user's own.
        total: training utterances of all clients together; read by "fedavg".
        others: last differences of clients without a request, in client order; read by "projected".
        longest: > 0; read by "norm-clipped".
        options: settings of a user's own.

    Returns:
        float64 differences to add to the global model. With one requester "sum" and "mean" are its update;
        so are "projected" where nothing is in conflict and "norm-clipped" where it is not too long.

    Raises:
        BadInput: a user's own aggregation cannot be loaded.
        RunFailed: what it returned is no step of this model.
    """
    context = AggregationContext(total, others, longest)
    if how in _JOINS:
        return _JOINS[how](updates, context)
    card: AggregationCard = find("aggregation", how).card
    ordered = sorted(updates, key=lambda u: u.client)
    return card.aggregate(ordered, context, options)


@dataclass
class ServerOptimizer:
    """The server's step along the mean difference; its state lives from round to round.

    "average": theta + lr * d, plain FedAvg at lr 1. "momentum": FedAvgM (Hsu et al. 2019, arXiv
    1909.06335): m = beta m + d, theta + lr * m. "adam": FedAdam (Reddi et al. 2021, arXiv 2003.00295)
    with beta_2 = 0.99, tau = 1e-3.
    """

    settings: TrainingSettings
    moments: dict[str, StateDict] = field(default_factory=dict)

    def apply(self, state: Mapping[str, Tensor], mean: StateDict) -> StateDict:
        """Compute the next global model.

        Args:
            state: weights of the global model.
            mean: this round's mean difference.
        """
        kind, beta = self.settings.server_optimizer, self.settings.server_momentum
        if kind == "average":
            return step(state, mean, self.settings.server_lr)
        first = self._decay("first", beta, mean, 1.0 if kind == "momentum" else 1.0 - beta)
        if kind == "momentum":
            return step(state, first, self.settings.server_lr)
        second = self._decay("second", 0.99, {k: d.square() for k, d in mean.items()}, 0.01)
        ratio = {key: first[key] / (second[key].sqrt() + 1e-3) for key in first}
        return step(state, ratio, self.settings.server_lr)

    def _decay(self, name: str, beta: float, new: StateDict, weight: float) -> StateDict:
        old = self.moments.get(name)
        moment = {k: (beta * old[k] if old else 0.0) + weight * v for k, v in new.items()}
        self.moments[name] = moment
        return moment


_DEPENDENT = 1e-6
"""A vector of unit length that is less than this outside the span of others is a combination of them."""
_ROUNDING = 1e-12
"""An inner product of unit vectors that is less than this below 0 is no conflict but a rounding error."""


def without_conflict(wanted: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> StateDict:
    """Compute the vector d nearest to ``wanted`` with <d, g> >= 0 for each g of ``others``.

    All tensors count as one vector. d = wanted + sum_i lambda_i g_i with lambda >= 0 that minimise |d|: non-
    negative least squares, solved exactly (Lawson & Hanson 1974) on the small triangle of a QR decomposition.
    Takes memory for twice len(others) vectors in float64.

    The joint unlearn step must not undo what the other clients have learned, and a recovery round must not
    undo the unlearn step. FedOSD (Pan et al. 2025, arXiv 2412.20200) asks for orthogonality instead, which
    also takes away what would have helped the others, and then restores the old length.

    Args:
        wanted: tensors of any shapes; one that the others lack stays as it is.
        others: all of the same tensors; their lengths do not matter, and a zero constrains nothing.

    Returns:
        float64, of the form of ``wanted``; equal to it where nothing is in conflict.
    """
    result = {key: value.double() for key, value in wanted.items()}
    names = sorted(others[0]) if others else []  # whatever order the states came in, the sums run in one
    directions = [g / length for g in (_flat(o, names) for o in others) if (length := g.norm()) > 0]
    if not directions:
        return result
    vector, columns = _flat(wanted, names), torch.stack(directions, 1)
    if bool((columns.T @ vector >= -_ROUNDING * vector.norm()).all()):
        return result
    orthonormal, triangle = torch.linalg.qr(columns)
    from scipy.optimize import nnls  # every worker imports this module, and few runs project

    shares, _ = nnls(triangle.numpy(), -(orthonormal.T @ vector).numpy(), maxiter=100 * len(directions))
    nearest = vector + columns @ torch.from_numpy(shares)
    parts = torch.split(nearest, [wanted[name].numel() for name in names])
    return result | {name: part.reshape(wanted[name].shape) for name, part in zip(names, parts, strict=True)}


def without_directions(wanted: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> StateDict:
    """Compute the vector nearest to ``wanted`` that is orthogonal to all ``others``, at the old length.

    FedOSD's step (Pan et al. 2025, arXiv 2412.20200). All tensors count as one vector. Takes memory for twice
    len(others) vectors in float64.

    Args:
        wanted: tensors of any shapes.
        others: of the same names and shapes; their lengths do not matter, and a zero constrains nothing.

    Returns:
        float64; zero where ``wanted`` is a combination of the others, equal to it where there are none.
    """
    names = sorted(wanted)
    vector = _flat(wanted, names)
    directions = [g / length for g in (_flat(o, names) for o in others) if (length := g.norm()) > 0]
    nearest = vector
    if directions:
        basis, sizes, _ = torch.linalg.svd(torch.stack(directions, 1), full_matrices=False)
        basis = basis[:, sizes > _DEPENDENT * sizes.max()]
        nearest = vector - basis @ (basis.T @ vector)
        length = float(nearest.norm())
        nearest = nearest * (float(vector.norm()) / length if length > _DEPENDENT * vector.norm() else 0.0)
    parts = torch.split(nearest, [wanted[name].numel() for name in names])
    return {name: part.reshape(wanted[name].shape) for name, part in zip(names, parts, strict=True)}


def _flat(state: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in names])
