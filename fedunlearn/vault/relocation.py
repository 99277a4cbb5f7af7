"""Vaults on the nodes of a cluster: the arrays are on the node, the metadata files also in the run folder.

Metadata files are all that a vault holds besides audio and features: index, requests, receipts, evidence,
log. Whoever reads a run reads them in the run folder. If the arrays of a vault on another node are needed
here again, they are restored from the experimenter's corpus; the index says which utterances are left.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedunlearn.audio import PCM
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.files import write_atomically
from fedunlearn.links import is_plain
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.arrays import ARRAYS, wipe_arrays, write_generation
from fedunlearn.vault.index import INDEX, Index

_ELSEWHERE = "elsewhere"
_INBOX = "inbox"

Files = dict[str, bytes]
"""path relative to the vault -> content"""


def read_metadata_files(folder: Path) -> Files:
    """Read all metadata files of a vault."""
    return {name: path.read_bytes() for name, path in _metadata_files(folder)}


def metadata_stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return a value that changes when a metadata file does: name, time and size of each."""
    found = ((name, path.stat()) for name, path in _metadata_files(folder))
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)


def replace_metadata_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write metadata files into a vault, and unlink all others that it has.

    Args:
        folder: of the vault.
        files: path -> content.
    """
    for name, path in list(_metadata_files(folder)):
        if name not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not is_plain(path) or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)


def read_all_files(folder: Path) -> Files:
    """Read all files of a vault, arrays included."""
    arrays = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in ARRAYS and is_plain(p)}
    return arrays | read_metadata_files(folder)


def write_all_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a vault from what ``read_all_files`` gave, the index last: no process opens half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == INDEX):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, files[name])


def mark_as_moved(folder: Path) -> None:
    """Mark a vault as moved to another node, and wipe its arrays here."""
    write_atomically(folder / _ELSEWHERE, b"")
    wipe_arrays(folder, Index.read(folder).generation)


def is_elsewhere(folder: Path) -> bool:
    """Tell whether the arrays of a vault are on another node."""
    return (folder / _ELSEWHERE).exists()


def restore_arrays(folder: Path, pcm: Callable[[str], PCM]) -> None:
    """Restore the arrays of a vault that was marked as moved; features are derived on use.

    Args:
        folder: of the vault.
        pcm: utterance id -> its recording in the corpus.
    """
    if not is_elsewhere(folder):
        return
    index = Index.read(folder)
    recordings = [(entry, pcm(entry.id)) for entry in index.entries]
    write_generation(folder, index.generation, recordings, index.classes, {})
    (folder / _ELSEWHERE).unlink()


def restore_arrays_from_corpus(run: RunFolder, corpus: Corpus, client: int) -> None:
    """Restore the arrays of a client's vault from the run's corpus, if it was marked as moved.

    Args:
        run: folder of the run.
        corpus: of the run.
        client: its number.
    """
    if is_elsewhere(run.vault(client)):
        recordings = {u.id: u for u in corpus.utterances}
        restore_arrays(run.vault(client), lambda utterance: recordings[utterance].pcm())


def _metadata_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        other = path.suffix in ARRAYS or name.parts[0] in {_INBOX, _ELSEWHERE}
        if is_plain(path) and not hidden and not other:
            yield name.as_posix(), path
