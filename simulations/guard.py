"""What malicious requesters achieve: ``python simulations/guard.py`` is ``fedunlearn guard``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.guard_study import guard

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(guard)
    start(command)
