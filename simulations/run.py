"""One experiment: ``python simulations/run.py --clients 20`` (the same as ``fedunlearn run``)."""

import sys

if sys.version_info < (3, 11):
    sys.exit("error: fedunlearn needs Python 3.11 or newer; this is Python %d.%d" % sys.version_info[:2])

try:
    from fedunlearn.__main__ import start
except ModuleNotFoundError:
    sys.exit("error: fedunlearn is not installed here; run: pip install -e .   (or: make run)")


def _run() -> None:
    import typer

    from fedunlearn.cli.options import add_command
    from fedunlearn.cli.run import run

    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add_command(command, run)
    command()


if __name__ == "__main__":
    start(_run)
