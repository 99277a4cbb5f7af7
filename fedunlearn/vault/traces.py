"""The search for traces of deleted recordings: is any piece of them left in any file, at any byte?

Recordings are recognised by fingerprints: 64-bit hashes of their 64-byte pieces, cut one after another. Any
63 consecutive samples (31 values, if they are float32) contain a whole piece, so that a remnant of this
length is found wherever it was cut out of the recording. No audio can be reconstructed from a fingerprint.

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
import torch
from torch import Tensor

from fedunlearn.audio import PCM, to_float
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.links import FileSearch, open_to_read
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition

Hashes = npt.NDArray[np.uint64]
StoredRecording = tuple[PCM, Tensor]
"""16-bit samples [S] and the features derived from them [T, D], as a vault stores them"""

PIECE = 64
"""bytes: 32 samples, or 16 values of a feature (32 in float16)"""
_FEWEST_VALUES = 5
"""different values in a piece; fewer are silence or clipping, and prove nothing"""

_BLOCK = 1 << 15  # bytes hashed at a time, so that intermediate arrays fit into the processor's cache
_READ = 1 << 22  # bytes
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLDS = (
    (8, np.uint64(0xBF58476D1CE4E5B9)),
    (16, np.uint64(0x94D049BB133111EB)),
    (32, np.uint64(0xD6E8FEB86659FD93)),
)
"""(words apart, odd factor): two pieces that differ in one word of 8 bytes never have the same hash"""


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of some recordings.

    Attributes:
        hashes: sorted, without duplicates.
    """

    hashes: Hashes

    @classmethod
    def of(cls, arrays: Iterable[npt.NDArray[Any]]) -> "Fingerprints":
        """Compute the fingerprints of arrays; pieces of few different values are left out."""
        return cls(_join(_hash_pieces(np.ascontiguousarray(array).ravel()) for array in arrays))

    @classmethod
    def of_recordings(cls, recordings: Iterable[StoredRecording]) -> "Fingerprints":
        """Compute the fingerprints of recordings as 16-bit samples, float32 samples and features.

        Features that are stored as float16 are looked for as float32, too."""
        return cls.of(form for recording in recordings for form in _forms(recording))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Fingerprints":
        """Read what ``to_bytes`` gave."""
        return cls(np.frombuffer(content, "<u8").astype(np.uint64))

    def to_bytes(self) -> bytes:
        """Serialise them: eight bytes each, little-endian."""
        return self.hashes.astype("<u8").tobytes()

    def __len__(self) -> int:
        return len(self.hashes)

    def __or__(self, other: "Fingerprints") -> "Fingerprints":
        return Fingerprints(np.union1d(self.hashes, other.hashes))

    def without(self, other: "Fingerprints") -> "Fingerprints":
        """Return these fingerprints without those of another set."""
        return Fingerprints(np.setdiff1d(self.hashes, other.hashes, assume_unique=True))

    def shared_by(self, recordings: Iterable[StoredRecording]) -> "Fingerprints":
        """Return those that occur, at any byte, in other recordings."""
        search = _make_search(self.hashes)
        return Fingerprints(_join(search(form.tobytes()) for r in recordings for form in _forms(r)))


@dataclass(frozen=True)
class TraceFindings:
    """The result of a search for traces.

    Attributes:
        files: number of files that were read.
        bytes: number of bytes in them.
        found: file -> the fingerprints in it; empty = no trace.
        unsearched: path that could not be searched -> why.
        spared: links into folders that were not to be searched, and such folders.
    """

    files: int
    bytes: int
    found: Mapping[Path, Fingerprints]
    unsearched: Mapping[Path, str] = field(default_factory=dict)
    spared: Sequence[Path] = ()

    def any_of(self, fingerprints: Fingerprints) -> bool:
        """Tell whether any of these fingerprints was found."""
        return any(len(np.intersect1d(f.hashes, fingerprints.hashes)) for f in self.found.values())


def find_traces(
    places: Iterable[Path], fingerprints: Fingerprints, spared: Iterable[Path] = ()
) -> TraceFindings:
    """Search every file in some files and folders; ``links`` explains how links are treated.

    Files that vanish in the meantime are no trace. What is no plain file (a socket, a pipe) is not opened.

    Args:
        places: files and folders.
        fingerprints: what to search for.
        spared: folders not to be searched, such as the user's corpus.
    """
    files, scanned, found = 0, 0, {}
    search = _make_search(fingerprints.hashes)
    searched = FileSearch(places, spared)
    for path, linked in searched:
        hits = []
        try:
            for block, new in _read_blocks(path, linked):
                scanned += new
                hits.append(search(block))
        except FileNotFoundError:
            continue
        except OSError as error:
            searched.unsearched[path] = f"cannot be read ({error.strerror})"
            continue
        files += 1
        if traces := Fingerprints(_join(hits)):
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
    """Search for what is left of D_f at the end of a run; the experimenter, who has the corpus, does this.

    Args:
        folders: run folder, reference cache, the engine's session folder with what it spilled. The user's
            corpus is none of them.
        partition: which client held what.
        gone: ids of the utterances that must be nowhere.
        model: of the run's kind; it derives the features to look for.
        elsewhere: searches other places, such as the nodes of a cluster; None = there are none.
        spared: the user's own folders, which are not searched if a link leads into them.

    Returns:
        {scanned_files, scanned_bytes, windows, found, unsearched, spared}: ``found`` names files, relative to
        their folder; pieces that a kept recording shares (a copy under another name) prove nothing and are
        left out. ``unsearched`` has a line for each path that could not be searched. ``spared`` names what
        leads into the user's own folders.
    """
    chosen, folders = set(gone), [folder.absolute() for folder in folders]
    everyone = (*partition.train, *partition.test, *partition.unseen)
    wanted = Fingerprints.of_recordings(_read(u, model) for u in everyone if u.id in chosen)
    findings = find_traces(folders, wanted, spared)
    if elsewhere is not None:
        more = elsewhere(wanted)
        files, scanned = findings.files + more.files, findings.bytes + more.bytes
        unsearched = {**findings.unsearched, **more.unsearched}
        findings = TraceFindings(
            files, scanned, {**findings.found, **more.found}, unsearched, findings.spared
        )
    found = dict(findings.found)
    if found:  # the whole corpus is decoded again only if there is something to explain
        hits = Fingerprints(_join(traces.hashes for traces in found.values()))
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


