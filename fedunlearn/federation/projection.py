"""The nearest step that works against nobody: updates as vectors, and their projection on a cone.

The joint unlearn step must not undo what those who did not ask have learned, and a recovery round must not
undo the unlearn step: both ask for the vector nearest to the wished one that has no negative inner product
with any of some others. FedOSD (Pan et al. 2025, arXiv 2412.20200) asks for orthogonality instead and gives
the result its old length again; so it takes away what would have helped the others, too, and nobody's step
is ever the plain sum.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedunlearn.federation.transport import State

_ROUNDING = 1e-12
"""An inner product of unit vectors that is less than this below 0 is no conflict but a rounding error."""


def without_conflict(wished: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> State:
    """The vector d nearest to ``wished`` with <d, g> >= 0 for each g of ``others``.

    All tensors count as one vector. d = wished + sum_i lambda_i g_i with lambda >= 0 that minimise |d|: non-
    negative least squares, solved exactly (Lawson & Hanson 1974) on the small triangle of a QR decomposition.
    Takes memory for twice len(others) vectors in float64.

    Args:
        wished: tensors of any shapes; one that the others lack stays as it is.
        others: all of the same tensors; their lengths do not matter, and a zero asks for nothing.

    Returns:
        float64, of the form of ``wished``; equal to it where nothing is in conflict.
    """
    result = {key: value.double() for key, value in wished.items()}
    names = sorted(others[0]) if others else []  # whatever order the states came in, the sums run in one
    directions = [g / length for g in (_flat(o, names) for o in others) if (length := g.norm()) > 0]
    if not directions:
        return result
    vector, columns = _flat(wished, names), torch.stack(directions, 1)
    if bool((columns.T @ vector >= -_ROUNDING * vector.norm()).all()):
        return result
    orthonormal, triangle = torch.linalg.qr(columns)
    from scipy.optimize import nnls  # every worker imports this module, and few runs project

    shares, _ = nnls(triangle.numpy(), -(orthonormal.T @ vector).numpy(), maxiter=100 * len(directions))
    nearest = vector + columns @ torch.from_numpy(shares)
    parts = torch.split(nearest, [wished[name].numel() for name in names])
    return result | {name: part.reshape(wished[name].shape) for name, part in zip(names, parts, strict=True)}


def _flat(state: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in names])
