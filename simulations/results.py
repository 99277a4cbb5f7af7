"""Every corpus and recogniser in one table: ``python simulations/results.py --corpus ravdess=PATH``.

Cells are kept: the same command continues, and several processes may share the work by seeds or corpora.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import SetOption, read_overrides
from fedunlearn.cli.progress_bars import cell_bars
from fedunlearn.config import Config
from fedunlearn.config.fields import LARGEST_SEED
from fedunlearn.console import Screen, errors, plain, say, warn
from fedunlearn.corpora.protocols import protocols
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput
from fedunlearn.files import write_atomically
from fedunlearn.study.grid import Axes, parse_folds, parse_numbers, parse_sizes, variant_of
from result_tables.ablations import ABLATIONS
from result_tables.experiments import TableExperiment, parse_speech, table_experiments

if TYPE_CHECKING:
    import pandas as pd

_FAST = {"evaluation.relearn_steps": 0, "evaluation.search": False}


def results(
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A corpus beside generated speech. May be repeated."),
    ] = None,
    generated: Annotated[bool, typer.Option(help="Whether generated speech is among the corpora.")] = True,
    models: Annotated[
        str, typer.Option(help="Of functionals, cnn and encoder:FOLDER, by commas.")
    ] = "functionals",
    methods: Annotated[
        str, typer.Option(help="Comma-separated; default = the product's, l2ul = the paper's.")
    ] = "default,l2ul,none,destroy",
    ablations: Annotated[
        bool, typer.Option("--ablations", help="The default method's switches, in place of methods.")
    ] = False,
    sizes: Annotated[
        str, typer.Option(help="Utterances that one requester deletes; all: everything it holds.")
    ] = "10,20,48,all",
    seeds: Annotated[str, typer.Option(help="Whole experiments.")] = "1,2,3",
    folds: Annotated[
        str,
        typer.Option(help="Of the corpora that have a protocol: all, or numbers; empty: none."),
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for cells, tables and the figure.")] = Path(
        "runs/results"
    ),
    engine: Annotated[str, typer.Option(help="inline or ray.")] = "inline",
    set_: SetOption = None,
) -> None:
    """Compare methods on every corpus with every recogniser; writes results.md, results.csv and a figure.

    Exit codes: 0 every cell is there; 2 bad input; 3 a cell failed, or it was interrupted.
    """

    def command() -> int:
        variants = [variant_of(method) for method in dict.fromkeys(_words(methods))]
        axes = Axes(
            variants=[ablation.variant for ablation in ABLATIONS] if ablations else variants,
            sizes=parse_sizes("--sizes", sizes),
            requesters=[1],
            seeds=parse_numbers("--seeds", seeds, 0, LARGEST_SEED),
        )
        overrides = read_overrides(set_, {**_FAST, "federation.engine": engine})
        experiments = table_experiments(parse_speech(corpus or [], generated), _words(models), overrides)
        if not experiments:
            raise BadInput("--models, --corpus: name at least one model and one corpus")
        parts = [(each, replace(axes, folds=_folds(folds, each.config))) for each in experiments]
        return _compare(parts, out, ablations)

    raise SystemExit(run_command(command))


def _compare(parts: Sequence[tuple[TableExperiment, Axes]], out: Path, ablations: bool) -> int:
    # Heavy imports wait until the input is known to be good.
    import pandas as pd

    from fedunlearn.study.compare import check_comparison, compare_methods

    counts, problems = [], list[str]()
    for experiment, axes in parts:
        try:
            counts.append(len(check_comparison(experiment.config, axes, out / experiment.name)))
        except BadInput as error:
            problems += [f"{experiment.name}: {problem}" for problem in error.problems]
    if problems:
        raise BadInput(problems)
    frames, failures = list[pd.DataFrame](), dict[str, str]()
    with stopped_as_interrupt(), cell_bars() as bars:
        bar = bars.add_task("", total=sum(counts))
        for number, (experiment, axes) in enumerate(parts):
            before, label = sum(counts[:number]), f"{experiment.name} "

            def progress(name: str, done: int, _: int, before: int = before, label: str = label) -> None:
                bars.update(bar, description=label + name, completed=before + done)

            found = compare_methods(experiment.config, axes, out / experiment.name, warn, progress)
            frames.append(found.rows.assign(corpus=experiment.corpus, model=experiment.model))
            failures |= {f"{experiment.name} {name}": why for name, why in found.failures.items()}
    finished = [frame for frame in frames if not frame.empty]
    if finished:
        _write(pd.concat(finished, ignore_index=True), out, ablations)
    for name, why in failures.items():
        errors.print(plain(f"failed: {name}: {why}"), style="red")
    return EXIT_FAILED if failures else EXIT_OK


def _write(rows: "pd.DataFrame", out: Path, ablations: bool) -> None:
    from fedunlearn.report.markup import markdown
    from result_tables.figure import write_figure
    from result_tables.gaps import ablation_table, csv_of, gap_table, recognition_table, short_table

    recognised = recognition_table(rows)
    first = ablation_table(rows) if ablations else gap_table(rows)
    name = "ablations" if ablations else "results"
    write_atomically(out / f"{name}.md", markdown([first, recognised]))
    write_atomically(out / f"{name}.csv", csv_of(rows))
    if not ablations:
        write_atomically(out / "results-short.md", markdown([short_table(rows)]))
        write_figure(rows, out)
    Screen().print(markdown([first, recognised]), soft_wrap=True)
    say(f"Tables: {out}")


def _folds(text: str, config: Config) -> list[int]:
    """The folds of a corpus that has a protocol; others draw their unseen speakers."""
    known = {protocol.corpus for protocol in protocols()}
    return parse_folds(text, config) if config.corpus.name in known else []


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(results)
    start(app)
