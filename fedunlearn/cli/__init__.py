"""The console command ``fedunlearn``: experiments, studies, reports, deletion requests, the ledger.

Each command is one module: ``run`` (read it first), ``watch``, ``compare``, ``guard_study``, ``soak``,
``pretrain``, ``deploy``, ``study``, ``report``, ``explore``, ``export``, ``requests``, ``vault``,
``ledger``, ``influence``, ``audit``. ``options`` are shared, ``exit_codes`` says how a command ends.
"""

from collections.abc import Callable

import typer

from fedunlearn.cli import (
    audit,
    compare,
    deploy,
    explore,
    export,
    guard_study,
    influence,
    ledger,
    pretrain,
    report,
    requests,
    run,
    soak,
    study,
    vault,
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
        explore.explore,
        export.export,
        requests.delete,
        requests.withdraw,
        requests.requests,
    ),
    *(influence.influence, compare.compare, guard_study.guard, soak.soak, pretrain.pretrain),
    deploy.deploy_local,
)
for command in _commands:
    add_command(app, command)
for command in (ledger.show, ledger.verify, ledger.receipt):
    _ledger.command()(command)
app.add_typer(_ledger, name="ledger")
_vault = typer.Typer(
    no_args_is_help=True, help="What one device holds: add, list, delete, verify recordings."
)
for command in (vault.add, vault.list_, vault.delete, vault.verify):
    _vault.command(name=command.__name__.rstrip("_"))(command)
app.add_typer(_vault, name="vault")
_audit = typer.Typer(no_args_is_help=True, help="Whether a run did what its ledger says.")
for command in (audit.replay, audit.bench):
    _audit.command()(command)
app.add_typer(_audit, name="audit")
_study = typer.Typer(no_args_is_help=True, help="Comparisons by several people: check and merge study.json.")
for command in (study.check, study.merge):
    _study.command()(command)
app.add_typer(_study, name="study")
