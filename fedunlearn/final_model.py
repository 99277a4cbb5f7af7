"""The model that a run ended with, as a transformers folder with its model card: of a speech encoder only."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedunlearn import config as configuration
from fedunlearn.errors import BadInput
from fedunlearn.links import remove
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

FINAL = "recovered.safetensors"
"""the weights that a run ended with, whether or not there was anything to recover from"""


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
    if reason_for_none(run, results):
        return None
    if run.model.exists() or run.model.is_symlink():
        remove(run.model)
    save_final_model(run, results, run.model)
    return run.model


def reason_for_none(run: RunFolder, results: Mapping[str, Any]) -> str:
    """Say why a run has no model to be saved as a transformers folder; empty where it has one.

    Args:
        run: that has ended.
        results: as in its results.json.
    """
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


def save_final_model(run: RunFolder, results: Mapping[str, Any], folder: Path) -> None:
    """Save the model that a run ended with as a transformers folder, with its model card.

    Args:
        run: whose checkpoints are read.
        results: as in its results.json.
        folder: to be made.

    Raises:
        BadInput: its checkpoint or its encoder cannot be read.
        OSError: it cannot be written.
    """
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
