"""A vault in two places: its arrays on the node of its device, its papers there and in the run folder.

Papers are all that a vault holds beside speech and features: index, book, receipts, evidence, log. Whoever
reads a run reads them there. The arrays of a vault whose device lives elsewhere are made anew from the corpus
when they are needed here again: the experimenter has it, and the index says what is left of it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedunlearn.audio import PCM
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.files import write_atomically
from fedunlearn.links import is_plain
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.files import ARRAYS, wipe_arrays, write_generation
from fedunlearn.vault.index import INDEX, Index

_ELSEWHERE = "elsewhere"
_INBOX = "inbox"

Files = dict[str, bytes]
"""path in the vault -> content"""


def papers_of(folder: Path) -> Files:
    """All papers of a vault."""
    return {name: path.read_bytes() for name, path in _papers(folder)}


def papers_stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes whenever a paper does."""
    found = ((name, path.stat()) for name, path in _papers(folder))
    return tuple((name, told.st_mtime_ns, told.st_size) for name, told in found)


def lay_papers(folder: Path, papers: Mapping[str, bytes]) -> None:
    """Put papers into a vault, which then has these and no others."""
    for name, path in list(_papers(folder)):
        if name not in papers:
            path.unlink()
    for name, content in papers.items():
        path = folder / name
        if not is_plain(path) or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)


def whole(folder: Path) -> Files:
    """Papers and arrays."""
    arrays = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in ARRAYS and is_plain(p)}
    return arrays | papers_of(folder)


def lay_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a vault of what ``whole`` gave; the index comes last, so that nobody opens half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == INDEX):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, files[name])


def leave_arrays(folder: Path) -> None:
    """The device lives elsewhere: its arrays are wiped here."""
    write_atomically(folder / _ELSEWHERE, b"")
    wipe_arrays(folder, Index.read(folder).generation)


def lives_elsewhere(folder: Path) -> bool:
    """Whether a vault's device lives on another node, and has its arrays there."""
    return (folder / _ELSEWHERE).exists()


def refill(folder: Path, pcm: Callable[[str], PCM]) -> None:
    """Make the arrays anew, if the device lives elsewhere; it then lives here. Features are derived on use.

    Args:
        pcm: a recording of the corpus, by the utterance's id.
    """
    if not lives_elsewhere(folder):
        return
    index = Index.read(folder)
    recordings = [(entry, pcm(entry.id)) for entry in index.entries]
    write_generation(folder, index.generation, recordings, index.classes, {})
    (folder / _ELSEWHERE).unlink()


def refill_from(run: RunFolder, corpus: Corpus, client: int) -> None:
    """``refill`` the vault of one of a run's devices from the run's corpus."""
    if lives_elsewhere(run.vault(client)):
        recordings = {u.id: u for u in corpus.utterances}
        refill(run.vault(client), lambda utterance: recordings[utterance].pcm())


def _papers(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        strange = path.suffix in ARRAYS or name.parts[0] in {_INBOX, _ELSEWHERE}
        if is_plain(path) and not hidden and not strange:
            yield name.as_posix(), path
