"""``fedunlearn guard``: what malicious requesters achieve, with and without the server's guard."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedunlearn import config as configuration
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import (
    ConfigOption,
    DataOption,
    EngineOption,
    SetOption,
    config_files,
    read_overrides,
)
from fedunlearn.config.fields import LARGEST, LARGEST_SEED, LARGEST_SHAPE
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.console import Screen, errors, plain, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.study.grid import parse_numbers

if TYPE_CHECKING:
    from fedunlearn.study.guard_study import Trial


def guard(
    cases: Annotated[
        str,
        typer.Option(help="honest, KIND:FACTOR (scaled, flipped, targeted, random), or noise:CLIP:SIGMA."),
    ] = "honest,scaled:10,flipped:10,targeted:1:4,targeted:3:4,random:10",
    guards: Annotated[
        str, typer.Option(help="Of off, config (the experiment's own), refuse, strict.")
    ] = "off,config,refuse,strict",
    methods: Annotated[
        str, typer.Option(help="Unlearning methods of honest requesters.")
    ] = UnlearningSettings().method,
    size: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="Utterances that each requester deletes.")
    ] = 20,
    requesters: Annotated[
        int,
        typer.Option(min=1, max=LARGEST_SHAPE, help="Requesting clients; one is malicious."),
    ] = 1,
    seeds: Annotated[str, typer.Option(help="Whole experiments.")] = "1,2,3",
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")] = Path("runs/guard"),
    config: ConfigOption = None,
    data: DataOption = None,
    engine: EngineOption = None,
    set_: SetOption = None,
) -> None:
    """Measure what one malicious requester does to the model, under each guard; and what noise costs.

    The first requester of each seed behaves as each case says, under each guard; writes guard.csv and
    guard.md, means over the seeds. A finished run is kept in DIR/cells and never computed twice.

    Exit codes: 0 every run is there; 2 bad input; 3 a run failed.
    """

    def command() -> int:
        # pandas is loaded when it is needed: every command imports this module.
        from fedunlearn.study.grid import loader_of
        from fedunlearn.study.guard_study import parse_case, trials_of
        from fedunlearn.study.runner import count_clients

        named = {"corpus.path": str(data) if data else None, "federation.engine": engine}
        common, files = read_overrides(set_, named), config_files(config)
        trials = trials_of(
            loader_of(count_clients(configuration.load(files, common))),
            methods.split(","),
            [parse_case(case) for case in cases.split(",")],
            guards.split(","),
            size,
            requesters,
            parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
        )
        return _measure(trials, out)

    raise SystemExit(run_command(command))


def _measure(trials: list["Trial"], out: Path) -> int:
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.study.guard_study import csv_of, row_of, table_of
    from fedunlearn.study.runner import StudyRunner

    failed = False
    with stopped_as_interrupt(), StudyRunner(out, partial=True, warn=warn) as runner:
        runner.check([trial.cell for trial in trials])
        for trial in trials:
            if runner.file(trial.cell).exists():
                continue
            try:
                runner.play(trial.cell)
                errors.tell(trial.cell.name)
            except RunFailed as error:
                failed = True
                errors.print(plain(f"failed: {trial.cell.name}: {error}"), style="red")
        rows = [row_of(trial, found) for trial in trials if (found := runner.results(trial.cell)) is not None]
    write_atomically(out / "guard.csv", csv_of(rows))
    write_atomically(out / "guard.md", table_of(rows))
    Screen().print(table_of(rows), soft_wrap=True)
    return EXIT_FAILED if failed else EXIT_OK
