"""A client's update: the weight difference from its training or unlearning."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedunlearn.blockwise import sum_of_squares


@dataclass(frozen=True)
class Update:
    """One client's contribution.

    Attributes:
        client: its number; sums are computed in this order.
        examples: number of utterances it was computed from, > 0.
        difference: trained (or unlearned) weights minus the weights it started from.
    """

    client: int
    examples: int
    difference: Mapping[str, Tensor]

    @cached_property
    def sizes(self) -> dict[str, float]:
        """L2 norm of each tensor of the difference; finite if all of its values are."""
        return {name: math.sqrt(sum_of_squares(d)) for name, d in self.difference.items()}

    @property
    def not_finite(self) -> str | None:
        """Name of the first tensor with a value that is not finite; None = there is none."""
        return next((name for name, norm in self.sizes.items() if not math.isfinite(norm)), None)

    @property
    def norm(self) -> float:
        """L2 norm of the difference over all tensors."""
        return math.hypot(*self.sizes.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the update as its client sent it: number of examples, names, types, shapes, values."""
        tensors = sorted(self.difference.items())
        form = [self.examples, [[name, str(d.dtype), list(d.shape)] for name, d in tensors]]
        digest = hashlib.sha256(json.dumps(form).encode())
        for _, values in tensors:
            digest.update(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
