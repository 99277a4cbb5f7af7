"""Unlearning methods side by side: ``python simulations/compare.py`` is ``fedunlearn compare``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.compare import compare

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(compare)
    start(command)
