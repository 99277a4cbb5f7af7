"""Speaker-independent protocols of the literature: which speakers each fold tests on (``folds/*.toml``)."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

_FOLDS = Path(__file__).parent / "folds"


@dataclass(frozen=True)
class Protocol:
    """A cross-validation over speakers.

    Attributes:
        corpus: the reader's name, such as "ravdess".
        name: what it is called, such as "emobox".
        source: who published it, and where the lists are.
        emotions: its classes, in the order of the reader's.
        folds: test speakers of each fold; fold 1 comes first.
    """

    corpus: str
    name: str
    source: str
    emotions: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]


@cache
def protocols() -> tuple[Protocol, ...]:
    """List all protocols, sorted by corpus and name."""
    found = (tomllib.loads(file.read_text(encoding="utf-8")) for file in _FOLDS.glob("*.toml"))
    listed = (
        Protocol(
            made["corpus"],
            made["protocol"],
            made["source"],
            tuple(made["emotions"]),
            tuple(map(tuple, made["folds"])),
        )
        for made in found
    )
    return tuple(sorted(listed, key=lambda protocol: (protocol.corpus, protocol.name)))


def find_protocol(corpus: str, name: str) -> Protocol:
    """Return a protocol of a corpus.

    Args:
        corpus: the reader's name.
        name: of the protocol; empty = the corpus's first one.

    Raises:
        BadInput: the corpus has no such protocol.
    """
    known = [protocol for protocol in protocols() if protocol.corpus == corpus]
    if not known:
        there = ", ".join(dict.fromkeys(protocol.corpus for protocol in protocols()))
        raise BadInput(
            f"partition.fold: no folds are published for {corpus} (there are some for {there}); "
            "leave it 0 to draw the unseen speakers at random"
        )
    for protocol in known:
        if name in ("", protocol.name):
            return protocol
    names = ", ".join(protocol.name for protocol in known)
    raise BadInput(f"partition.protocol = {name!r} is not known for {corpus}; known: {names}")


def fold_speakers(corpus: Corpus, name: str, fold: int) -> tuple[str, ...]:
    """Return the test speakers of a fold.

    Args:
        corpus: whose folds they are.
        name: of the protocol; empty = the corpus's first one.
        fold: counted from 1.

    Raises:
        BadInput: the corpus has no such protocol or fold, or lacks a test speaker.
    """
    protocol = find_protocol(corpus.name, name)
    if not 1 <= fold <= len(protocol.folds):
        raise BadInput(
            f"partition.fold is {fold}, but {protocol.name} has the folds 1 to {len(protocol.folds)} "
            f"of {corpus.name}"
        )
    speakers = protocol.folds[fold - 1]
    if missing := sorted(set(speakers) - set(corpus.speakers)):
        raise BadInput(
            f"partition.fold: fold {fold} of {protocol.name} tests on speakers whom {corpus.name} lacks "
            f"({', '.join(missing)}); complete the corpus or take another fold"
        )
    return speakers
