"""Checks of a folder saved by transformers, without loading a weight."""

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.errors import BadInput

KINDS = ("wav2vec2", "hubert", "wavlm")
"""The values of transformers' ``model_type`` that can be used."""
MASK_NAMES = frozenset(("masked_spec_embed", "mask_time_emb_vector", "mask_emb"))
"""Names of the vector that replaces masked frames: in transformers, its early versions, and fairseq."""
_HEADS = frozenset(
    (
        *("lm_head", "projector", "classifier", "layer_weights", "quantizer", "project_q", "project_hid"),
        *("final_proj", "label_embs_concat", "proj", "tdnn", "objective", "dropout"),
    )
)
"""First parts of the names of heads for CTC, classification and pre-training."""
_SHOWN = 3
"""Number of weights named in one line."""
_FLOATS = {"F16", "BF16", "F32", "F64"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class SavedFolder:
    """An encoder on disk whose files are consistent, as far as can be told without loading it.

    Attributes:
        kind: one of ``KINDS``.
        layers: number of transformer layers L.
        hidden: their width H.
        normalise: whether its waveforms must have mean 0 and variance 1.
        prefix: prefix of its weights' names: the name of its kind if it was saved with a head, otherwise "".
        sha256: digest of configuration, normalisation and weights.
        notes: lines on what the files leave open, and on weights in them that are not used.
    """

    kind: str
    layers: int
    hidden: int
    normalise: bool
    prefix: str
    sha256: str
    notes: tuple[str, ...]


def read_folder(folder: Path, source: str) -> SavedFolder:
    """Check a folder.

    Unchanged files are read once in each process.

    Args:
        folder: absolute path.
        source: the name by which it was requested: that folder or a published name.

    Raises:
        BadInput: a file is missing, unreadable, corrupt, or not that of a speech encoder at 16 kHz.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
        stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        return _read(folder, source, stamps)
    except OSError as error:
        raise BadInput(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from error


@lru_cache(maxsize=8)
def _read(folder: Path, source: str, stamps: tuple[tuple[str, int, int], ...]) -> SavedFolder:
    config = _config(folder)
    kind = _kind(folder, config)
    normalise, notes = _normalise(folder, config, kind)
    weights = weight_files(folder, source)
    types = {path: _types(path) for path in weights}
    headed = any(name.startswith(f"{kind}.") for found in types.values() for name in found)
    prefix = f"{kind}." if headed else ""
    for path, found in types.items():
        _check_types(path, {name: found[name] for name in found if is_needed(name, prefix)})
    if unknown := [name for found in types.values() for name in found if _is_unknown(name, prefix)]:
        notes += (f"{folder}: weights outside the encoder, of no known head, are not used: {some(unknown)}",)
    return SavedFolder(
        kind,
        _size(folder, config, "num_hidden_layers", 12),
        _size(folder, config, "hidden_size", 768),
        normalise,
        prefix,
        _digest((folder / "config.json", *weights), normalise),
        notes,
    )


# ---- configuration ---------------------------------------------------------------------------------------


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise BadInput(f"{folder}: holds adapters; merge them into their encoder and save that elsewhere")
    if path.is_file():
        return read_json(path)
    raise BadInput(
        f"{folder}: no config.json; an encoder's folder, as transformers' save_pretrained writes it, "
        "holds config.json, preprocessor_config.json and model.safetensors"
    )


def _kind(folder: Path, config: dict[str, Any]) -> str:
    path, kind = folder / "config.json", config.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInput(
            f"{path}: model_type is {json.dumps(kind)}; give a speech encoder, one of {', '.join(KINDS)}"
        )
    if config.get("quantization_config") is not None:
        raise BadInput(f"{path}: the weights are quantised; give the encoder they were made from")
    if config.get("conv_pos_batch_norm"):
        raise BadInput(
            f"{path}: conv_pos_batch_norm is set; with a batch norm, an answer would depend on what else is "
            "in the batch; give an encoder without"
        )
    if config.get("add_adapter"):
        raise BadInput(
            f"{path}: add_adapter is set, but an encoder is used without one; give its pre-trained form"
        )
    return kind


def _size(folder: Path, config: dict[str, Any], key: str, usual: int) -> int:
    value = config.get(key, usual)
    if type(value) is not int or value < 1:
        raise BadInput(
            f"{folder / 'config.json'}: {key} must be a whole number >= 1 (got {json.dumps(value)})"
        )
    return value


def _normalise(folder: Path, config: dict[str, Any], kind: str) -> tuple[bool, tuple[str, ...]]:
    """Read ``do_normalize`` of the feature extractor, from where transformers would read it.

    Without such a file it is what Meta and Microsoft published with encoders of the kind: true, but false for
    WavLM base and base-plus, the WavLM encoders with a group norm.

    Returns:
        The value, and a line about it if it is assumed.
    """
    path = folder / "processor_config.json"
    settings = read_json(path).get("feature_extractor") if path.is_file() else None
    if not isinstance(settings, dict):
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            assumed = kind != "wavlm" or config.get("feat_extract_norm", "group") == "layer"
            return assumed, (
                f"{path}: missing; do_normalize = {json.dumps(assumed)} is assumed, as in the published "
                f"{kind} encoders; if this one was trained otherwise, put the file there",
            )
        settings = read_json(path)
    usual = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "do_normalize": True}
    found = {key: settings.get(key, value) for key, value in usual.items()}
    if found["feature_extractor_type"] != usual["feature_extractor_type"] or found["feature_size"] != 1:
        raise BadInput(
            f"{path}: a speech encoder hears one waveform: feature_extractor_type Wav2Vec2FeatureExtractor, "
            f"feature_size 1 (got {found['feature_extractor_type']}, {found['feature_size']})"
        )
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise BadInput(f"{path}: sampling_rate is {rate} Hz; only encoders of {SAMPLE_RATE} Hz can be used")
    if not isinstance(found["do_normalize"], bool):
        raise BadInput(
            f"{path}: do_normalize must be true or false (got {json.dumps(found['do_normalize'])})"
        )
    return found["do_normalize"], ()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.

    Raises:
        BadInput: it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not JSON ({error}); fetch or save it again") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: holds no JSON object; fetch or save it again")
    return content


# ---- weights ---------------------------------------------------------------------------------------------


def weight_files(folder: Path, source: str) -> tuple[Path, ...]:
    """List the files of the weights: one, or shards in order of their names.

    Args:
        folder: the encoder's folder.
        source: as in ``read_folder``.

    Raises:
        BadInput: there are none, or shards are missing.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return (whole,)
    if not index.is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise BadInput(
                f"{folder}: its weights are in {pickles[0]}, which can run code and is not opened here; if "
                f"you trust it, make a folder with safetensors and give that as --model: {conversion(source)}"
            )
        raise BadInput(f"{folder}: no model.safetensors; put the encoder's weights there")
    of_weight = read_json(index).get("weight_map")
    if not isinstance(of_weight, dict) or not of_weight:
        raise BadInput(f"{index}: names no files of weights (weight_map); fetch or save it again")
    shards = sorted({str(name) for name in of_weight.values()})
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            raise BadInput(f"{index}: names {name}, which is not in the folder; fetch it too")
    return tuple(folder / name for name in shards)


def conversion(source: str) -> str:
    """Return the command that converts a pickle to safetensors, in its folder or, if published, a new one.

    In a folder all weights keep their names, heads included, and torch unpickles tensors only.

    Args:
        source: as in ``read_folder``.
    """
    here = Path(source).expanduser()
    if any(here.glob("pytorch_model*.bin")):
        return (
            'python -c "import glob, sys, torch; from safetensors.torch import save_file; w = {}; '
            "[w.update(torch.load(p, weights_only=True)) for p in "
            "glob.glob(sys.argv[1] + '/pytorch_model*.bin')]; "
            "save_file({k: v.clone() for k, v in w.items()}, sys.argv[1] + '/model.safetensors', "
            "{'format': 'pt'})\" " + shlex.quote(str(here))
        )
    origin, target = (str(here), str(here)) if here.is_dir() else (source, source.rpartition("/")[2])
    return (
        'python -c "import sys; from transformers import AutoFeatureExtractor as F, AutoModel as M; '
        '[auto.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) for auto in (F, M)]" '
        + shlex.join((origin, target))
    )


def is_needed(name: str, prefix: str) -> bool:
    """Tell whether a weight belongs to the encoder itself: neither to a head nor the mask embedding.

    Args:
        name: its name in the file.
        prefix: as in ``SavedFolder``. Without one, a head's weights are recognised by their names.
    """
    if name.rpartition(".")[2] in MASK_NAMES:
        return False
    return name.startswith(prefix) if prefix else name.partition(".")[0] not in _HEADS


def _is_unknown(name: str, prefix: str) -> bool:
    """Tell whether a weight stands beside an encoder with a prefix and belongs to no head that is known."""
    if not prefix or name.startswith(prefix) or name.rpartition(".")[2] in MASK_NAMES:
        return False
    return name.partition(".")[0] not in _HEADS


def some(names: Iterable[str]) -> str:
    """List the first names, in alphabetical order, and the number of the others.

    Args:
        names: of weights.
    """
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _types(path: Path) -> dict[str, str]:
    """Map the weights in a file to their types, reading its header only."""
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise BadInput(f"{path}: only stands for the weights; fetch them with: git lfs pull")
    try:
        with safe_open(path, "numpy") as weights:
            return {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadInput(f"{path}: cut short or corrupt ({error}); fetch or save it again") from error


def _check_types(path: Path, types: dict[str, str]) -> None:
    odd = sorted(name for name, kind in types.items() if kind not in _FLOATS)
    if odd:
        raise BadInput(
            f"{path}: {odd[0]} is of type {types[odd[0]]}; quantised weights cannot be used, only those they "
            "were made from"
        )


def _digest(files: tuple[Path, ...], normalise: bool) -> str:
    """Compute the SHA-256 of the files' SHA-256 and of everything else that affects the encoder's output."""
    whole = hashlib.sha256(f"do_normalize {normalise}".encode())
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
