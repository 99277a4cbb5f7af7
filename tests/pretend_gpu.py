"""A device that is not the CPU, on machines that have no other: to see that nothing mixes the two.

Tensors moved to ``DEVICE`` keep their values in a CPU tensor that only operations on that device may touch.
As on a GPU, an operation on tensors of both devices fails, unless that of the CPU is a single number or an
index. The device is torch's "meta", whose tensors have no values of their own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDICES = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Far(Tensor):
    """A tensor over there."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        made: Far = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.size(), near.stride(), near.storage_offset(), dtype=near.dtype, device=DEVICE
        )
        made.near = near.detach()
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """Inside, ``DEVICE`` computes. ``moved`` counts values brought over there."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            # What inference mode has not taken to pieces yet.
            parts = func.decompose(*args, **(kwargs or {}))
        return _computed(func, args, kwargs or {}, self) if parts is NotImplemented else parts


def _computed(func: Any, args: Any, kwargs: dict[str, Any], mode: PretendGpu | None = None) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = any(isinstance(x, Far) for x in tensors)
    device = kwargs.get("device")
    device = torch.device(device).type if device is not None else None
    if there and func not in _MOVES:
        watched = tensors if func not in _INDICES else [args[0], *args[2:3]]
        if any(isinstance(x, Tensor) and not isinstance(x, Far) and x.dim() > 0 for x in watched):
            raise RuntimeError(f"{func}: tensors on two devices")
    if device == DEVICE:
        kwargs = kwargs | {"device": "cpu"}
    out = func(*_near(args), **_near(kwargs))
    to_there = device == DEVICE or (device is None and there)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0]) if func._schema.returns else None
    if to_there:
        out = tree_map(lambda x: Far(x) if isinstance(x, Tensor) else x, out)
        if mode is not None and not there:
            mode.moved += sum(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
    return out


def _near(tree: Any) -> Any:
    return tree_map(lambda x: x.near if isinstance(x, Far) else x, tree)
