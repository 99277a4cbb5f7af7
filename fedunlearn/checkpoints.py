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
    """A checkpoint that is missing, cut or changed; ``str(error)`` names the file and what is wrong."""


def save_checkpoint(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write ``path`` (safetensors) and ``path``.json (its checksum and what it is), each atomically.

    The manifest is written last: weights without a manifest are an interrupted save and are not read.
    """
    blob = save({key: value.contiguous() for key, value in sorted(state.items())})
    write_atomically(path, blob)
    manifest = {**about, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}
    manifest["manifest_sha256"] = _own_digest(manifest)
    write_atomically(manifest_of(path), json.dumps(manifest, indent=1) + "\n")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights back.

    Returns:
        (state dict, manifest)

    Raises:
        BadCheckpoint: missing, or a byte of it or of its manifest was changed.
    """
    for part in (path, manifest_of(path)):
        if part.exists() and not part.is_file():  # a pipe would be waited for
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
    """Where the manifest of a checkpoint lies."""
    return path.with_name(path.name + ".json")


def _own_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
