"""How a command ends: its exit code, and one line for each problem."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedunlearn.console import errors, plain
from fedunlearn.errors import EXIT_BAD_INPUT, EXIT_FAILED, BadInput, RunFailed

_OF_A_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""errors about the path itself, not about the file that it names"""
_HINTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), " (is the disk full?)") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), " (is it yours to read and write?)"
)


def run_command(command: Callable[[], int]) -> int:
    """Run a command; bad input and a failed run become their exit codes, each problem one line.

    Args:
        command: returns its exit code.

    Returns:
        the exit code.
    """
    try:
        return command()
    except BadInput as error:
        for problem in error.problems:
            errors.labelled("error:", "red", problem)
        _print_notes(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        errors.labelled("failed:", "red", "interrupted")
        return EXIT_FAILED
    except RunFailed as error:
        errors.labelled("failed:", "red", str(error))
        _print_notes(error)
        return EXIT_FAILED
    except OSError as error:
        wrong = error.errno in _OF_A_PATH
        label, code = ("error:", EXIT_BAD_INPUT) if wrong else ("failed:", EXIT_FAILED)
        errors.labelled(label, "red", f"{error}{_HINTS.get(error.errno or 0, '')}")
        _print_notes(error)
        return code


def _print_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        errors.tell(plain(note))


@contextmanager
def stopped_as_interrupt() -> Iterator[None]:
    """Turn signals that end a process into KeyboardInterrupt, so that a run ends with a result that says so.

    SIGTERM comes from a scheduler, SIGHUP from a terminal that was closed; one that is ignored, as nohup
    does, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {stop: signal.getsignal(stop) for stop in stops}
    heeded = {stop: handler for stop, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for stop in heeded:
        signal.signal(stop, signal.default_int_handler)
    try:
        yield
    finally:
        for stop, handler in heeded.items():
            signal.signal(stop, handler)
