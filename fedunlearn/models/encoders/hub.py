"""Published checkpoints: where they are in the local Hugging Face cache, and how they are downloaded.

Only what is needed is downloaded, and never a pickle: if a repository has no safetensors file, the one that
the hub's own converter has proposed for it is used.
"""

import re
from pathlib import Path

from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.models.encoders.saved_folder import conversion

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONVERTER, _CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Author and title of the converter's pull requests."""
FILES = "config.json, preprocessor_config.json and model.safetensors"
"""The files in an encoder's folder."""
WANTED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
"""The files that are downloaded."""


def is_name(name: str) -> bool:
    """Tell whether a name has the form of a repository's: "owner/model"."""
    return _NAME.fullmatch(name) is not None


def is_whole(folder: Path) -> bool:
    """Tell whether a folder has all files of an encoder: configuration, weights and feature extractor."""
    return has_weights(folder) and _has(folder, "preprocessor_config.json", "processor_config.json")


def has_weights(folder: Path) -> bool:
    """Tell whether a folder has the files without which an encoder cannot be used."""
    weights = ("model.safetensors", "model.safetensors.index.json")
    return _has(folder, "config.json") and _has(folder, *weights)


def _has(folder: Path, *either: str) -> bool:
    return any((folder / name).is_file() for name in either)


def cache() -> Path:
    """Return the folder of the local cache ($HF_HOME and $HF_HUB_CACHE change it)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached(name: str) -> Path | None:
    """Find the newest complete copy of a repository in the local cache; None if there is none."""
    from huggingface_hub.file_download import repo_folder_name

    home = cache() / repo_folder_name(repo_id=name, repo_type="model")
    main = home / "refs" / "main"
    newest = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    snapshots = sorted(
        (folder for folder in home.glob("snapshots/*") if (folder / "config.json").is_file()),
        key=lambda folder: (folder.name != newest, folder.name),
    )
    for is_enough in (is_whole, has_weights):
        if whole := next(filter(is_enough, snapshots), None):
            return whole
    return next(iter(snapshots), None)


def fetch(name: str) -> None:
    """Download a repository's configuration and safetensors files into the local cache.

    Args:
        name: "owner/model".

    Raises:
        BadInput: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import get_repo_discussions, snapshot_download

    try:
        if has_weights(Path(snapshot_download(name, allow_patterns=list(WANTED)))):
            return
        for proposal in get_repo_discussions(name, author=_CONVERTER, discussion_type="pull_request"):
            if proposal.title == _CONVERSION and proposal.git_reference:
                snapshot_download(name, revision=proposal.git_reference, allow_patterns=list(WANTED))
                return
    except RunFailed:
        raise
    except Exception as error:  # of the hub, of its client, of the network below it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f'model.name = "{name}": not fetched ({reason}); {by_hand(name)}') from error


def by_hand(name: str) -> str:
    """Explain what to do if nothing can be downloaded."""
    return (
        f"download {FILES} from https://huggingface.co/{name}, put them into one folder and give that as "
        "--model; where there is internet this makes such a folder, out of pytorch_model.bin too: "
        f"{conversion(name)}"
    )
