"""Files of an experiment that still know what was deleted: models that were trained on it before.

A purge removes recordings from the vaults, but not the models that were trained on them. Once a run is over,
its run folder keeps no such model in a form that reveals the recordings. The reference cache, which belongs
to the experimenter, does: it keeps the exact original, and what is needed to resume the run. These are
back-ups, which can be deleted.

What the run was made for depends on the deleted recordings as well, and stays: the model after unlearning,
the numbers that were measured, the receipts. ``outcomes_with_influence`` lists these.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedunlearn.checkpoints import manifest_of
from fedunlearn.deletion.receipts import add_kept, every_receipt
from fedunlearn.errors import BadInput
from fedunlearn.files import read_json_object
from fedunlearn.links import wipe
from fedunlearn.run_folder import RunFolder

_GONE = {"purged", "verified"}
_ORIGINAL = "the original, trained on what was deleted"
_RETRAINED = "a retrained model: of what was deleted it has the normalisation constants alone"
_AFTER = "a model after unlearning; what is left in it is what the results measure"
_NUMBERS = "numbers, some of them measured on what was deleted"
_OUTCOMES = (
    ("checkpoints/original.safetensors*", "the original, blurred along what was unlearned"),
    ("checkpoints/retrained.safetensors*", _RETRAINED),
    ("checkpoints/*.safetensors*", _AFTER),
    ("checkpoints/standing/*", "the end of the run: models after unlearning, and their answers"),
    ("vaults/*/receipts/*.json", "the person's own receipt"),
    ("vaults/*/requests.json", "how much the request named, and when"),
    ("vaults/*/log.txt", "messages of errors on the device"),
    ("ledger.sqlite*", "hashes, also of models; a hash can be compared, not turned back"),
    ("log.txt*", "messages of the run"),
    ("results.json", _NUMBERS),
    ("metrics.jsonl", _NUMBERS),
    ("progress.json", _NUMBERS),
    ("**/*.html", _NUMBERS),
    ("**/*.csv", _NUMBERS),
    ("figures/**/*", _NUMBERS),
    ("tensorboard/**/*", _NUMBERS),
    ("wandb/**/*", _NUMBERS),
    ("mlflow/**/*", _NUMBERS),
    ("model/**/*", _AFTER),
    ("**/*.safetensors*", "a model that was exported from this run: " + _AFTER),
    ("**/*.md", "words and numbers about the model"),
)
"""pattern within a run folder -> what such a file knows of what was deleted; the first that fits counts"""


@dataclass(frozen=True)
class Influence:
    """A file that knows what was deleted.

    Attributes:
        file: path.
        what: what it holds, in a few words.
        needed_for: what it is needed for, in a few words.
    """

    file: Path
    what: str
    needed_for: str


def files_with_influence(
    run: RunFolder, cache: Path, results: Mapping[str, Any] | None = None
) -> list[Influence]:
    """Find all files of a run and of its reference cache that know what was deleted.

    Args:
        run: the folder of the run.
        cache: the reference cache that the run was made with.
        results: of the run; None = read them from its folder.

    Returns:
        existing files, each once, in the order of their names; empty if nothing was deleted

    Raises:
        BadInput: the folder holds no run.
    """
    results = _object(run.results) if results is None else results
    if results is None and not run.config.is_file():
        raise BadInput(f"{run.path}: is no run folder (config.toml is missing); give the --out of a run")
    results = results or {}
    gone = {str(r.get("id")) for r in results.get("requests", []) if r.get("state") in _GONE}
    # A run that was killed has no results yet.
    gone |= {receipt.stem for _, receipt in every_receipt(run)}
    if not gone:
        return []
    found = {one.file: one for one in _candidates(run, cache, results, gone) if one.file.exists()}
    return [found[file] for file in sorted(found)]


def describe_files(files: Iterable[Influence], run: RunFolder, cache: Path) -> list[dict[str, str]]:
    """Describe files as a receipt does: relative to the run folder or the cache, without its path.

    Args:
        files: what ``files_with_influence`` found.
        run: the folder of the run.
        cache: the reference cache.

    Returns:
        {file, what} each
    """
    roots = {run.path: run.path.name, cache: cache.name}
    return [
        {"file": str(Path(name) / one.file.relative_to(root)), "what": one.what}
        for one in files
        for root, name in roots.items()
        if one.file.is_relative_to(root)
    ]


def delete_influence(run: RunFolder, cache: Path) -> list[Influence]:
    """Delete these files for good, while holding the lock of the run.

    Args:
        run: the folder of the run.
        cache: the reference cache that the run was made with.

    Returns:
        what was deleted

    Raises:
        BadInput: the run is in progress or was not completed: it needs these files to be resumed.
    """
    run.lock()
    try:
        if any(not _finished(manifest) for manifest in _manifests(run)):
            raise BadInput(
                f"{run.path}: this run has not come to its end and would be lost; resume it first, or remove "
                "its folder as a whole"
            )
        deleted = files_with_influence(run, cache)
        for one in deleted:
            for part in (one.file, manifest_of(one.file)):
                if part.exists():
                    wipe(part)
        for _, receipt in every_receipt(run):
            add_kept(receipt, [])
        return deleted
    finally:
        run.unlock()


def _candidates(
    run: RunFolder, cache: Path, results: Mapping[str, Any], gone: set[str]
) -> Iterator[Influence]:
    again = "starting another run from the same original without training it again"
    manifests = list(_manifests(run))
    keys: dict[str, Any] = dict(results.get("references") or {})
    for manifest in manifests:
        keys |= (manifest.get("record") or {}).get("keys", {})
    for name, key in keys.items():
        if isinstance(key, str) and key.isalnum():
            what = _ORIGINAL if name == "original" else _RETRAINED
            yield Influence(cache / f"{key}.safetensors", what, again)
    for file in sorted(cache.glob("sealed-*.safetensors")):
        about = _object(manifest_of(file)) or {}
        if gone & set(about.get("requests", [])):
            yield Influence(file, "the original of a finished run, exact", "resuming that run")
    for file in sorted(run.own_references.rglob("*.safetensors")):
        yield Influence(file, "what an ephemeral run keeps until it is over", "resuming this run")
    settings = [about.get("config") or {} for about in (results, *manifests)]
    if any((one.get("evaluation") or {}).get("shadows") for one in settings):
        for file in sorted((cache / "shadows").glob("*.safetensors")):
            yield Influence(file, "answers of shadow models on what was deleted", "attacking again at once")
        for file in sorted((cache / "learned-shadows").glob("*.safetensors")):
            what = "a shadow model, trained on some of what was deleted"
            yield Influence(file, what, "attacking another method without training shadow models again")
    for path in sorted(run.standings.glob("*.safetensors")):
        if not _finished(_object(manifest_of(path)) or {}):
            yield Influence(path, "where the run stood, with its original", "resuming this run")


def outcomes_with_influence(run: RunFolder) -> list[Influence]:
    """Find the files that a run was made for and that depend on what was deleted: they stay.

    Args:
        run: the folder of the run.

    Returns:
        existing files, each once, in the order of their names; empty if nothing was deleted
    """
    if not any(True for _ in every_receipt(run)):
        return []
    standing = {path for path in run.standings.glob("*.safetensors")}
    unfinished = {path for path in standing if not _finished(_object(manifest_of(path)) or {})}
    backed_up = unfinished | {manifest_of(path) for path in unfinished}
    found: dict[Path, Influence] = {}
    for pattern, what in _OUTCOMES:
        for file in run.path.glob(pattern):
            if file.is_file() and file not in backed_up and not file.is_relative_to(run.own_references):
                found.setdefault(file, Influence(file, what, "reading what the run found"))
    return [found[file] for file in sorted(found)]


def _manifests(run: RunFolder) -> Iterator[dict[str, Any]]:
    for path in sorted(run.standings.glob("*.safetensors")):
        yield _object(manifest_of(path)) or {}


def _finished(manifest: dict[str, Any]) -> bool:
    record = manifest.get("record")
    return isinstance(record, dict) and bool(record.get("finished"))


def _object(file: Path) -> dict[str, Any] | None:
    try:
        return read_json_object(file)
    except (OSError, ValueError):
        return None
