"""Does the recipe train well on every corpus? ``python simulations/recipe.py --corpus ravdess=PATH``.

The originals of federated recipes, and of central training, on generated speech, on generated speech with
many utterances a client, and on each corpus given. Finished trainings are kept: the same command continues.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import SetOption, read_overrides
from fedunlearn.cli.progress_bars import cell_bars
from fedunlearn.config import Config
from fedunlearn.config.fields import LARGEST_SEED
from fedunlearn.console import Screen, say
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.files import write_atomically
from fedunlearn.study.grid import parse_numbers
from result_tables.experiments import GENERATED, Speech, parse_speech, table_experiments

_MANY = {"partition.clients": 7, "partition.unseen_speakers": 1, "corpus.utterances": 450}
"""Generated speech with as much on a client as a corpus of few speakers has."""


def recipe(
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A corpus beside generated speech. May be repeated."),
    ] = None,
    model: Annotated[str, typer.Option(help="functionals, cnn or encoder:FOLDER.")] = "functionals",
    seeds: Annotated[str, typer.Option(help="Of partition and training.")] = "101,102,103",
    out: Annotated[Path, typer.Option(help="Folder for trainings and tables.")] = Path("runs/recipe"),
    set_: SetOption = None,
) -> None:
    """Train by each recipe on each corpus; writes recipe.md and recipe.csv.

    Exit codes: 0 all is there; 2 bad input; 3 it failed or was interrupted.
    """

    def command() -> int:
        chosen = parse_numbers("--seeds", seeds, 0, LARGEST_SEED)
        overrides, speech = read_overrides(set_, {}), parse_speech(corpus or [])
        experiments = {each.corpus: each.config for each in table_experiments(speech, [model], overrides)}
        (many,) = table_experiments([Speech(GENERATED)], [model], {**_MANY, **overrides})
        experiments[f"{GENERATED}, {many.config.corpus.utterances} utterances a client"] = many.config
        return _train(experiments, chosen, out)

    raise SystemExit(run_command(command))


def _train(experiments: dict[str, Config], seeds: Sequence[int], out: Path) -> int:
    # Heavy imports wait until the input is known to be good.
    import torch

    from fedunlearn.report.markup import markdown
    from result_tables.recipe_tables import RecipeRow, csv_of, recipe_tables, summary_table
    from result_tables.recipes import RecipeRunner, recipes_for

    torch.set_num_threads(1)  # as on a device
    runner, problems = RecipeRunner(out), list[str]()
    for name, base in experiments.items():
        try:
            runner.check(base, seeds)
        except BadInput as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if out.exists() and not out.is_dir():
        problems.append(f"--out {out}: is no folder")
    if problems:
        raise BadInput(problems)
    tasks = [
        (name, base, seed, recipe)
        for name, base in experiments.items()
        for seed in seeds
        for recipe in recipes_for(base)
    ]
    rows = []
    with stopped_as_interrupt(), cell_bars() as bars:
        bar = bars.add_task("", total=len(tasks))
        for done, (name, base, seed, recipe) in enumerate(tasks):
            bars.update(bar, description=f"{name}, seed {seed}: {recipe.name}", completed=done)
            scores = runner.scores(base, recipe, seed)
            rows.append(RecipeRow(corpus=name, recipe=recipe, seed=seed, scores=scores))
        bars.update(bar, description="", completed=len(tasks))
    summary = summary_table(rows)
    write_atomically(out / "recipe.md", markdown([summary, *recipe_tables(rows)]))
    write_atomically(out / "recipe.csv", csv_of(rows))
    Screen().print(markdown([summary]), soft_wrap=True)
    say(f"Tables: {out}")
    return EXIT_OK


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(recipe)
    start(app)
