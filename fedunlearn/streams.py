"""Standard output and standard error that may be closed, full or gone: none of it ends a command."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_closed() -> None:
    """Give the process all three standard streams; one that was closed leads nowhere.

    Otherwise the next file that is opened would take its number, and messages would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def give_up(stream: TextIO) -> None:
    """Lead a stream that cannot be written any more nowhere, with all that is still in its buffer."""
    with suppress(OSError, ValueError):  # a stream of a test has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def flush() -> None:
    """Write out both streams. What cannot be written is dropped: at exit it would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            give_up(stream)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
