"""Every command's way out: its exit code, and one line for each problem."""

import errno
from collections.abc import Callable

from fedunlearn.console import errors, plain, warn
from fedunlearn.errors import EXIT_BAD_INPUT, EXIT_FAILED, BadInput, RunFailed

__all__ = ["errors", "plain", "run_command", "warn"]

_OF_A_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""errors that say that a path is wrong, whoever gave it, and not what it leads to"""
_HINTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), " (is the disk full?)") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), " (is it yours to read and write?)"
)


def run_command(command: Callable[[], int]) -> int:
    """Run a command; bad input and a failed run become their exit codes, each problem one line."""
    try:
        return command()
    except BadInput as error:
        for problem in error.problems:
            errors.labelled("error:", "red", problem)
        _tell_notes(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        errors.labelled("failed:", "red", "interrupted")
        return EXIT_FAILED
    except RunFailed as error:
        errors.labelled("failed:", "red", str(error))
        _tell_notes(error)
        return EXIT_FAILED
    except OSError as error:
        wrong = error.errno in _OF_A_PATH
        label, code = ("error:", EXIT_BAD_INPUT) if wrong else ("failed:", EXIT_FAILED)
        errors.labelled(label, "red", f"{error}{_HINTS.get(error.errno or 0, '')}")
        _tell_notes(error)
        return code


def _tell_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        errors.tell(plain(note))
