"""Standard streams that may be closed, full or disconnected, without ending a command."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_closed() -> None:
    """Open closed standard streams on the null device.

    Otherwise the next file that is opened would get the stream's number, and messages would go into it.
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
    """Redirect a stream that cannot be written any more to the null device, with its buffer."""
    with suppress(OSError, ValueError):  # a stream of a test has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def flush() -> None:
    """Flush both streams; what cannot be written is dropped, since at exit it would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            give_up(stream)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
