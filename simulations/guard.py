"""How much damage a lying requester does, with and without the guard; and what noise on updates costs.

``python simulations/guard.py --config configs/ravdess.toml --data PATH --engine inline --out DIR``

The first requester of each seed lies (``--cases``), under each guard (``--guards``); writes guard.csv and
guard.md, means over the seeds. A finished run is kept in DIR/cells and never computed twice.
"""

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.run import stopped_as_interrupt
from fedunlearn.config.fields import LARGEST, LARGEST_SEED, LARGEST_SHAPE
from fedunlearn.console import Screen, errors, plain, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.study.grid import parse_numbers
from fedunlearn.study.guard_study import COLUMNS, Trial, parse_case, row_of, table_of, trials_of


def guard(
    cases: Annotated[
        str,
        typer.Option(help="honest, KIND:FACTOR (scaled, flipped, targeted, random), or noise:CLIP:SIGMA."),
    ] = "honest,scaled:10,flipped:10,targeted:1:4,targeted:3:4,random:10",
    guards: Annotated[
        str, typer.Option(help="Of off, config (the experiment's own), refuse, strict.")
    ] = "off,config,refuse,strict",
    methods: Annotated[str, typer.Option(help="What requesters do where they are honest.")] = "calm",
    size: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="Utterances that each requester takes back.")
    ] = 20,
    requesters: Annotated[
        int, typer.Option(min=1, max=LARGEST_SHAPE, help="Clients that ask; one of them lies.")
    ] = 1,
    seeds: Annotated[str, typer.Option(help="Whole experiments.")] = "1,2,3",
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")] = Path("runs/guard"),
    config: Annotated[Path | None, typer.Option(help="A complete experiment to start from.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpus; only read.")] = None,
    engine: Annotated[str | None, typer.Option(help="ray, inline or flower.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE")] = None,
) -> None:
    """Measure the guard; exit codes: 0 every run is there; 2 bad input; 3 a run failed."""

    def command() -> int:
        common = dict(configuration.parse_override(text) for text in set_ or [])
        named = {"corpus.path": str(data) if data else None, "federation.engine": engine}
        common |= {key: value for key, value in named.items() if value is not None}
        trials = trials_of(
            lambda more: configuration.load(config, {**common, **more}),
            methods.split(","),
            [parse_case(case) for case in cases.split(",")],
            guards.split(","),
            size,
            requesters,
            parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
        )
        return _measure(trials, out)

    raise SystemExit(run_command(command))


def _measure(trials: list[Trial], out: Path) -> int:
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.study.runner import StudyRunner

    failed = False
    with stopped_as_interrupt(), StudyRunner(out, partial=True, warn=warn) as bench:
        bench.check([trial.cell for trial in trials])
        for trial in trials:
            if bench.file(trial.cell).exists():
                continue
            try:
                bench.play(trial.cell)
                errors.tell(trial.cell.name)
            except RunFailed as error:
                failed = True
                errors.print(plain(f"failed: {trial.cell.name}: {error}"), style="red")
        rows = [row_of(trial, found) for trial in trials if (found := bench.results(trial.cell)) is not None]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / "guard.csv", text.getvalue())
    write_atomically(out / "guard.md", table_of(rows))
    Screen().print(table_of(rows), soft_wrap=True)
    return EXIT_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guard)
    start(app)
