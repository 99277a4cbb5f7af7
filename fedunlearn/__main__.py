"""Entry of the console command: looks at Python and torch before anything heavy is imported."""

import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from fedunlearn.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from fedunlearn.streams import flush, open_closed


def environment_problem() -> str | None:
    """One line if this Python or this torch/torchaudio pair cannot work, else None."""
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:2]))
        return f"fedunlearn needs Python 3.11 or newer; this is Python {found}"
    try:
        torch, torchaudio = version("torch"), version("torchaudio")
    except PackageNotFoundError as missing:
        return f"{missing.name} is not installed; run: pip install -e ."
    if torch.split(".")[:2] != torchaudio.split(".")[:2]:
        return (
            f"torch {torch} and torchaudio {torchaudio} do not fit together: both must have the same minor "
            'version; run: pip install "torch==2.11.*" "torchaudio==2.11.*"'
        )
    return None


def start(command: Callable[[], object]) -> None:
    """Run a command if the environment allows it; exit code 2 and one line if not.

    Does not return, but ends the process at once, where the command failed or was interrupted (exit code 3).
    Standard streams that are closed, full or gone change no exit code.
    """
    open_closed()
    problem = environment_problem()
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT)
    try:
        command()
    except KeyboardInterrupt:  # while modules are read
        print("failed: interrupted", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except OSError as error:  # typer's own help; commands say it themselves
        flush()
        print(f"failed: standard output cannot be written ({error.strerror})", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except SystemExit as ended:
        flush()
        if ended.code == EXIT_FAILED:
            # Everything is written and printed; threads that wait for dead workers would never end.
            os._exit(EXIT_FAILED)
        if isinstance(ended.__context__, BrokenPipeError):  # typer's own help, of which enough was read
            raise SystemExit(EXIT_OK) from None
        raise


def main() -> None:
    """The console command ``fedunlearn``."""

    def command() -> None:
        from fedunlearn.cli import app

        app()

    start(command)


if __name__ == "__main__":
    main()
