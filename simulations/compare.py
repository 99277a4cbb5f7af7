"""Unlearning methods side by side: ``python simulations/compare.py`` is ``fedunlearn compare``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.compare import compare
from fedunlearn.cli.options import add_command

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add_command(command, compare)
    start(command)
