"""Every command's way out: its exit code, and one line for each problem."""

import errno
from collections.abc import Callable

from rich.console import Console

from fedunlearn.errors import EXIT_BAD_INPUT, EXIT_FAILED, BadInput, RunFailed

errors = Console(stderr=True, soft_wrap=True, highlight=False)


def guarded(command: Callable[[], int]) -> int:
    """Run a command; bad input and a failed run become their exit codes, each problem one line."""
    try:
        return command()
    except BadInput as error:
        for problem in error.problems:
            errors.print(f"[red]error:[/] {plain(problem)}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        errors.print("[red]failed:[/] interrupted")
        return EXIT_FAILED
    except RunFailed as error:
        errors.print(f"[red]failed:[/] {plain(str(error))}")
        for note in getattr(error, "__notes__", ()):
            errors.print(plain(note))
        return EXIT_FAILED
    except OSError as error:
        denied = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
        hint = "is it yours to read and write?" if denied else "is the disk full?"
        errors.print(f"[red]failed:[/] {plain(str(error))} ({hint})")
        return EXIT_FAILED


def warn(text: str) -> None:
    """One line for the user; the command goes on."""
    errors.print(f"[yellow]warning:[/] {plain(text)}")


def plain(text: str) -> str:
    """As text that holds no markup and stands in one line."""
    return " ".join(text.split()).replace("[", r"\[")
