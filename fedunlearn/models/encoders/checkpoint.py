"""Pre-trained encoders: the package's own, from a folder, by a published name, or with random weights.

``locate`` finds and checks the files, which is fast; ``load`` reads the weights. Weights are read from
safetensors files only, and no network is used unless requested.
"""

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedunlearn.config.model import BUNDLED_ENCODER, SMALL_MODELS
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.models.encoders.hub import (
    FILES,
    by_hand,
    cache,
    cached,
    fetch,
    has_weights,
    is_name,
    is_whole,
)
from fedunlearn.models.encoders.random_shapes import PREFIX, SHAPES, shape_of
from fedunlearn.models.encoders.saved_folder import MASK_NAMES, SavedFolder, is_needed, read_folder, some
from fedunlearn.seeding import stream_key

BUNDLED_FOLDER = Path(__file__).resolve().parent / "small"
"""The encoder that is installed with the package; its README.md says how it was made."""
BUNDLED_SHA256 = "e39eae144c3c80c9a03f744fc6f931159277ce5adfcac749d1e26449a3cf0b29"
"""Its digest, as in ``Checkpoint.sha256``."""


@dataclass(frozen=True)
class Checkpoint:
    """A pre-trained speech encoder.

    Attributes:
        name: the name that was asked for.
        folder: absolute path of its folder; None for random weights.
        sha256: digest of its configuration and weights; of its shape for random weights.
        kind: "wav2vec2", "hubert" or "wavlm".
        normalise: whether its waveforms must have mean 0 and variance 1.
        layers: number of transformer layers L.
        hidden: their width H.
        notes: lines on what its files leave open, for the user.
    """

    name: str
    folder: Path | None
    sha256: str
    kind: str
    normalise: bool
    layers: int
    hidden: int
    notes: tuple[str, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether its weights are random: useful for measuring times, not for emotions."""
        return self.folder is None


def locate(name: str, download: bool = False) -> Checkpoint:
    """Find an encoder and check its files; no weight is loaded.

    Args:
        name: "small" for the one that is installed with the package, whatever folders there are; a folder
            saved by transformers (~ is expanded), a published name such as "facebook/wav2vec2-base", or
            "random:wav2vec2-base" and the like.
        download: whether a published encoder may be downloaded from huggingface.co.

    Raises:
        BadInput: there is no such encoder here, or its files are not those of a speech encoder at 16 kHz.
    """
    if name.startswith(PREFIX):
        return _random(name)
    if name == BUNDLED_ENCODER:
        return _bundled()
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return _saved(name, folder.resolve())
        if folder.is_file():
            raise BadInput(f'model.name = "{name}": is a file; give the folder it lies in')
    except (OSError, RuntimeError) as error:  # no such user, too long a name
        raise BadInput(f'model.name = "{name}": cannot be read ({error})') from error
    if not is_name(name):
        raise BadInput(_unknown(name))
    found = cached(name)
    if download and (found is None or not is_whole(found)):
        try:
            fetch(name)
        except BadInput:
            if found is None or not has_weights(found):
                raise
        found = cached(name)
    if found is None:
        raise BadInput(
            f'model.name = "{name}": no such folder, and not in the cache of published models ({cache()}); '
            + by_hand(name)
        )
    return _saved(name, found)


def load(checkpoint: Checkpoint) -> Any:
    """Load an encoder: float32, in evaluation mode, without gradients, masking or layer drop.

    Args:
        checkpoint: which one.

    Returns:
        transformers' Wav2Vec2Model, HubertModel or WavLMModel, on the CPU; a new object each time, which the
        caller may change. Random weights are the same each time for the same torch and transformers.

    Raises:
        BadInput: weights are missing, superfluous, of the wrong shape, or not finite.
    """
    with torch.random.fork_rng(devices=[]), quietly():
        encoder = _drawn(checkpoint) if checkpoint.folder is None else _read(checkpoint, checkpoint.folder)
    return encoder.eval().requires_grad_(False)


def check_digest(checkpoint: Checkpoint, expected: str) -> None:
    """Check that a checkpoint is the expected one.

    Args:
        checkpoint: the checkpoint that was found.
        expected: its digest; "" accepts any.

    Raises:
        BadInput: it is another one.
    """
    if expected not in ("", checkpoint.sha256):
        raise BadInput(
            f"model.encoder.sha256: {checkpoint.folder or checkpoint.name} is not the encoder that was used "
            f"(digest {checkpoint.sha256[:12]}..., expected {expected[:12]}...); put the other one there, or "
            "remove the key to take this one"
        )


def check_trains(checkpoint: Checkpoint, trains: str) -> None:
    """Check that what ``model.encoder.trains`` asks for is available.

    Args:
        checkpoint: the encoder.
        trains: "head", "top:N", "lora", "lora:N" or "all".

    Raises:
        BadInput: the encoder has fewer layers, or peft is not installed.
    """
    part, _, number = trains.partition(":")
    if number and int(number) > checkpoint.layers:
        most = {
            "top": f'"top:{checkpoint.layers}" trains them, "all" also what lies below',
            "lora": '"lora" has adapters in all of them',
        }
        there = f"{checkpoint.name} has {checkpoint.layers} layers"
        raise BadInput(f'model.encoder.trains = "{trains}": {there}; {most[part]}')
    if part == "lora" and importlib.util.find_spec("peft") is None:
        raise BadInput(f'model.encoder.trains = "{trains}" needs peft: pip install "fedunlearn[encoders]"')


def lowest_trained(trains: str, layers: int) -> int | None:
    """Return the number of the lowest transformer layer, from 0, that is trained or has adapters.

    Args:
        trains: as of ``check_trains``.
        layers: number of transformer layers L.

    Returns:
        None with "head" and "all", which do not begin at a layer.
    """
    part, _, number = trains.partition(":")
    if part in ("head", "all"):
        return None
    return layers - int(number) if number else 0


# ---- finding ---------------------------------------------------------------------------------------------


def _random(name: str) -> Checkpoint:
    shape = shape_of(name)
    digest = hashlib.sha256(json.dumps([name, shape.kind, shape.normalise, shape.sizes]).encode()).hexdigest()
    layers, hidden = shape.sizes.get("num_hidden_layers", 12), shape.sizes.get("hidden_size", 768)
    return Checkpoint(name, None, digest, shape.kind, shape.normalise, layers, hidden)


def _bundled() -> Checkpoint:
    try:
        found = _saved(BUNDLED_ENCODER, BUNDLED_FOLDER)
    except BadInput as error:
        raise BadInput([f"{problem}; {_INSTALL}" for problem in error.problems]) from error
    if found.sha256 != BUNDLED_SHA256:
        raise BadInput(
            f"{BUNDLED_FOLDER}: is not the encoder of this version of fedunlearn (digest "
            f"{found.sha256[:12]}..., expected {BUNDLED_SHA256[:12]}...); {_INSTALL}"
        )
    return found


_INSTALL = f'"{BUNDLED_ENCODER}" is part of fedunlearn: install it again'


def _saved(name: str, folder: Path) -> Checkpoint:
    saved = read_folder(folder, name)
    sizes = (saved.layers, saved.hidden)
    return Checkpoint(name, folder, saved.sha256, saved.kind, saved.normalise, *sizes, saved.notes)


def _unknown(name: str) -> str:
    if name.startswith(("/", ".", "~")):
        return f'model.name = "{name}": no such folder; an encoder is given as a folder that holds {FILES}'
    problem = f'model.name = "{name}": no such model or folder'
    near = difflib.get_close_matches(name.lower(), [*SMALL_MODELS, BUNDLED_ENCODER, *SHAPES], 1)
    if near:
        meant = PREFIX + near[0] if near[0] in SHAPES else near[0]
        problem += f' (did you mean "{meant}"?)'
    return (
        f"{problem}; known are {', '.join(SMALL_MODELS)}, and speech encoders: {BUNDLED_ENCODER}, a folder "
        f"that holds {FILES}, a published name such as facebook/wav2vec2-base, or random:wav2vec2-base"
    )


# ---- loading ---------------------------------------------------------------------------------------------


def _drawn(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig, AutoModel

    shape = shape_of(checkpoint.name)
    config = AutoConfig.for_model(shape.kind, **shape.sizes, **_AS_USED)
    torch.default_generator.manual_seed(stream_key(0, checkpoint.name) % 2**63)
    return AutoModel.from_config(config)


def _read(checkpoint: Checkpoint, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModel

    saved = read_folder(folder, checkpoint.name)
    if saved.sha256 != checkpoint.sha256:
        raise BadInput(f"{folder}: was changed while it was in use; start again")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **_AS_USED)
        encoder, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, with the others
            output_loading_info=True,
        )
    except RunFailed:
        raise
    except Exception as error:  # a config.json can be wrong in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"{folder}: transformers cannot make an encoder of it ({reason}); check config.json"
        ) from error
    _clear_mask(encoder, report)
    _check_weights(folder, saved, encoder, report)
    return encoder


_AS_USED = {"layerdrop": 0.0, "apply_spec_augment": False}
"""All layers and all frames are used each time, for gradients and for reproducibility."""


def _clear_mask(encoder: Any, report: dict[str, Any]) -> None:
    """Set the mask embedding to zeros if the files have none that fits.

    It is never used (no frame is masked) but saved with the encoder, so it must be the same each time.
    """
    mask = getattr(encoder, "masked_spec_embed", None)
    if mask is None:
        return
    absent = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if "masked_spec_embed" in absent or not bool(mask.isfinite().all()):
        with torch.no_grad():
            mask.zero_()


def _check_weights(folder: Path, saved: SavedFolder, encoder: Any, report: dict[str, Any]) -> None:
    missing = [name for name in report["missing_keys"] if name not in MASK_NAMES]
    if missing:
        raise BadInput(f"{folder}: weights are missing: {some(missing)}; {_AGAIN}")
    shapes = [
        f"{name} {tuple(found)}, not {tuple(due)}"
        for name, found, due in report["mismatched_keys"]
        if name not in MASK_NAMES
    ]
    if shapes:
        raise BadInput(f"{folder}: weights of other shapes than config.json says: {some(shapes)}; {_AGAIN}")
    extra = [name for name in report["unexpected_keys"] if is_needed(name, saved.prefix)]
    if extra:
        raise BadInput(f"{folder}: weights that config.json has no place for: {some(extra)}; {_AGAIN}")
    broken = [name for name, value in encoder.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise BadInput(f"{folder}: weights that are not finite: {some(broken)}; {_AGAIN}")


_AGAIN = "fetch or save the folder again, config.json and weights together"


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress transformers' progress bars and messages, except errors, inside this context."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
