"""Named, independent streams of randomness, all derived from one seed.

A stream is a function of the seed and its name alone: ``rng_for(seed, "client", 3, "round", 7)`` gives the
same numbers in any process, at any time, whatever was drawn before. So a resumed run needs no stored
generator state, and Ray workers agree with the in-process engine bit for bit.
"""

import hashlib
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_key(seed: int, *name: str | int) -> int:
    """Hash the name of a stream to a 128-bit number.

    Every part is written with its type and length before hashing, so that ("a", "b") and ("ab",), or 1 and
    "1", are different streams. NumPy's integers count as integers.

    Args:
        seed: seed of the experiment.
        name: the parts of the stream's name.

    Raises:
        TypeError: a part is neither an integer nor text.
    """
    digest = hashlib.sha256()
    for part in (seed, *name):
        kind, text = _written(part)
        digest.update(f"{kind}:{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest()[:16], "big")


def rng_for(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator of a named stream.

    Args:
        seed: seed of the experiment.
        name: the parts of the stream's name.
    """
    return np.random.Generator(np.random.PCG64(stream_key(seed, *name)))


def torch_rng_for(seed: int, *name: str | int) -> "torch.Generator":
    """Return the torch (CPU) generator of a named stream.

    Args:
        seed: seed of the experiment.
        name: the parts of the stream's name.
    """
    import torch  # takes seconds, and only training needs it

    generator = torch.Generator()
    generator.manual_seed(stream_key(seed, *name) % 2**63)
    return generator


def _written(part: str | int) -> tuple[str, bytes]:
    if isinstance(part, Integral):
        return "int", str(int(part)).encode()
    if isinstance(part, str):
        return "str", str(part).encode()
    raise TypeError(f"a stream is named by whole numbers and text, not by {part!r}")
