"""Which utterances a device has sent its feature moments of: one set, ever.

The moments of a set and of the same set less one utterance differ by that utterance's features. So a device
sends them once. Asked again (the reply was lost, or the run was resumed), it sends the same again, and of
any other set it sends nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedunlearn.files import write_atomically

CALIBRATION = "calibration.json"
FEWEST = 4
"""utterances: sums and averages over fewer tell each of them"""


def may_send_moments(vault_folder: Path, ids: Sequence[str]) -> bool:
    """Whether a device may send the moments of these utterances; if so, it has noted that it does.

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
    """Drop which set it was, after a purge; that moments have been sent stays."""
    path = vault_folder / CALIBRATION
    if path.exists():
        write_atomically(path, json.dumps({"of": ""}))
