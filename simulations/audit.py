"""Cheating servers, and who finds them: ``python simulations/audit.py`` is ``fedunlearn audit bench``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.audit import bench

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(bench)
    start(command)
