"""The console command ``fedunlearn``: experiments, studies, reports, deletion requests, the ledger."""

from collections.abc import Callable

import typer

from fedunlearn.cli.compare import compare
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.export import export
from fedunlearn.cli.guard_study import guard
from fedunlearn.cli.influence import influence
from fedunlearn.cli.ledger import receipt, show, verify
from fedunlearn.cli.pretrain import pretrain
from fedunlearn.cli.report import report
from fedunlearn.cli.requests import delete, requests, withdraw
from fedunlearn.cli.run import closing_table, run
from fedunlearn.cli.soak import soak

__all__ = ["app", "closing_table", "run", "run_command", "stopped_as_interrupt"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
_ledger = typer.Typer(
    no_args_is_help=True, help="What became of every request, and whether the record was altered."
)
_commands: tuple[Callable[..., None], ...] = (
    *(run, report, export, delete, withdraw, requests, influence),
    *(compare, guard, soak, pretrain),
)
for command in _commands:
    app.command()(command)
for command in (show, verify, receipt):
    _ledger.command()(command)
app.add_typer(_ledger, name="ledger")
