"""Saving the trained model as an ordinary transformers folder, which loads without this package."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.config.model import BUNDLED_ENCODER
from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.folders import whole_folder
from fedunlearn.models.encoders.checkpoint import quietly
from fedunlearn.models.encoders.model import EncoderModel


class Head(NamedTuple):
    """The part of a transformers model between the layers' means and the classifier, without normalisation.

    Attributes:
        layer_weights: [L + 1], before the softmax.
        weight: [P, H], weight of the projector.
        bias: [P], bias of the projector.
    """

    layer_weights: Tensor
    weight: Tensor
    bias: Tensor


def fold(mean: Tensor, of_layer: Tensor, of_width: Tensor, head: Head) -> Head:
    """Fold the standardisation into a head, which then takes raw layer means instead of standardised ones.

    With p = softmax(layer_weights), a = of_layer, b = of_width and x_l the mean of layer l, ``head`` sees
    z = sum_l p_l (x_l - mean_l) / (a_l b). Now p_l / a_l = Z softmax(log p - log a)_l with
    Z = sum_l p_l / a_l, so that Z and 1 / b go into the projector's columns, and the means into its bias.

    Args:
        mean: [L + 1, H], means of the standardisation.
        of_layer: [L + 1], > 0, scale of each layer.
        of_width: [H], > 0, scale of each dimension.
        head: the trained head.

    Returns:
        The new head in float32, computed in float64.
    """
    mean, of_layer, of_width = mean.double(), of_layer.double(), of_width.double()
    logs = head.layer_weights.detach().double().log_softmax(0) - of_layer.log()
    shares = logs.exp()
    by_width = head.weight.detach().double() / of_width
    bias = head.bias.detach().double() - by_width @ (shares @ mean)
    return Head(logs.float(), (by_width * shares.sum()).float(), bias.float())


def save_model(model: EncoderModel, emotions: Sequence[str], folder: Path, card: str) -> None:
    """Write a folder that ``AutoModelForAudioClassification`` and ``AutoFeatureExtractor`` load.

    It contains config.json, model.safetensors, preprocessor_config.json and README.md. Adapters are merged
    into the weights they adapt, and the normalisation into the head; the model itself is not changed. The
    folder appears complete or not at all.

    Args:
        model: the trained model.
        emotions: names of its C classes, in their order.
        folder: a new or empty folder.
        card: the model card, in Markdown.

    Raises:
        BadInput: the folder is not empty, or cannot be created.
        ValueError: the number of different emotions is not C.
    """
    if len(set(emotions)) != model.classes or len(emotions) != model.classes:
        raise ValueError(
            f"{model.classes} classes need as many different emotions (got {', '.join(emotions)})"
        )
    check_folder(folder)
    whole = _classifier(model, emotions)
    with whole_folder(folder) as unfinished:
        with quietly():
            whole.save_pretrained(unfinished)
        _extractor(model).save_pretrained(unfinished)
        write_atomically(unfinished / "README.md", card)


def check_folder(folder: Path) -> None:
    """Check that a model can be saved in a folder, without creating anything.

    Args:
        folder: the folder.

    Raises:
        BadInput: it is not empty, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder}: is not an empty folder; name another, or remove it first")
        nearest = next(p for p in folder.absolute().parents if p.exists())
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror})") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"{folder}: cannot be written ({nearest} is no folder, or not yours to write)")


def _classifier(model: EncoderModel, emotions: Sequence[str]) -> Any:
    """Build the transformers model; it shares the tensors that are not adapted with ``model``."""
    from transformers import AutoModelForAudioClassification

    build: Any = AutoModelForAudioClassification.from_config
    encoder = model.pretrained if model.trains == "head" else model.encoder
    if model.trains.startswith("lora"):
        encoder = _merged(encoder)
    config = copy.deepcopy(encoder.config)
    config.update(
        {
            "name_or_path": "",  # otherwise it would contain the path of the user's own folder
            "id2label": dict(enumerate(emotions)),
            "label2id": {emotion: label for label, emotion in enumerate(emotions)},
            "use_weighted_layer_sum": True,
            "classifier_proj_size": model.projector.out_features,
            "fedunlearn": _origin(model),
        }
    )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        whole = build(config)
    setattr(whole, whole.base_model_prefix, encoder)
    trained = Head(model.layer_weights, model.projector.weight, model.projector.bias)
    head = fold(*model.standardisation(), trained)
    for part, name, value in (
        (whole, "layer_weights", head.layer_weights),
        (whole.projector, "weight", head.weight),
        (whole.projector, "bias", head.bias),
        (whole.classifier, "weight", model.classifier.weight),
        (whole.classifier, "bias", model.classifier.bias),
    ):
        setattr(part, name, torch.nn.Parameter(value.detach()))
    return whole


def _merged(encoder: Any) -> Any:
    """Copy an encoder, with its adapters merged into the weights that they adapt."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    copied = copy.deepcopy(encoder)
    adapted = [name for name, part in copied.named_modules() if isinstance(part, BaseTunerLayer)]
    for name in adapted:
        layer = copied.get_submodule(name)
        layer.merge()
        copied.set_submodule(name, layer.get_base_layer())
    return copied


def _extractor(model: EncoderModel) -> Any:
    from transformers import Wav2Vec2FeatureExtractor

    extractor: Any = Wav2Vec2FeatureExtractor
    return extractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE,
        padding_value=0.0,
        do_normalize=model.checkpoint.normalise,
        return_attention_mask=True,
    )


def _origin(model: EncoderModel) -> dict[str, Any]:
    """Describe what the model was made from, for its config.json; of a user's folder only the name."""
    checkpoint = model.checkpoint
    own = checkpoint.name != BUNDLED_ENCODER and Path(checkpoint.name).expanduser().is_dir()
    return {
        "made_from": checkpoint.folder.name if checkpoint.folder and own else checkpoint.name,
        "sha256": checkpoint.sha256,
        "random_weights": checkpoint.is_random,
        "trained": model.trains,
        "head": "kept" if model.keeps_head else "new",
    }