def _read(utterance: Utterance, model: EmotionModel) -> StoredRecording:
    pcm = utterance.pcm()
    return pcm, model.features_of(pcm)


def _forms(recording: StoredRecording) -> Iterator[npt.NDArray[Any]]:
    pcm, features = recording
    yield pcm
    yield to_float(pcm)
    yield features.numpy()
    if features.dtype != torch.float32:  # as in memory
        yield features.float().numpy()


def _name_from(folders: Iterable[Path], path: Path) -> str:
    root = next((f for f in folders if path.is_relative_to(f)), None)
    return str(path if root is None else Path(root.name) / path.relative_to(root))


# ---- hashing ---------------------------------------------------------------------------------------------


def _hashes(content: bytes | memoryview) -> Hashes:
    """Hash the piece that begins at each byte: [n - PIECE + 1]; empty for less than a piece."""
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


def _hash_pieces(values: npt.NDArray[Any]) -> Hashes:
    """Hash the pieces of an array [n] that have enough different values to identify it."""
    size = PIECE // values.itemsize
    pieces = values[: len(values) // size * size].reshape(-1, size)
    different = 1 + (np.diff(np.sort(pieces, axis=1), axis=1) != 0).sum(1)
    chosen = np.frombuffer(pieces[different >= _FEWEST_VALUES].tobytes(), "<u8").reshape(-1, PIECE // 8)
    # As in ``_hashes``, but only where a piece begins.
    words = _spread(chosen)
    for _, odd in _FOLDS:
        words = _fold(words[:, ::2], words[:, 1::2], odd)
    return words[:, 0]


def _join(parts: Iterable[Hashes]) -> Hashes:
    parts = list(parts)
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def _make_search(wanted: Hashes) -> Callable[[bytes | memoryview], Hashes]:
    """Make a function that finds which of these sorted hashes occur in some bytes [n], at any offset."""
    # A table of the hashes' leading bits rejects nearly all others, one of their last bits most of the rest.
    bits = int(np.clip(np.ceil(np.log2(len(wanted) + 1)) + 4, 16, 22))
    shift, mask = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
    table, last = np.zeros(1 << bits, np.bool_), np.zeros(1 << bits, np.bool_)
    table[wanted >> shift] = True
    last[wanted & mask] = True

    def search(content: bytes | memoryview) -> Hashes:
        view, found = memoryview(content).cast("B"), []
        for start in range(0, max(len(view) - PIECE + 1, 0) if len(wanted) else 0, _BLOCK):
            hashes = _hashes(view[start : start + _BLOCK + PIECE - 1])
            likely = _chosen(hashes, table, hashes >> shift)
            likely = _chosen(likely, last, likely & mask)
            places = np.minimum(np.searchsorted(wanted, likely), len(wanted) - 1)
            found.append(likely[wanted[places] == likely])
        return _join(found)

    return search


def _chosen(hashes: Hashes, table: npt.NDArray[np.bool_], places: Hashes) -> Hashes:
    """Those hashes at whose place in the table is True; twice as fast as indexing, and as exact."""
    return hashes.compress(table.take(places.view(np.int64), mode="clip"))


# ---- reading ---------------------------------------------------------------------------------------------


def _read_blocks(path: Path, linked: bool) -> Iterator[tuple[bytes | memoryview, int]]:
    """Read a file block by block, each with the end of the one before; yields (block, new bytes in it)."""
    # A database behind a link belongs to somebody else and is read as bytes: SQLite might write into it.
    if path.name.endswith((".sqlite", ".sqlite-wal", ".sqlite-shm")) and not linked:
        content = _read_database(path)
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


def _read_database(path: Path) -> bytes | None:
    """Read a database as SQLite sees it, with the content of its log; None = it is no database.

    SQLite's locks belong to the process: opening and closing such a file by other means releases all locks
    that this process holds on it, and another process may then write in the middle of a transaction.
    """
    if not path.name.endswith(".sqlite"):
        return None if not path.with_name(path.name.rpartition("-")[0]).exists() else b""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return connection.serialize()
    except sqlite3.DatabaseError:
        return None
