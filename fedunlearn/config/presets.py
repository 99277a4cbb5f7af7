"""Presets: the experiments of configs/, which are installed with the package.

A wheel carries them as ``fedunlearn/presets``; in a checkout they lie in ``configs`` beside the package.
"""

from pathlib import Path

from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up

_PACKAGE = Path(__file__).resolve().parents[1]


def preset_names() -> list[str]:
    """List the presets by name, such as "ravdess", in alphabetical order."""
    return sorted(file.stem for file in _folder().glob("*.toml"))


def preset(name: str) -> Path:
    """Return the TOML file of a preset.

    Args:
        name: as in ``preset_names()``.

    Raises:
        BadInput: there is no such preset; the line lists all of them.
    """
    if name not in preset_names():
        known = ", ".join(preset_names()) or "none is installed"
        raise BadInput(f"{name}: is neither a file nor a preset (presets: {known})")
    return _folder() / f"{name}.toml"


def find_config(place: Path | str) -> Path:
    """Return the file that a user names: by its path, or by the name of a preset.

    Args:
        place: a path; or a preset's name, where no file of that name is in the working directory.

    Raises:
        BadInput: it reads as a preset's name (no folder, no ending), and there is neither such a file nor
            such a preset.
    """
    path = Path(place)
    reads_as_name = path.name == str(place) and not path.suffix and path.name not in ("", "..")
    if not reads_as_name or looked_up(path, path.is_file):
        return path
    return preset(path.name)


def _folder() -> Path:
    installed = _PACKAGE / "presets"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"
