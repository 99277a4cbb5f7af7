"""Limits the feature moments that a device sends to those of one set of utterances, ever.

The moments of a set and of the same set without one utterance differ by that utterance's features. So a
device sends them for one set only. If the server requests them again (the reply was lost, or the run was
resumed), it sends them for the same set again, and nothing for any other set.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedunlearn.files import write_atomically

CALIBRATION = "calibration.json"
FEWEST = 4
"""utterances: sums and averages over fewer reveal each of them"""


def may_send_moments(vault_folder: Path, ids: Sequence[str]) -> bool:
    """Tell whether a device may send the moments of these utterances, and if so, note that it does.

    Args:
        vault_folder: of the device.
        ids: what the moments are computed over, in vault order.
    """
    if len(ids) < FEWEST:
        return False
    path, digest = vault_folder / CALIBRATION, hashlib.sha256("\0".join(ids).encode()).hexdigest()
    if path.exists():
        return bool(json.loads(path.read_text(encoding="utf-8"))["of"] == digest)
    write_atomically(path, json.dumps({"of": digest}))
    return True


def drop_calibrated_set(vault_folder: Path) -> None:
    """Drop the note which set it was, after a purge; the note that moments have been sent stays."""
    path = vault_folder / CALIBRATION
    if path.exists():
        write_atomically(path, json.dumps({"of": ""}))
