"""Detects a worker process that died while it served a client: one byte per client in a shared file.

All processes of a run map the file. A process sets a client's byte while it serves that client; if it dies,
the byte stays set, and the process that retries the message sees it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.files import write_atomically
from fedunlearn.run_folder import RunFolder


def reset_liveness(run: RunFolder, clients: int) -> None:
    """Mark all clients as not being served. To be called when a run starts or is resumed.

    Args:
        run: folder of the run.
        clients: how many there are.
    """
    write_atomically(run.liveness, bytes(clients))


@contextmanager
def serving(run: RunFolder, client: int) -> Iterator[bool]:
    """Mark a client as being served by this process.

    Yields whether another process died while it served the client. An exception clears the mark; only the
    death of the process leaves it set.

    Args:
        run: folder of the run.
        client: its number.
    """
    marks = _map_marks(run.liveness, run.liveness.stat().st_ino)
    died = bool(marks[client])
    marks[client] = 1
    try:
        yield died
    finally:
        marks[client] = 0


@lru_cache(maxsize=4)
def _map_marks(file: Path, inode: int) -> Any:
    return np.memmap(file, np.uint8, "r+")
