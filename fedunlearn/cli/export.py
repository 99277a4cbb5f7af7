"""``fedunlearn export``: the model that a run ended with, as a transformers folder with its model card."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn import config as configuration
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.report import read_results
from fedunlearn.console import say, warn
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.inputs import refuse_inside_corpus
from fedunlearn.links import remove
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

FINAL = "recovered.safetensors"
"""the weights that a run ended with, whether or not there was anything to recover from"""


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run with a speech encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to make: weights, settings, labels and model card.")],
) -> None:
    """Save the model that a run ended with, for AutoModelForAudioClassification.from_pretrained(FOLDER).

    Exit codes: 0 done; 2 bad input, nothing was written; 3 it could not be written.
    """
    raise SystemExit(run_command(lambda: _export(RunFolder(run), out)))


def leave_model(run: RunFolder, results: Mapping[str, Any]) -> Path | None:
    """See that the folder of a run that has ended holds its final model; one of an earlier end goes.

    Args:
        run: whose checkpoints are written.
        results: as in its results.json.

    Returns:
        where; None for a small model, and where the run ended before it had a final model

    Raises:
        BadInput: its checkpoint or its encoder cannot be read.
        OSError: it cannot be written.
    """
    if _why_not(run, results):
        return None
    if run.model.exists() or run.model.is_symlink():
        remove(run.model)
    _save(run, results, run.model)
    return run.model


def _export(run: RunFolder, out: Path) -> int:
    results = read_results(run.path)
    with suppress(PermissionError):  # a folder that may not be locked has no run going on here
        run.lock()
    try:
        if problems := [why for why in (_why_not(run, results), _unfit(out, results)) if why]:
            raise BadInput(problems)
        _save(run, results, out)
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


def _why_not(run: RunFolder, results: Mapping[str, Any]) -> str:
    """Why a run has no model to be saved so; empty where it has one."""
    settings = configuration.load(run.config).model
    if not settings.is_encoder:
        return (
            f"{run.path}: its model is {settings.name}, and only speech encoders are saved as transformers "
            f"folders; its weights are {run.checkpoints / FINAL}"
        )
    if not results.get("models"):
        return (
            f"{run.path}: the run is {results.get('status')} and has no final model yet; "
            f"go on with it: python simulations/run.py --resume --out {shlex.quote(str(run.path))}"
        )
    return ""


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


def _save(run: RunFolder, results: Mapping[str, Any], folder: Path) -> None:
    from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint
    from fedunlearn.models import build_model, resolved
    from fedunlearn.models.encoders.model import EncoderModel
    from fedunlearn.models.encoders.saving import save_model
    from fedunlearn.report.model_card import model_card
    from fedunlearn.seeding import rng_for

    settings, file = configuration.load(run.config).model, run.checkpoints / FINAL
    here = settings.encoder.model_copy(update={"device": "cpu", "precision": "float32"})
    settings = resolved(settings.model_copy(update={"encoder": here}))
    emotions = results["corpus"]["emotions"]
    model = build_model(settings, len(emotions), rng_for(0, "template"))
    assert isinstance(model, EncoderModel)
    try:
        state, _ = load_checkpoint(file)
        model.load_state_dict(state)
    except (BadCheckpoint, RuntimeError) as error:
        why = " ".join(str(error).split())
        line = why if isinstance(error, BadCheckpoint) else f"{file}: does not fit the run's encoder ({why})"
        raise BadInput(line) from error
    save_model(model.eval(), emotions, folder, model_card(Results.model_validate(results)))
