"""Whether a run folder is as its run left it: checked before a run is resumed, and a reference kept.

What can be made again (features, who has other devices, marks of who is at work) is made again; whatever
else was damaged is refused in one line that names the file. A run never begins anew on vaults that were used.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.ledger import DamagedLedger, LedgerReader
from fedunlearn.links import is_plain, plain_files, wipe_abandoned
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.arrays import DamagedVault
from fedunlearn.vault.commitment import SECRET
from fedunlearn.vault.index import INDEX, Index, VaultEntry
from fedunlearn.vault.relocation import is_elsewhere
from fedunlearn.vault.vault import Vault

AS_LEFT = "put it back as the run left it, or make a new run"
_OF_A_VAULT = (INDEX, "requests.json", "devices.json", "log.txt", SECRET)
_FOLDERS_OF_A_VAULT = ("inbox", "receipts", "evidence")


def clean(run: RunFolder) -> None:
    """Wipe what killed writers left half written in a run folder, weights and speech included.

    Args:
        run: the folder.
    """
    wipe_abandoned([*plain_files(run.path), *run.path.glob(".*.tmp")])


def check_files(run: RunFolder) -> None:
    """Check that what has the name of one of the run's files is a file, and its folders are folders.

    Args:
        run: the folder.

    Raises:
        BadInput: a folder, a link, a pipe or a device lies in a file's place, or a file in a folder's.
    """
    salt = run.ledger.with_suffix(".salt")
    files = [run.metrics, run.results, run.report, run.ledger, salt, run.log, run.purges, run.liveness]
    files += [p for p in _inside(run.checkpoints) if p.name.endswith((".safetensors", ".safetensors.json"))]
    folders = [run.checkpoints, run.standings, run.vaults]
    for client in run.clients():
        vault = run.vault(client)
        folders.append(vault)
        files += [vault / name for name in _OF_A_VAULT]
        own = [vault / name for name in _FOLDERS_OF_A_VAULT]
        folders += own
        files += [path for folder in own for path in _inside(folder) if not path.name.startswith(".")]
        files += [folder for folder in own if folder.is_symlink()]
    problems = [
        f"--resume: {path}: is no file of its own but {_kind_of(path)}; {AS_LEFT}"
        for path in files
        if (path.exists() or path.is_symlink()) and not is_plain(path)
    ]
    problems += [
        f"--resume: {path}: is no folder; {AS_LEFT}"
        for path in folders
        if path.exists() and not path.is_dir()
    ]
    if problems:
        raise BadInput(problems)


def check_settings(run: RunFolder, made: Config) -> None:
    """Check that config.toml has every setting: what is missing would take its default.

    Args:
        run: the folder.
        made: what was read from it.

    Raises:
        BadInput: it was cut.
    """
    if tomllib.loads(run.config.read_text(encoding="utf-8")) != tomllib.loads(made.to_toml()):
        raise BadInput(f"--resume: {run.config}: lacks settings; it was cut or changed; {AS_LEFT}")


def check_unused(run: RunFolder) -> None:
    """Check that nothing has happened yet in a run whose state cannot be read.

    Args:
        run: the folder.

    Raises:
        BadInput: a deletion was requested, or speech was purged: a new start would lose that.
    """
    used = next(_signs_of_use(run), None)
    if not used:
        return
    files = sorted(run.standings.glob("*.safetensors")) if run.standings.is_dir() else []
    if files:
        lost = f"{files[-1]}: its manifest ({files[-1].name}.json) is missing"
    else:
        lost = f"{run.standings}: holds no checkpoint (were there any? see federation.checkpoint_every)"
    raise BadInput(f"--resume: {lost}, and {used}; {AS_LEFT}")


def _signs_of_use(run: RunFolder) -> Iterator[str]:
    """Signs of deletion requests and purges, one line each."""
    for vault in (run.vault(client) for client in run.clients()):
        if RequestStore(vault).all():
            yield f"people have filed requests ({vault / 'requests.json'})"
        if any(_generation(path) > 1 for path in vault.glob("*-*.i16")):
            yield f"{vault} was purged"
        if any(_inside(vault / "receipts")) or any(_inside(vault / "evidence")):
            yield f"{vault} has receipts"
    if run.purges.exists() and run.purges.stat().st_size:
        yield f"devices have purged ({run.purges})"
    try:
        with LedgerReader(run.ledger) as ledger:
            if any(row.is_of_request for row in ledger.entries()):
                yield f"{run.ledger} has rows"
    except FileNotFoundError:
        pass
    except DamagedLedger as error:
        # A run that is killed while its ledger is made leaves one without a table.
        if run.ledger.stat().st_size and "no such table" not in str(error):
            yield f"{error}"


def _generation(array: Path) -> int:
    number = array.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def check_vault(
    folder: Path,
    entries: Sequence[VaultEntry],
    speech: RecordingCache,
    model: EmotionModel,
    request_ids: Iterable[str],
) -> None:
    """Check that a vault holds what the corpus does, less what was purged; features that differ are wiped.

    Args:
        folder: of the vault.
        entries: what the vault held when it was made.
        speech: the corpus's recordings.
        model: of the run's kind; derives features.
        request_ids: ids of the requests of this device that the server knows.

    Raises:
        BadInput: its index, its audio, its request store or a receipt was damaged.
    """
    try:
        vault = Vault(folder)
        missing = sorted(set(request_ids) - {r.id for r in RequestStore(folder).all()})
        for receipt in sorted(folder.glob("receipts/*.json")):
            _read_object(receipt)
    except (OSError, ValueError, DamagedVault) as error:
        raise BadInput(f"--resume: {error}; {AS_LEFT}") from error
    if missing:
        store = folder / "requests.json"
        raise BadInput(f"--resume: {store}: lacks request {missing[0]}, which was raised here; {AS_LEFT}")
    for utterance in vault.entries:
        if vault.digest(utterance) != speech.digest(utterance):
            raise BadInput(f"--resume: {folder}: its audio of {utterance} is not the corpus's; {AS_LEFT}")
    if model.stores_features and not _are_stored(vault, model, speech.features(model)):
        vault.drop_features(model)


def check_index(folder: Path, entries: Sequence[VaultEntry]) -> None:
    """Check that a vault's index names utterances of its own as the corpus does, in order.

    Args:
        folder: of the vault.
        entries: what the vault held when it was made.

    Raises:
        BadInput: it cannot be read, or names something else.
    """
    try:
        index = Index.read(folder)
    except OSError as error:
        file = folder / INDEX
        raise BadInput(f"--resume: {file}: cannot be read ({error.strerror}); {AS_LEFT}") from error
    except ValueError as error:
        raise BadInput(f"--resume: {error}; {AS_LEFT}") from error
    there = {entry.id for entry in index.entries}
    expected = tuple(entry for entry in entries if entry.id in there)
    if index.entries != expected or (index.generation == 1 and len(expected) < len(entries)):
        file = folder / INDEX
        raise BadInput(f"--resume: {file}: names other utterances than this device was given; {AS_LEFT}")


def _are_stored(vault: Vault, model: EmotionModel, features: Mapping[str, Tensor]) -> bool:
    if model.feature_name not in vault.stored_names():
        return False
    try:
        return all(torch.equal(vault.read_features(i, model), features[i]) for i in vault.entries)
    except (DamagedVault, ValueError):
        return False


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: is not JSON as it was written; it was cut or changed")
    return content


def hold_what_was_trained_on(
    run: RunFolder, partition: Partition, judge: Judge, forget: Iterable[str]
) -> bool:
    """Find out whether the clients' vaults hold the corpus's own training speech and its features.

    Of devices that live on other nodes, the indices alone are read.

    Args:
        run: the folder.
        partition: of the corpus.
        judge: who knows all speech.
        forget: training utterances that the vaults need not hold.
    """
    gone = set(forget)
    for share in partition.clients:
        kept, folder = [u.id for u in share.train if u.id not in gone], run.vault(share.client)
        try:
            train = [e for e in Index.read(folder).entries if e.split == "train" and e.id not in gone]
            if [e.id for e in train] != kept:
                return False
            if is_elsewhere(folder):
                continue
            vault = Vault(folder)
            held = judge.content_of_held((vault.digest(e.id), e.label) for e in train)
        except (OSError, ValueError, DamagedVault):
            return False
        if held != judge.content_of(kept) or not vault.features_are_whole:
            return False
    return True


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _kind_of(path: Path) -> str:
    if path.is_symlink():
        return "a link"
    return "a folder" if path.is_dir() else "a pipe, a socket or a device"
