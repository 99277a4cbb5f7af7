"""``fedunlearn compare``: unlearning methods side by side."""

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import (
    ConfigOption,
    DataOption,
    EngineOption,
    SetOption,
    config_file,
    read_overrides,
)
from fedunlearn.cli.progress_bars import cell_bars
from fedunlearn.config.fields import LARGEST_SEED
from fedunlearn.console import Screen, errors, plain, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK
from fedunlearn.study.grid import (
    RECOVERIES,
    Axes,
    comparison_config,
    parse_folds,
    parse_numbers,
    parse_sizes,
    parse_variant,
    variant_of,
)


def compare(
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated; default = the product's, l2ul = the paper's. Empty: variants alone."
        ),
    ] = "default,l2ul,none,destroy",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=METHOD:KEY=VALUE,...",
            help="One more row of the tables: a method with settings of its own, such as "
            "Adv=l2ul:elasticity=0 (keys as below unlearning.l2ul). May be repeated.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="Utterances that each requester deletes; all: everything it holds.")
    ] = "10,20,48",
    requesters: Annotated[str, typer.Option(help="Clients that request at the same time.")] = "1,4",
    seeds: Annotated[
        str, typer.Option(help="Whole experiments: partition, training, requesters.")
    ] = "0,1,2,3,4",
    folds: Annotated[
        str,
        typer.Option(
            help="Folds of the corpus's protocol (partition.fold): all, or numbers such as 1,2,3; empty: "
            "the config's."
        ),
    ] = "",
    aggregations: Annotated[
        str,
        typer.Option(
            help="How the requesters' updates are aggregated (unlearning.aggregation); empty: the config's."
        ),
    ] = "",
    recoveries: Annotated[
        str,
        typer.Option(
            help=f"Of {', '.join(RECOVERIES)}; empty: the config's. gentle: the rounds of the config's "
            "recovery; ordinary: as many with the steps (or epochs) and lr of training.local; -removed: with "
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
    config: ConfigOption = None,
    data: DataOption = None,
    engine: EngineOption = None,
    set_: SetOption = None,
) -> None:
    """Compare unlearning methods; writes compare.csv, compare.md, compare.tex and figures.

    Methods x sizes x requesters x aggregations x recoveries x windows x folds x seeds. Every cell is a whole
    run; a finished one is kept in DIR/cells and never computed twice: give the same command again to go on.
    Figures are of the first aggregation, recovery and window named; one is across aggregations and
    recoveries, one across windows.

    Exit codes: 0 every cell is there; 2 bad input; 3 a cell failed, or it was interrupted.
    """

    def command() -> int:
        named = {"corpus.path": str(data) if data else None, "federation.engine": engine}
        overrides = read_overrides(set_, named)
        base = comparison_config(config_file(config), overrides)
        axes = Axes(
            variants=[variant_of(m) for m in _words(methods)] + [parse_variant(v) for v in variant or []],
            sizes=parse_sizes("--sizes", sizes),
            requesters=parse_numbers("--requesters", requesters, 1),
            seeds=parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
            aggregations=_words(aggregations),
            recoveries=_words(recoveries),
            windows=parse_numbers("--windows", windows, 0) if windows else [],
            folds=parse_folds(folds, base),
            apart=apart,
        )
        # Heavy imports wait until the input is known to be good.
        from fedunlearn.study.compare import compare_methods

        with stopped_as_interrupt(), cell_bars() as bars:
            bar = bars.add_task("", total=None)

            def progress(name: str, done: int, total: int) -> None:
                bars.update(bar, description=name or None, completed=done, total=total)

            found = compare_methods(base, axes, out, warn, progress)
        if found.summary:
            Screen().print(found.summary, soft_wrap=True)
            say(f"Tables and figures: {out}")
        for name, why in found.failures.items():
            errors.print(plain(f"failed: {name}: {why}"), style="red")
        return EXIT_FAILED if found.failures else EXIT_OK

    raise SystemExit(run_command(command))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
