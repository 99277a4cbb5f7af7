"""``fedunlearn influence``: which files still know what was deleted, and how to be rid of them."""

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import say
from fedunlearn.errors import EXIT_OK
from fedunlearn.run_folder import RunFolder


def influence(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    cache: Annotated[
        Path | None, typer.Option(help="The run's reference cache; default: references/ beside the folder.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the back-ups for good.")] = False,
) -> None:
    """List the files, models above all, that know what was deleted; with --delete, delete the back-ups.

    Back-ups are models of before the deletion and what a run needs to be resumed. What the run was made for
    stays: the model after unlearning, numbers, receipts.

    Exit codes: 0 listed or deleted; 2 bad input, such as a run that has not come to its end.
    """
    raise SystemExit(run_command(lambda: _influence(folder, cache, delete)))


def _influence(folder: Path, cache: Path | None, delete: bool) -> int:
    from fedunlearn.audit.influence import delete_influence, files_with_influence, outcomes_with_influence

    run, references = RunFolder(folder), cache or folder.parent / "references"
    found = delete_influence(run, references) if delete else files_with_influence(run, references)
    for one in found:
        done = "deleted: " if delete else ""
        say(f"{done}{one.file}: {one.what}; needed for {one.needed_for}")
    for one in outcomes_with_influence(run):
        say(f"stays: {one.file}: {one.what}")
    if not found:
        say(f"{folder}: no file is left that was trained on what was deleted (cache: {references})")
    elif not delete:
        say("To delete all but what stays: the same command with --delete")
    return EXIT_OK
