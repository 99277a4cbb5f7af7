"""The console command ``fedunlearn``: experiments, studies, reports, deletion requests, the ledger.

Each command is one module: ``run`` (read it first), ``watch``, ``compare``, ``guard_study``, ``soak``,
``pretrain``, ``report``, ``export``, ``requests``, ``ledger``, ``influence``. ``options`` are shared,
``exit_codes`` says how a command ends.
"""

from collections.abc import Callable

import typer

from fedunlearn.cli import (
    compare,
    export,
    guard_study,
    influence,
    ledger,
    pretrain,
    report,
    requests,
    run,
    soak,
    watch,
)
from fedunlearn.cli.options import add_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
_ledger = typer.Typer(
    no_args_is_help=True, help="What became of every request, and whether the record was altered."
)
_commands: tuple[Callable[..., None], ...] = (
    *(
        run.run,
        watch.watch,
        report.report,
        export.export,
        requests.delete,
        requests.withdraw,
        requests.requests,
    ),
    *(influence.influence, compare.compare, guard_study.guard, soak.soak, pretrain.pretrain),
)
for command in _commands:
    add_command(app, command)
for command in (ledger.show, ledger.verify, ledger.receipt):
    _ledger.command()(command)
app.add_typer(_ledger, name="ledger")
