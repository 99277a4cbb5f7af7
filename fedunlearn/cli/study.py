"""``fedunlearn study``: check the study.json of a comparison, and merge those of several people."""

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, say, warn
from fedunlearn.errors import EXIT_OK


def check(
    files: Annotated[list[Path], typer.Argument(help="study.json files, or folders with one.")],
) -> None:
    """Check study.json files: form, digest of the task, and that every gap follows from the accuracies.

    Exit codes: 0 all are whole; 2 one is not, one line for each problem.
    """

    def command() -> int:
        # pandas is loaded when it is needed: every command imports this module.
        from fedunlearn.study.merge import read_checked

        for place, study in read_checked(files).items():
            seeds = ", ".join(map(str, sorted({run.seed for run in study.runs})))
            methods = ", ".join(sorted({run.method for run in study.runs}))
            who = ", ".join(sorted({contributor.name for contributor in study.contributors}))
            say(
                f"{place}: whole; task {study.task.digest[:12]}; {len(study.runs)} runs of {methods}; "
                f"seeds {seeds}; by {who}"
            )
        return EXIT_OK

    raise SystemExit(run_command(command))


def merge(
    files: Annotated[list[Path], typer.Argument(help="study.json files, or folders with one.")],
    out: Annotated[Path, typer.Option(help="Folder for study.json, the tables and the page.")] = Path(
        "runs/merged"
    ),
) -> None:
    """Merge studies of one task by several people: one table and one page of all methods and seeds.

    Writes study.json, compare.csv, compare.md and compare.html. Studies of different tasks (corpus, clients,
    sizes, model, training) are refused. A run that two people made with equal results counts once; where
    results differ, each has a row.

    Exit codes: 0 merged; 2 a study is damaged or of another task.
    """

    def command() -> int:
        from fedunlearn.study.merge import merge as merge_files

        merged = merge_files(files, out)
        for note in merged.notes:
            warn(note)
        Screen().print(merged.summary, soft_wrap=True)
        say(f"Merged study: {out}")
        return EXIT_OK

    raise SystemExit(run_command(command))
