"""Arithmetic on weights in float64, block by block, so that converted values are used while in the cache.

The order of operations, by element and for sums by block, depends only on the shapes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 16
"""Values in a block: half a megabyte in float64."""

LARGE = 1 << 23
"""Bytes of weights from which on updates are sent one per call, and read one after another."""


def sum_of_squares(values: Tensor) -> float:
    """Compute the sum of squares in float64.

    For float32 or shorter values it is finite if and only if all values are.

    Args:
        values: of any shape and real type.
    """
    flat, total = values.reshape(-1), 0.0
    wide = torch.empty(min(_BLOCK, len(flat)), dtype=torch.float64)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        same = wide[: len(block)].copy_(block)
        total += float(torch.dot(same, same))
    return total


def add_weighted(total: Tensor, parts: Sequence[tuple[float, Tensor]]) -> None:
    """Add weight * values of each part to ``total``, in place and in the order of the parts.

    Passing several parts at once, or in one call after another, gives the same bits.

    Args:
        total: float64, contiguous.
        parts: pairs of a weight and values, with as many elements as ``total`` and of any real type.
    """
    flat = total.view(-1)
    flats = [(weight, values.reshape(-1)) for weight, values in parts]
    wide = torch.empty(min(_BLOCK, len(flat)), dtype=torch.float64)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        same = wide[: len(block)]
        for weight, values in flats:
            block.add_(same.copy_(values[start : start + _BLOCK]), alpha=weight)


def moved(values: Tensor, difference: Tensor, scale: float) -> Tensor:
    """Compute ``values + scale * difference`` in float64, and return it in the type of ``values``.

    Args:
        values: of any real type.
        difference: of the same shape and any real type.
        scale: factor of the difference.
    """
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    start_from, add, into = values.reshape(-1), difference.reshape(-1), out.view(-1)
    wide = torch.empty(min(_BLOCK, len(into)), dtype=torch.float64)
    more = torch.empty_like(wide)
    for start in range(0, len(into), _BLOCK):
        stretch = slice(start, start + _BLOCK)
        size = len(into[stretch])
        total = wide[:size].copy_(start_from[stretch])
        into[stretch] = total.add_(more[:size].copy_(add[stretch]), alpha=scale)
    return out


StateDict = dict[str, Tensor]
"""A model's state dict, on the CPU."""


def difference(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
) -> StateDict:
    """Compute ``new - old``, which is what a client sends, in their own type.

    Args:
        new: weights.
        old: weights of the same keys and shapes.
        into: tensors to overwrite with the result; None = allocate new ones.
    """
    if into is None:
        return {key: new[key] - old[key] for key in old}
    return {key: torch.sub(new[key], old[key], out=into[key]) for key in old}
