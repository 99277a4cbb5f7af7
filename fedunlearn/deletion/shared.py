"""What a device knows of its people's other devices: how many hold their speech, and not which."""

import json
from collections.abc import Mapping
from pathlib import Path

from fedunlearn.run_folder import write_atomically

_FILE = "devices.json"


def note_devices(vault_folder: Path, devices: Mapping[str, int]) -> None:
    """Tell a device on how many devices these speakers' speech lies; without any, nothing is written."""
    if devices:
        write_atomically(vault_folder / _FILE, json.dumps(dict(devices)))


def devices_of(vault_folder: Path) -> dict[str, int]:
    """speaker -> how many devices hold their speech; whoever is not named has this one alone."""
    try:
        devices: dict[str, int] = json.loads((vault_folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return devices
