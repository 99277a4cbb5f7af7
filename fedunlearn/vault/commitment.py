"""A device's commitment to its recordings: a digest that gives nothing away, and that can be opened later.

The digest is keyed with a secret that stays on the device, so that nobody who has a recording can find out
from the commitment whether the device holds it. With the recordings and the secret, an auditor computes the
commitment again and sees that the device held these recordings and no others.
"""

import hashlib
import hmac
import json
from dataclasses import astuple
from pathlib import Path

from fedunlearn.seeding import stream_key
from fedunlearn.vault.index import Index

SECRET = "commitment.key"
"""file in the vault of a real device with its secret: random bytes"""


def commit(folder: Path, secret: bytes) -> str:
    """Compute the commitment of a vault to its recordings.

    It covers the utterances in order, with their labels, splits and lengths, and the bytes of their audio,
    but nothing that is derived from them.

    Args:
        folder: of the vault.
        secret: of the device.

    Returns:
        HMAC-SHA256, hexadecimal

    Raises:
        OSError: the vault cannot be read.
        ValueError: its index is damaged.
    """
    index = Index.read(folder)
    audio = f"audio-{index.generation}.i16"
    digest = (index.sha256 or {}).get(audio)
    if digest is None:  # a vault of an earlier version, or an empty one
        path = folder / audio
        digest = hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
    held = json.dumps([[list(astuple(entry)) for entry in index.entries], digest])
    return hmac.new(secret, held.encode(), hashlib.sha256).hexdigest()


def read_secret(folder: Path, seed: int, client: int) -> bytes:
    """Read a device's secret; in a simulation, where there is no file, it follows from the seed.

    Args:
        folder: of the vault.
        seed: of the experiment.
        client: number of the device.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return (folder / SECRET).read_bytes()
    except FileNotFoundError:
        return stream_key(seed, "device secret", client).to_bytes(16, "big")
