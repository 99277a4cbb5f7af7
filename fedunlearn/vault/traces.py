"""Looking for deleted speech: is any piece of it left in any file, at any byte?

Speech is told by fingerprints: 64-bit hashes of its 64-byte pieces, cut one after another. Any 63 samples in
a row (31 values, where they are float32) hold a whole piece, so that much of a remnant is found wherever it
was cut out of the recording. A fingerprint can be compared and not be heard.

Two different pieces have the same fingerprint with a probability of about 2**-64: a search for 10**5 of them
in 10**9 bytes raises a false alarm once in 10**5 searches, and never misses a piece.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedunlearn.audio import PCM, to_float
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.links import FileSearch, open_to_read
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition

Hashes = npt.NDArray[np.uint64]
Recording = tuple[PCM, Tensor]
"""16-bit samples [S] and the features derived from them [T, D]"""

PIECE = 64
"""bytes: 32 samples, or 16 values of a feature"""
_FEWEST_VALUES = 5
"""different ones in a piece; fewer are silence or clipping, and prove nothing"""

_BLOCK = 1 << 15  # bytes hashed at a time: what is being worked on stays in the processor's cache
_READ = 1 << 22  # bytes
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLDS = (
    (8, np.uint64(0xBF58476D1CE4E5B9)),
    (16, np.uint64(0x94D049BB133111EB)),
    (32, np.uint64(0xD6E8FEB86659FD93)),
)
"""Odd numbers, so that two pieces that differ in one word of 8 bytes never agree."""


@dataclass(frozen=True)
class Fingerprints:
    """What betrays some speech.

    Attributes:
        hashes: sorted, each once.
    """

    hashes: Hashes

    @classmethod
    def of(cls, arrays: Iterable[npt.NDArray[Any]]) -> "Fingerprints":
        """Of all pieces of these arrays of samples or values; those of few different values are left out."""
        return cls(_joined(_told(np.ascontiguousarray(array).ravel()) for array in arrays))

    @classmethod
    def of_speech(cls, recordings: Iterable[Recording]) -> "Fingerprints":
        """Of all forms that recordings may be left in: 16-bit and float32 samples, and features."""
        return cls.of(form for recording in recordings for form in _forms(recording))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Fingerprints":
        """What ``to_bytes`` gave."""
        return cls(np.frombuffer(content, "<u8").astype(np.uint64))

    def to_bytes(self) -> bytes:
        """Eight bytes each."""
        return self.hashes.astype("<u8").tobytes()

    def __len__(self) -> int:
        return len(self.hashes)

    def __or__(self, other: "Fingerprints") -> "Fingerprints":
        return Fingerprints(np.union1d(self.hashes, other.hashes))

    def without(self, other: "Fingerprints") -> "Fingerprints":
        """These less those of others."""
        return Fingerprints(np.setdiff1d(self.hashes, other.hashes, assume_unique=True))

    def shared_by(self, recordings: Iterable[Recording]) -> "Fingerprints":
        """Those that occur, at any byte, in other recordings."""
        search = _searcher(self.hashes)
        return Fingerprints(_joined(search(form.tobytes()) for r in recordings for form in _forms(r)))


@dataclass(frozen=True)
class TraceFindings:
    """What a search went through, and what it found.

    Attributes:
        files, bytes: how many were read.
        found: file -> the fingerprints in it; empty = no trace.
        unsearched: what could not be looked into -> why; nothing is known of it.
        spared: what leads into folders that were not to be searched.
    """

    files: int
    bytes: int
    found: Mapping[Path, Fingerprints]
    unsearched: Mapping[Path, str] = field(default_factory=dict)
    spared: Sequence[Path] = ()

    def any_of(self, fingerprints: Fingerprints) -> bool:
        """Whether any of these was found anywhere."""
        return any(len(np.intersect1d(f.hashes, fingerprints.hashes)) for f in self.found.values())


def find_traces(
    places: Iterable[Path], fingerprints: Fingerprints, spared: Iterable[Path] = ()
) -> TraceFindings:
    """Look into every file of these files and folders; ``links`` has the rule for links.

    Files that vanish meanwhile are no trace, and what is no plain file (a socket, a pipe) is not opened.

    Args:
        spared: folders not to be searched, such as the user's corpus.
    """
    files, scanned, found = 0, 0, {}
    search = _searcher(fingerprints.hashes)
    searched = FileSearch(places, spared)
    for path, linked in searched:
        hits = []
        try:
            for block, new in _content(path, linked):
                scanned += new
                hits.append(search(block))
        except FileNotFoundError:
            continue
        except OSError as error:
            searched.unsearched[path] = f"cannot be read ({error.strerror})"
            continue
        files += 1
        if traces := Fingerprints(_joined(hits)):
            found[path] = traces
    return TraceFindings(files, scanned, found, searched.unsearched, searched.met)


def scan_run(
    folders: Iterable[Path],
    partition: Partition,
    gone: Iterable[str],
    model: EmotionModel,
    elsewhere: Callable[[Fingerprints], TraceFindings] | None = None,
    spared: Iterable[Path] = (),
) -> dict[str, Any]:
    """The experimenter's search at the end of a run, who knows the corpus: is anything of D_f left?

    Args:
        folders: run folder, reference cache, the engine's session folder with what it spilled. The user's
            corpus is none of them.
        partition: who held what.
        gone: ids of the utterances that must be nowhere.
        model: of the run's kind; it derives the features to look for.
        elsewhere: looks where else there is something; None = nowhere.
        spared: the user's own folders, which are not searched where a link leads into them.

    Returns:
        {scanned_files, scanned_bytes, windows, found, unsearched, spared}: ``found`` names files, from their
        folder on; pieces that speech which stays shares (a copy under another name) prove nothing and are
        left out. ``unsearched``: a line for each thing of which nothing is known. ``spared``: names of what
        leads into the user's own folders.
    """
    chosen, folders = set(gone), [folder.absolute() for folder in folders]
    everyone = (*partition.train, *partition.test, *partition.unseen)
    wanted = Fingerprints.of_speech(_read(u, model) for u in everyone if u.id in chosen)
    findings = find_traces(folders, wanted, spared)
    if elsewhere is not None:
        more = elsewhere(wanted)
        files, scanned = findings.files + more.files, findings.bytes + more.bytes
        unsearched = {**findings.unsearched, **more.unsearched}
        findings = TraceFindings(
            files, scanned, {**findings.found, **more.found}, unsearched, findings.spared
        )
    found = dict(findings.found)
    if found:  # all of the corpus is decoded again only where there is something to explain
        hits = Fingerprints(_joined(traces.hashes for traces in found.values()))
        shared = hits.shared_by(_read(u, model) for u in everyone if u.id not in chosen)
        wanted = wanted.without(shared)
        found = {path: rest for path, traces in found.items() if (rest := traces.without(shared))}
    unknown = [f"{_name_from(folders, path)} {why}" for path, why in findings.unsearched.items()]
    if not findings.files:
        unknown.append("no file was there to be searched")
    return {
        "scanned_files": findings.files,
        "scanned_bytes": findings.bytes,
        "windows": len(wanted),
        "found": sorted(_name_from(folders, path) for path in found),
        "unsearched": sorted(unknown),
        "spared": sorted(_name_from(folders, path) for path in findings.spared),
    }


def _read(utterance: Utterance, model: EmotionModel) -> Recording:
    pcm = utterance.pcm()
    return pcm, model.features_of(pcm)


def _forms(recording: Recording) -> Iterator[npt.NDArray[Any]]:
    pcm, features = recording
    yield pcm
    yield to_float(pcm)
    yield features.numpy()


def _name_from(folders: Iterable[Path], path: Path) -> str:
    root = next((f for f in folders if path.is_relative_to(f)), None)
    return str(path if root is None else Path(root.name) / path.relative_to(root))


# ---- hashing ---------------------------------------------------------------------------------------------


def _hashes(content: bytes | memoryview) -> Hashes:
    """The hash of the piece that begins at each byte: [n - PIECE + 1]; of less than a piece, none."""
    if len(content) < PIECE:
        return np.zeros(0, np.uint64)
    words = _spread(np.ndarray((len(content) - 7,), "<u8", content, strides=(1,)))
    for half, odd in _FOLDS:
        words = _fold(words[:-half], words[half:], odd)
    return words


def _spread(words: Hashes) -> Hashes:
    words = words * _SPREAD
    words ^= words >> np.uint64(32)
    return words


def _fold(first: Hashes, second: Hashes, odd: np.uint64) -> Hashes:
    folded = first * odd
    folded ^= folded >> np.uint64(29)
    folded += second
    return folded


def _told(values: npt.NDArray[Any]) -> Hashes:
    """Hashes of an array's pieces [n] that tell it from others."""
    size = PIECE // values.itemsize
    pieces = values[: len(values) // size * size].reshape(-1, size)
    different = 1 + (np.diff(np.sort(pieces, axis=1), axis=1) != 0).sum(1)
    chosen = np.frombuffer(pieces[different >= _FEWEST_VALUES].tobytes(), "<u8").reshape(-1, PIECE // 8)
    # As below, and only where a piece begins.
    words = _spread(chosen)
    for _, odd in _FOLDS:
        words = _fold(words[:, ::2], words[:, 1::2], odd)
    return words[:, 0]


def _joined(parts: Iterable[Hashes]) -> Hashes:
    parts = list(parts)
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def _searcher(wanted: Hashes) -> Callable[[bytes | memoryview], Hashes]:
    """A function that finds, of sorted hashes, those of pieces of a content [n bytes]."""
    # A table of the hashes' leading bits turns nearly all away.
    bits = int(np.clip(np.ceil(np.log2(len(wanted) + 1)) + 4, 16, 22))
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, np.bool_)
    table[wanted >> shift] = True

    def search(content: bytes | memoryview) -> Hashes:
        view, found = memoryview(content).cast("B"), []
        for start in range(0, max(len(view) - PIECE + 1, 0) if len(wanted) else 0, _BLOCK):
            hashes = _hashes(view[start : start + _BLOCK + PIECE - 1])
            likely = hashes[table[hashes >> shift]]
            places = np.minimum(np.searchsorted(wanted, likely), len(wanted) - 1)
            found.append(likely[wanted[places] == likely])
        return _joined(found)

    return search


# ---- reading ---------------------------------------------------------------------------------------------


def _content(path: Path, linked: bool) -> Iterator[tuple[bytes | memoryview, int]]:
    """A file block by block, each with the end of the one before, and how many bytes of it are new."""
    # Somebody else's database, behind a link, is read as it is: SQLite might write into it.
    if path.name.endswith((".sqlite", ".sqlite-wal", ".sqlite-shm")) and not linked:
        content = _database(path)
        if content is not None:
            yield content, len(content)
            return
    buffer = bytearray(PIECE - 1 + _READ)
    view, kept = memoryview(buffer), 0
    with os.fdopen(open_to_read(path), "rb", buffering=0) as file:
        while new := file.readinto(view[kept : kept + _READ]):
            yield view[: kept + new], new
            end = kept + new
            kept = min(end, PIECE - 1)
            buffer[:kept] = buffer[end - kept : end]


def _database(path: Path) -> bytes | None:
    """A database as SQLite sees it, with what its log holds; None = it is none.

    SQLite's locks belong to the process: whoever opens and closes such a file by other means loses all that
    this process holds on it, and another process may then write in the middle of a transaction.
    """
    if not path.name.endswith(".sqlite"):
        return None if not path.with_name(path.name.rpartition("-")[0]).exists() else b""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return connection.serialize()
    except sqlite3.DatabaseError:
        return None
