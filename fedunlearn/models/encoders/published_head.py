"""The classification head of a fine-tuned checkpoint, and its labels for the emotions of a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fedunlearn.errors import BadInput
from fedunlearn.models.encoders.checkpoint import Checkpoint
from fedunlearn.models.encoders.saved_folder import read_json, some, weight_files

_SPELLINGS = (
    ("neutral", "neu"),
    ("angry", "anger", "ang"),
    ("happy", "happiness", "hap", "joy", "joyful"),
    ("sad", "sadness"),
    ("fearful", "fear", "fea", "afraid"),
    ("disgust", "disgusted", "dis"),
    ("surprised", "surprise", "sur"),
    ("bored", "boredom", "bor"),
    ("excited", "excitement", "exc"),
    ("frustrated", "frustration", "fru"),
)
"""Names of one emotion in published label maps and in the corpora."""
_LAST_LAYER_ONLY = -30.0
"""Weight, before the softmax, of the layers that a head without a weighted sum does not read: a share of
1e-13, less than one rounding in float32."""
_KEPT = 'model.encoder.head = "kept"'
_REPLACE = 'or replace it: model.encoder.head = "new"'


@dataclass(frozen=True)
class PublishedHead:
    """The head of transformers' ``...ForSequenceClassification``, for some of its labels.

    Attributes:
        layer_weights: [L + 1], before the softmax.
        projector_weight: [P, H].
        projector_bias: [P].
        classifier_weight: [C, P].
        classifier_bias: [C].
    """

    layer_weights: Tensor
    projector_weight: Tensor
    projector_bias: Tensor
    classifier_weight: Tensor
    classifier_bias: Tensor


def match_labels(
    checkpoint: Checkpoint, emotions: Sequence[str], chosen: Sequence[str] = ()
) -> tuple[str, ...]:
    """Find the checkpoint's label of each emotion: of the same name, or another spelling of it.

    Args:
        checkpoint: a fine-tuned classification checkpoint.
        emotions: emotions of the corpus, in their order.
        chosen: the labels that the user has chosen, one for each emotion; empty = found by name.

    Returns:
        One label for each emotion.

    Raises:
        BadInput: the checkpoint has no label map, an emotion has no label or several, or the chosen labels
            are not one for each emotion.
    """
    folder = _folder(checkpoint)
    labels = _label_map(folder)
    if chosen:
        if len(chosen) != len(emotions) or len(set(chosen)) != len(chosen):
            raise BadInput(
                f"model.encoder.labels: needs {len(emotions)} different labels, one for each of "
                f"{', '.join(emotions)} (got {', '.join(chosen)})"
            )
        if strange := [label for label in chosen if label not in labels]:
            raise BadInput(
                f"model.encoder.labels: {folder / 'config.json'} has no label {', '.join(strange)}; it has "
                f"{', '.join(labels)}"
            )
        return tuple(chosen)
    found = {emotion: _named_alike(emotion, labels) for emotion in emotions}
    if odd := [emotion for emotion, candidates in found.items() if len(candidates) != 1]:
        raise BadInput(
            f"{_KEPT}: {folder / 'config.json'} has no label, or more than one, for "
            f"{', '.join(odd)} (its labels: {', '.join(labels)}); name one for each of {', '.join(emotions)} "
            f"in model.encoder.labels, {_REPLACE}"
        )
    matched = tuple(candidates[0] for candidates in found.values())
    if len(set(matched)) != len(matched):
        raise BadInput(
            f"{_KEPT}: two emotions of the corpus ({', '.join(emotions)}) have the same "
            f"label in {folder / 'config.json'} ({', '.join(matched)}); name others in model.encoder.labels, "
            f"{_REPLACE}"
        )
    return matched


def load_head(checkpoint: Checkpoint, labels: Sequence[str]) -> PublishedHead:
    """Load a checkpoint's head.

    Args:
        checkpoint: a fine-tuned classification checkpoint.
        labels: those of its labels that are classified, in the order of the classes.

    Returns:
        The head in float32; its classifier has one row for each of ``labels``.

    Raises:
        BadInput: the checkpoint has no such head, or one that reads what the layers' means do not determine.
    """
    folder = _folder(checkpoint)
    config, known = read_json(folder / "config.json"), _label_map(folder)
    weighted = config.get("use_weighted_layer_sum", False) is True
    if not weighted and config.get("do_stable_layer_norm", False):
        raise BadInput(
            f"{_KEPT}: the head in {folder} reads the last layer after one more layer "
            "norm (do_stable_layer_norm without use_weighted_layer_sum), which the layers' means do not "
            'determine; use model.encoder.head = "new"'
        )
    found = _tensors(folder, checkpoint.name)
    layers, hidden, width = checkpoint.layers + 1, checkpoint.hidden, config.get("classifier_proj_size", 256)
    shapes = {
        "projector.weight": (width, hidden),
        "projector.bias": (width,),
        "classifier.weight": (len(known), width),
        "classifier.bias": (len(known),),
    }
    if weighted:
        shapes["layer_weights"] = (layers,)
    if missing := [name for name in shapes if name not in found]:
        raise BadInput(
            f"{_KEPT}: {folder} has no head as of transformers' "
            f"...ForSequenceClassification: weights are missing: {some(missing)}; give a fine-tuned emotion "
            f"classifier, {_REPLACE}"
        )
    odd = [name for name, due in shapes.items() if tuple(found[name].shape) != due]
    odd += [name for name in shapes if name not in odd and not bool(found[name].isfinite().all())]
    if odd:
        raise BadInput(
            f"{_KEPT}: {folder}: weights of the head that do not fit its config.json, "
            f"or are not finite: {some(odd)}; fetch the folder again, {_REPLACE}"
        )
    if weighted:
        layer_weights = found["layer_weights"]
    else:
        layer_weights = torch.full((layers,), _LAST_LAYER_ONLY)
        layer_weights[-1] = 0.0
    rows = [known.index(label) for label in labels]
    return PublishedHead(
        layer_weights,
        found["projector.weight"],
        found["projector.bias"],
        found["classifier.weight"][rows],
        found["classifier.bias"][rows],
    )


def _folder(checkpoint: Checkpoint) -> Path:
    if checkpoint.folder is None:
        raise BadInput(f"{_KEPT}: {checkpoint.name} has random weights and no head")
    return checkpoint.folder


def _label_map(folder: Path) -> list[str]:
    """Read the labels, in the order of the classifier's rows."""
    path = folder / "config.json"
    labels = read_json(path).get("id2label")
    if isinstance(labels, dict):
        names = [labels.get(str(i)) for i in range(len(labels))]
        if names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return [str(name) for name in names]
    raise BadInput(
        f'{_KEPT}: {path} names no labels (id2label, from "0" up, all different); give a '
        f"fine-tuned emotion classifier, {_REPLACE}"
    )


def _named_alike(emotion: str, labels: Sequence[str]) -> list[str]:
    name = emotion.casefold()
    same = [label for label in labels if label.casefold() == name]
    if same:
        return same
    group = next((group for group in _SPELLINGS if name in group), ())
    return [label for label in labels if label.casefold() in group]


def _tensors(folder: Path, source: str) -> dict[str, Tensor]:
    """Read the weights of a head, in float32."""
    names = ("layer_weights", "projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    found = {}
    for path in weight_files(folder, source):
        with safe_open(path, "pt") as weights:
            there = set(weights.keys())
            found.update({name: weights.get_tensor(name).float() for name in names if name in there})
    return found
