"""Arithmetic on weights in float64, a block at a time: what is converted is used while it is in the cache.

Element by element, and for a sum block by block, in an order that depends on nothing but the shapes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 16
"""values: half a megabyte in float64"""


def sum_of_squares(values: Tensor) -> float:
    """Of all values, in float64. Finite exactly where all of float32 (or shorter) ``values`` are."""
    flat, total = values.reshape(-1), 0.0
    wide = torch.empty(min(_BLOCK, len(flat)), dtype=torch.float64)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        same = wide[: len(block)].copy_(block)
        total += float(torch.dot(same, same))
    return total


def add_weighted(total: Tensor, parts: Sequence[tuple[float, Tensor]]) -> None:
    """Add weight * values of each part to ``total``, in place and in the order of the parts.

    Several parts at once, or one call after another, give the same bits.

    Args:
        total: float64, contiguous.
        parts: weights, and values of as many elements, of any real type.
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
    """``values + scale * difference``, computed in float64, in the type of ``values``.

    Args:
        values, difference: of one shape, of any real types.
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
    """``new - old`` in their own type: what a client sends. ``into``: to be overwritten; None = new ones."""
    if into is None:
        return {key: new[key] - old[key] for key in old}
    return {key: torch.sub(new[key], old[key], out=into[key]) for key in old}
