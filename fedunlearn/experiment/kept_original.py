"""The original as a run folder may keep it after a purge: blurred along what was unlearned.

The original knows the deleted utterances, and its difference to the unlearned model gives their features
(evaluation/reconstruction.py). So the exact weights leave the run folder when the run is over: they go to the
reference cache, which is the experimenter's. What stays is the original plus noise along each requester's
update: every row of an update keeps its place in the space of outputs and gets RATIO times its length of
noise in the space of inputs. The model still answers much as it did; its differences to other models have a
correlation of about 1 / RATIO with what was deleted.

The noise is drawn from a stream that is named after the deleted speech itself. So the same run writes the
same file, and whoever has only the file, the seed and this code cannot draw it again.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.seeding import torch_rng_for

RATIO = 10.0
"""length of the noise in each row of an update, as a multiple of the row's own"""
_COLUMNS = 256
"""drawn at a time: the noise of a wide layer would take more memory than the model"""


def noise_along(update: Mapping[str, Tensor], seed: int, secret: str) -> StateDict:
    """Draw noise along one requester's update.

    Args:
        update: weights after less weights before.
        seed: of the run.
        secret: names the stream; a digest of the deleted speech, which is written nowhere.
    """
    generator = torch_rng_for(seed, "kept original", secret)
    return {name: _noise(value, generator) for name, value in update.items()}


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    if not bool(value.any()):
        return torch.zeros_like(value)
    if value.dim() < 2:
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        scale = RATIO * float(value.double().norm()) / max(1, value.numel()) ** 0.5
        noise: Tensor = (scale * drawn).to(value.dtype)
        return noise
    rows = value.double().flatten(1)
    inputs, parts = rows.shape[1], []
    for start in range(0, inputs, _COLUMNS):
        width = min(_COLUMNS, inputs - start)
        drawn = torch.randn(inputs, width, generator=generator, dtype=torch.float64)
        parts.append(rows @ drawn * (RATIO / inputs**0.5))
    return torch.cat(parts, 1).reshape(value.shape).to(value.dtype)


def add(state: Mapping[str, Tensor], noise: Mapping[str, Tensor]) -> StateDict:
    """Add noise to a state, or more noise to noise; tensors without any stay as they are.

    Args:
        state: weights, or noise.
        noise: to be added.
    """
    return {name: value + noise[name] if name in noise else value for name, value in state.items()}
