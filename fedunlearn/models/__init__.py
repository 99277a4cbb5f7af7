"""The emotion recognisers, and the function that builds one from its settings.

Reading order: ``contract`` (what every model provides) -> ``functionals`` (the smallest) -> ``frontend`` and
``cnn`` -> ``encoders``. ``plugin`` registers a user's own model; ``probes``
show whether a model still recognises every class.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fedunlearn.config.model import BUNDLED_ENCODER, ModelSettings
from fedunlearn.config.plugins import find
from fedunlearn.models.contract import EmotionModel, Standardise
from fedunlearn.models.plugin import ModelCard

__all__ = ["EmotionModel", "Standardise", "build_model", "notes_on", "resolved"]


def resolved(settings: ModelSettings, emotions: Sequence[str] = ()) -> ModelSettings:
    """Complete the settings: an encoder's absolute path, its digest, its device and precision, its labels.

    Weights with a name on the Hugging Face hub that are not on this machine are downloaded.

    Args:
        settings: settings of the recogniser.
        emotions: emotions of the corpus, for which a head that is kept must have labels; () if unknown.

    Raises:
        BadInput: the encoder is not available, does not match its digest, has no head to be kept, or asks for
            a missing device; or a user's own model cannot be built.
    """
    if settings.is_plugin:
        build_model(settings, 2, torch.Generator())  # whether it can be built
    if not settings.is_encoder:
        return settings
    from fedunlearn.models.encoders.checkpoint import check_digest, check_trains, locate
    from fedunlearn.models.encoders.devices import choose
    from fedunlearn.models.encoders.published_head import load_head, match_labels

    checkpoint, chosen = locate(settings.name, download=True), settings.encoder
    check_digest(checkpoint, chosen.sha256)
    check_trains(checkpoint, chosen.trains)
    device, precision = choose(chosen.device, chosen.precision)
    whole: dict[str, object] = {"sha256": checkpoint.sha256, "device": device, "precision": precision}
    if chosen.head == "kept" and emotions:
        whole["labels"] = labels = match_labels(checkpoint, emotions, chosen.labels)
        load_head(checkpoint, labels)  # whether it can be
    folder = Path(settings.name).expanduser()
    own = settings.name != BUNDLED_ENCODER and folder.is_dir()
    name = str(folder.absolute()) if own else settings.name
    return settings.model_copy(update={"name": name, "encoder": chosen.model_copy(update=whole)})


def notes_on(settings: ModelSettings) -> tuple[str, ...]:
    """Return lines on what an encoder's files leave open, such as a missing preprocessor_config.json.

    Args:
        settings: settings of the recogniser, resolved.

    Raises:
        BadInput: the encoder is not available.
    """
    if not settings.is_encoder:
        return ()
    from fedunlearn.models.encoders.checkpoint import locate

    return locate(settings.name).notes


def build_model(
    settings: ModelSettings, classes: int, rng: np.random.Generator | torch.Generator
) -> EmotionModel:
    """Build a recogniser with initial weights.

    Args:
        settings: settings of the recogniser.
        classes: number of emotions C, >= 2.
        rng: source of the initial weights; torch's global generator is left unchanged.

    Returns:
        A model in training mode, its standardisation not yet calibrated (mean 0, std 1).

    Raises:
        ValueError: there are fewer than two classes.
        BadInput: the encoder is not available, or does not match its digest.
    """
    if classes < 2:
        raise ValueError(f"a recogniser needs at least 2 emotions to tell apart (got {classes})")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_draw_seed(rng))
        return _construct(settings, classes)


def _construct(settings: ModelSettings, classes: int) -> EmotionModel:
    if settings.is_plugin:
        card: ModelCard = find("model", settings.name).card
        return card.build(classes, settings)
    if settings.is_encoder:
        from fedunlearn.models.encoders.checkpoint import check_digest, locate
        from fedunlearn.models.encoders.model import EncoderModel

        checkpoint = locate(settings.name)
        check_digest(checkpoint, settings.encoder.sha256)  # a folder may have changed since it was resolved
        return EncoderModel(checkpoint, classes, settings)
    if settings.name == "cnn":
        from fedunlearn.models.cnn import CnnModel

        return CnnModel(classes, settings.dropout)
    from fedunlearn.models.functionals import FunctionalsModel

    return FunctionalsModel(classes, settings.hidden, settings.dropout)


def _draw_seed(rng: np.random.Generator | torch.Generator) -> int:
    if isinstance(rng, torch.Generator):
        return int(torch.randint(2**62, (), generator=rng))
    return int(rng.integers(2**62))
