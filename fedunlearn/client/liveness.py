"""Which clients somebody is attending to: a byte each in one file of the run, which all its processes map.

A process that dies in the middle leaves its mark there, and whoever does its work again can tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.run_folder import RunFolder, write_atomically


def open_attendance(run: RunFolder, clients: int) -> None:
    """Nobody is attended to. For a run that begins or is taken up."""
    write_atomically(run.attended, bytes(clients))


@contextmanager
def attending(run: RunFolder, client: int) -> Iterator[bool]:
    """Inside, this process works for a client; gives whether another one died while it did.

    An exception takes the mark away, only a death leaves it.
    """
    marks = _marks(run.attended, run.attended.stat().st_ino)
    died = bool(marks[client])
    marks[client] = 1
    try:
        yield died
    finally:
        marks[client] = 0


@lru_cache(maxsize=4)
def _marks(file: Path, inode: int) -> Any:
    return np.memmap(file, np.uint8, "r+")
