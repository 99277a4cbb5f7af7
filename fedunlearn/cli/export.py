"""``fedunlearn export``: the model that a run ended with, as a transformers folder with its model card."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.report import read_results
from fedunlearn.console import say, warn
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.final_model import reason_for_none, save_final_model
from fedunlearn.inputs import refuse_inside_corpus
from fedunlearn.run_folder import RunFolder


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run with a speech encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to make: weights, settings, labels and model card.")],
) -> None:
    """Save the model that a run ended with, for AutoModelForAudioClassification.from_pretrained(FOLDER).

    Exit codes: 0 done; 2 bad input, nothing was written; 3 it could not be written.
    """
    raise SystemExit(run_command(lambda: _export(RunFolder(run), out)))


def _export(run: RunFolder, out: Path) -> int:
    results = read_results(run.path)
    with suppress(PermissionError):  # a folder that may not be locked has no run going on here
        run.lock()
    try:
        if problems := [why for why in (reason_for_none(run, results), _unfit(out, results)) if why]:
            raise BadInput(problems)
        save_final_model(run, results, out)
    finally:
        run.unlock()
    waiting = sum(1 for client in run.clients() for w in Inbox(run.vault(client)).waiting() if w.request)
    if waiting:
        waits = "1 deletion request waits" if waiting == 1 else f"{waiting} deletion requests wait"
        warn(f"{waits} to be served; this model still knows that speech")
    if results.get("status") != "complete":
        warn(f"the run is {results.get('status')}, and the model card says so")
    say(f"Model: {out}")
    return EXIT_OK


def _unfit(out: Path, results: Mapping[str, Any]) -> str:
    """Why nothing can be written there; a user's corpus is never written to."""
    from fedunlearn.models.encoders.saving import check_folder

    try:
        check_folder(out)
    except BadInput as error:
        return f"--out {error}"
    try:
        refuse_inside_corpus("--out", out, results["config"]["corpus"]["path"])
    except BadInput as error:
        return str(error)
    return ""
