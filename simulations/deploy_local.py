"""An experiment as a deployment on this machine: ``python simulations/deploy_local.py`` is
``fedunlearn deploy-local``.
"""

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.deploy import deploy_local

if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(deploy_local)
    start(command)
