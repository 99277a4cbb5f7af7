"""A speech encoder from scratch: ``python simulations/pretrain.py`` is ``fedunlearn pretrain``."""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.pretrain import pretrain

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(pretrain)
    start(command)
