"""A federation under every fault at once: ``python simulations/soak.py`` is ``fedunlearn soak``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.soak import soak

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(soak)
    start(command)
