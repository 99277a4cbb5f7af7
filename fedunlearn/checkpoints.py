"""Model weights on disk: safetensors beside a manifest with checksums. No pickle is ever read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedunlearn.files import write_atomically


class BadCheckpoint(Exception):
    """A checkpoint is missing, truncated or changed; the message names the file and what is wrong."""


def save_checkpoint(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write weights and their manifest (``path``.json), each atomically.

    The manifest is written last: weights without a manifest are an interrupted save and are not read.

    Args:
        path: the safetensors file.
        state: the weights.
        about: what the manifest says about them, in addition to checksum and size.
    """
    blob = save({key: value.contiguous() for key, value in sorted(state.items())})
    write_atomically(path, blob)
    manifest = {**about, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}
    manifest["manifest_sha256"] = _own_digest(manifest)
    write_atomically(manifest_of(path), json.dumps(manifest) + "\n")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their manifest.

    Args:
        path: the safetensors file.

    Returns:
        The weights and the manifest.

    Raises:
        BadCheckpoint: a file is missing, or a byte of it or of its manifest was changed.
    """
    for part in (path, manifest_of(path)):
        if part.exists() and not part.is_file():  # reading a pipe could block forever
            raise BadCheckpoint(f"{part}: is no file")
    try:
        manifest: dict[str, Any] = json.loads(manifest_of(path).read_text(encoding="utf-8"))
        blob = path.read_bytes()
    except (OSError, ValueError) as error:  # neither UTF-8 nor JSON is a ValueError
        raise BadCheckpoint(f"{path}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("manifest_sha256") != _own_digest(manifest):
        raise BadCheckpoint(f"{manifest_of(path)}: does not match its own checksum; it was cut or changed")
    if hashlib.sha256(blob).hexdigest() != manifest.get("sha256"):
        raise BadCheckpoint(
            f"{path}: its bytes do not match the checksum in its manifest; it was cut or changed"
        )
    try:
        return load(blob), manifest
    except SafetensorError as error:
        raise BadCheckpoint(f"{path}: is not a safetensors file ({error})") from error


def manifest_of(path: Path) -> Path:
    """Return the path of a checkpoint's manifest."""
    return path.with_name(path.name + ".json")


def _own_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
