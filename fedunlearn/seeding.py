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
    """A 128-bit number that stands for the stream's name.

    Every part is written with its type and length before hashing, so ("a", "b") and ("ab",), or 1 and
    "1", are different streams. NumPy's integers are whole numbers like any other.

    Raises:
        TypeError: a part that is neither a whole number nor text.
    """
    digest = hashlib.sha256()
    for part in (seed, *name):
        kind, text = _written(part)
        digest.update(f"{kind}:{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest()[:16], "big")


def rng_for(seed: int, *name: str | int) -> np.random.Generator:
    """The NumPy generator of the named stream."""
    return np.random.Generator(np.random.PCG64(stream_key(seed, *name)))


def torch_rng_for(seed: int, *name: str | int) -> "torch.Generator":
    """The torch (CPU) generator of the named stream."""
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
