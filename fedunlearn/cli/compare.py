"""``fedunlearn compare``: unlearning methods side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import (
    ConfigOption,
    DataOption,
    EngineOption,
    SetOption,
    config_files,
    read_overrides,
)
from fedunlearn.cli.progress_bars import cell_bars
from fedunlearn.config import StudySettings
from fedunlearn.config.fields import LARGEST_SEED
from fedunlearn.console import Screen, errors, plain, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput
from fedunlearn.study.grid import (
    RECOVERIES,
    Axes,
    Variant,
    comparison_config,
    parse_folds,
    parse_numbers,
    parse_sizes,
    parse_variant,
    variant_of,
)
from fedunlearn.study.plan import own_variants, study_of

DEFAULT_METHODS = "default,l2ul,none,destroy"
"""compared where neither an option nor the config says which"""


def compare(
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; default = the product's, l2ul = the paper's. Empty: variants alone. "
            f"Without it, those of the config's study, or {DEFAULT_METHODS}."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=METHOD:KEY=VALUE,...",
            help="One more row of the tables: a method with settings of its own, such as "
            "Adv=l2ul:elasticity=0 (keys as below unlearning.l2ul). May be repeated.",
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Utterances that each requester deletes; all: everything it holds. Without it, the config's "
            "study.sizes (10,20,48). In a study with questions, the only sizes that are run."
        ),
    ] = None,
    requesters: Annotated[
        str | None,
        typer.Option(help="Clients that request at the same time. Without it, study.requesters (1,4)."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Whole experiments: partition, training, requesters. Without it, study.seeds (0,1,2,3,4)."
        ),
    ] = None,
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
            help=f"Of {', '.join(RECOVERIES)}; empty: study.recoveries, or the config's. gentle: the rounds "
            "of the config's recovery; ordinary: as many with the steps (or epochs) and lr of "
            'training.local; -removed: with recovery.reversion = "removed".'
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
    workers: Annotated[
        int | None,
        typer.Option(
            help="Cells at a time, with --engine inline; 0: one for each CPU. Without it, study.workers (1).",
            min=0,
            max=1000,
        ),
    ] = None,
    contributor: Annotated[
        str | None,
        typer.Option(
            help="Who made it, as study.json says when others join it to theirs (study.contributor)."
        ),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    model: Annotated[
        str | None, typer.Option(help="Recogniser: functionals, cnn, or an encoder (model.name).")
    ] = None,
    engine: EngineOption = None,
    set_: SetOption = None,
) -> None:
    """Compare unlearning methods; writes compare.csv, compare.md, compare.tex, study.json and figures.

    The [study] section of --config says what is compared where the options do not. With questions and claims,
    as in the preset paper, the tables are by question, and claims.csv and compare.html are written as well.

    Methods x sizes x requesters x aggregations x recoveries x windows x folds x seeds. Every cell is a whole
    run; a finished one is kept in DIR/cells and never computed twice: give the same command again to go on.
    Figures are of the first aggregation, recovery and window named; one is across aggregations and
    recoveries, one across windows.

    Exit codes: 0 every cell is there; 2 bad input; 3 a cell failed, or it was interrupted.
    """

    def command() -> int:
        named = {
            "corpus.path": str(data) if data else None,
            "model.name": model,
            "federation.engine": engine,
            "study.workers": workers,
            "study.contributor": contributor,
        }
        overrides = read_overrides(set_, named)
        base = comparison_config(config_files(config), overrides)
        own = base.study
        if own.questions and (methods is not None or variant):
            raise BadInput(
                "--methods, --variant: the config's study has questions, which name their variants; change "
                "them there, or take another config"
            )
        only = parse_sizes("--sizes", sizes) if sizes is not None else None
        axes = Axes(
            variants=_variants(own, methods, variant or []),
            sizes=only or own.sizes,
            requesters=own.requesters if requesters is None else parse_numbers("--requesters", requesters, 1),
            seeds=own.seeds if seeds is None else parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
            aggregations=_words(aggregations),
            recoveries=_words(recoveries) or own.recoveries,
            windows=parse_numbers("--windows", windows, 0) if windows else [],
            folds=parse_folds(folds, base),
            apart=apart,
            shadows=own.shadows,
        )
        study = study_of(own, axes, only)
        # Heavy imports wait until the input is known to be good.
        from fedunlearn.study.compare import run_study

        with stopped_as_interrupt(), cell_bars() as bars:
            bar = bars.add_task("", total=None)

            def progress(name: str, done: int, total: int) -> None:
                bars.update(bar, description=name or None, completed=done, total=total)

            found = run_study(base, study, out, warn, progress)
        if found.summary:
            Screen().print(found.summary, soft_wrap=True)
            say(f"Tables and figures: {out}")
        for name, why in found.failures.items():
            errors.print(plain(f"failed: {name}: {why}"), style="red")
        return EXIT_FAILED if found.failures else EXIT_OK

    raise SystemExit(run_command(command))


def _variants(own: StudySettings, methods: str | None, more: Sequence[str]) -> list[Variant]:
    """The variants of a comparison without questions: of the options, or of the config's study."""
    if methods is None and not more and own.variants:
        return [*map(variant_of, own.methods), *own_variants(own)]
    named = _words(DEFAULT_METHODS) if methods is None else _words(methods)
    if methods is None and own.methods:
        named = list(own.methods)
    return [*map(variant_of, named), *map(parse_variant, more)]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
