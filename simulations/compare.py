"""Methods side by side: methods x sizes x requesters x aggregations x recoveries x windows x seeds.

``python simulations/compare.py --config configs/ravdess.toml --data PATH --methods default,none --sizes 10,20
--requesters 1,4 --seeds 0,1 --engine inline --out DIR``

Every cell is a whole run of the product; trained originals and retrained references are found again by
content. A finished cell is kept in DIR/cells and never computed twice: call again to go on.
"""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.run import stopped_as_interrupt
from fedunlearn.config import Config
from fedunlearn.config.fields import LARGEST_SEED
from fedunlearn.console import Screen, errors, plain, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, Interrupted, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.study.grid import (
    RECOVERIES,
    Axes,
    Cell,
    ConfigLoader,
    Variant,
    cells_of,
    parse_numbers,
    parse_variant,
)
from fedunlearn.study.guard_study import GUARDS

if TYPE_CHECKING:
    from fedunlearn.study.runner import StudyRunner


def compare(
    methods: Annotated[
        str, typer.Option(help="Comma-separated; default = the product's. Empty: variants alone.")
    ] = "default,none,destroy",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=METHOD:KEY=VALUE,...",
            help="One more row of the tables: a method with settings of its own, such as "
            "Adv=l2ul:elasticity=0 (keys as below unlearning.l2ul). May be repeated.",
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(help="Utterances that each requester takes back.")] = "10,20,48",
    requesters: Annotated[str, typer.Option(help="Clients that ask at the same time.")] = "1,4",
    seeds: Annotated[
        str, typer.Option(help="Whole experiments: partition, training, requesters.")
    ] = "0,1,2,3,4",
    aggregations: Annotated[
        str, typer.Option(help="How requesters' updates join (unlearning.aggregation); empty: the config's.")
    ] = "",
    recoveries: Annotated[
        str,
        typer.Option(
            help=f"Of {', '.join(RECOVERIES)}; empty: the config's. gentle: the rounds of the config's "
            "recovery; ordinary: as many with the epochs and lr of training.local; -removed: with "
            'recovery.reversion = "removed".'
        ),
    ] = "",
    windows: Annotated[
        str,
        typer.Option(
            help="Rounds that a request waits so that others may be served with it (deletions.window), such "
            "as 0,2,5,10; empty: the config's. With --apart."
        ),
    ] = "",
    apart: Annotated[
        int, typer.Option(help="Rounds between one requester and the next.", min=0, max=10_000)
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder for cells, tables and figures.")] = Path("runs/compare"),
    config: Annotated[Path | None, typer.Option(help="A complete experiment to start from.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpus; only read.")] = None,
    engine: Annotated[str | None, typer.Option(help="ray, inline or flower.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE")] = None,
) -> None:
    """Compare unlearning methods; writes compare.csv, compare.md, compare.tex and figures.

    Figures are of the first aggregation, recovery and window named; one is across aggregations and
    recoveries, one across windows.

    Exit codes: 0 every cell is there; 2 bad input; 3 a cell failed, or it was interrupted.
    """

    def command() -> int:
        overrides = dict(configuration.parse_override(text) for text in set_ or [])
        named = {"corpus.path": str(data) if data else None, "federation.engine": engine}
        overrides |= {k: v for k, v in named.items() if v is not None}
        # Nobody lies here: methods are compared as they are, the destructive ones too.
        overrides = {**GUARDS["off"], **overrides}
        load = _loader(config, overrides)
        axes = Axes(
            variants=[_plain(name) for name in _words(methods)] + [parse_variant(v) for v in variant or []],
            sizes=parse_numbers("--sizes", sizes, 1),
            requesters=parse_numbers("--requesters", requesters, 1),
            seeds=parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
            aggregations=_words(aggregations),
            recoveries=_words(recoveries),
            windows=parse_numbers("--windows", windows, 0) if windows else [],
            apart=apart,
        )
        if not axes.variants:
            raise BadInput("--methods, --variant: name at least one method")
        return _compare(cells_of(load, axes), out)

    raise SystemExit(run_command(command))


def _loader(file: Path | None, common: dict[str, Any]) -> ConfigLoader:
    # A gap says little without a noise floor, which takes two retrained models.
    seeds = "evaluation.retrained_seeds"
    if seeds not in common and configuration.load(file, common).evaluation.retrained_seeds < 2:
        common = {**common, seeds: 2}
    return lambda overrides: configuration.load(file, {**common, **overrides})


def _compare(cells: list[Cell], out: Path) -> int:
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.study.runner import StudyRunner

    failed: list[str] = []
    with stopped_as_interrupt(), StudyRunner(out, warn=warn) as bench, _bars() as bars:
        bench.check(cells)
        waiting = [cell for cell in cells if not bench.file(cell).exists()]
        bar = bars.add_task("", total=len(cells), completed=len(cells) - len(waiting))
        for cell in waiting:
            bars.update(bar, description=cell.name)
            try:
                bench.play(cell)
            except (KeyboardInterrupt, Interrupted):
                bars.stop()
                done = sum(bench.file(cell).exists() for cell in cells)
                raise Interrupted(
                    f"interrupted; {done} of {len(cells)} cells are in {out / 'cells'}: "
                    "give the same command again to go on from there"
                ) from None
            except RunFailed as error:
                failed.append(f"failed: {cell.name}: {error}")
            bars.advance(bar)
    _write(cells, bench, out)
    for line in failed:
        errors.print(plain(line), style="red")
    return EXIT_FAILED if failed else EXIT_OK


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<48}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        speed_estimate_period=1800.0,  # s; a cell may take minutes
    )


def _write(cells: list[Cell], bench: "StudyRunner", out: Path) -> None:
    """Tables and figures of all cells that are there."""
    from fedunlearn.report.study import figures as comparison_figures
    from fedunlearn.report.study import statistics as comparison
    from fedunlearn.report.study import tables as comparison_tables
    from fedunlearn.study.rows import rows_of

    rows = [
        row for cell in cells if (found := bench.results(cell)) is not None for row in rows_of(cell, found)
    ]
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, comparison.COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    summary, details = comparison_tables.summaries(rows), comparison_tables.details(rows)
    write_atomically(out / "compare.csv", text.getvalue())
    write_atomically(out / "compare.md", comparison_tables.markdown([*summary, *details]))
    write_atomically(out / "compare.tex", comparison_tables.latex([*summary, *details]))
    comparison_figures.write_figures(rows, out)
    Screen().print(comparison_tables.markdown(summary), soft_wrap=True)
    say(f"Tables and figures: {out}")


def _plain(name: str) -> Variant:
    name = Config().unlearning.method if name == "default" else name
    return Variant(name, name)


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(compare)
    start(app)
