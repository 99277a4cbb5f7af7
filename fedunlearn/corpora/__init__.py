"""Speech with known speakers and emotions: a reader for each corpus, and generated speech.

``load`` reads file names only; ``recordings`` then decodes everything once and reports what is wrong.

Reading order: ``utterance`` (the common form) -> ``folder`` and ``zip_file`` (names of files) -> ``rows``
with ``manifest``, ``audiofolder``, ``parquet`` and ``audformat_database`` (tables) -> one module for each
known corpus -> ``inspection`` and ``labels`` (warnings and errors) -> ``protocols`` (published folds).
Generated speech: ``synthetic``, ``prosody``, ``phones``, ``vocal_tract``, and ``speech_process``, which
generates a large corpus on two CPUs. Speech without labels, for pre-training: ``unlabelled``.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from fedunlearn.config import ColumnNames, CorpusSettings
from fedunlearn.config.plugins import find, is_plugin
from fedunlearn.corpora import (
    audformat_database,
    audiofolder,
    crema_d,
    emodb,
    iemocap,
    manifest,
    nemo,
    parquet,
    ravdess,
    savee,
    shemo,
    tess,
)
from fedunlearn.corpora.inspection import recordings
from fedunlearn.corpora.labels import check_emotions
from fedunlearn.corpora.plugin import CorpusCard
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up

__all__ = ["READERS", "Corpus", "Reader", "Utterance", "load", "recordings"]

Reader = Callable[[CorpusSettings, int], Corpus]


def _synthetic(settings: CorpusSettings, seed: int) -> Corpus:
    if settings.path:
        real = ", ".join(name for name in READERS if name != "synthetic")
        raise BadInput(
            f"corpus.path = {settings.path!r}: generated speech reads no data; "
            f"leave --data out, or say with --corpus what it holds ({real})"
        )
    # Imported on use: the generator is heavy, and a run on real speech does not need it.
    from fedunlearn.corpora import synthetic

    return synthetic.read(settings.speakers, settings.utterances, seed)


def _real(read: Callable[[Path], Corpus]) -> Reader:
    return lambda settings, seed: read(_place(settings))


def _table(read: Callable[[Path, ColumnNames], Corpus]) -> Reader:
    return lambda settings, seed: read(_place(settings), settings.columns)


def _place(settings: CorpusSettings) -> Path:
    if not settings.path:
        raise BadInput(f"corpus.path: {settings.name} is real speech; say where it is with --data PATH")
    # Absolute: a recording may be decoded later by a process that works in another folder.
    path = looked_up(settings.path, lambda: Path(settings.path).expanduser().absolute())
    if not looked_up(path, path.exists):
        raise BadInput(f"{path}: no such file or folder (corpus.path, --data)")
    return path


def _own(settings: CorpusSettings, seed: int) -> Corpus:
    card: CorpusCard = find("corpus", settings.name).card
    if settings.path or card.needs_path:
        return _real(lambda path: card.read(path, settings.options))(settings, seed)
    return card.read(None, settings.options)


def _without(corpus: Corpus, speakers: Collection[str]) -> Corpus:
    """Remove speakers from a corpus; the emotions keep their order."""
    if not speakers:
        return corpus
    known = set(corpus.speakers)
    if strangers := sorted(set(speakers) - known):
        raise BadInput(
            f"corpus.leave_out: there is no speaker {strangers[0]!r} in {corpus.name} "
            f"({len(known)} are there: {', '.join(corpus.speakers[:6])}, ...)"
        )
    if known <= set(speakers):
        raise BadInput(f"corpus.leave_out: that is everybody in {corpus.name}; nobody would speak")
    kept = tuple(u for u in corpus.utterances if u.speaker not in speakers)
    spoken = {u.emotion for u in kept}
    return replace(corpus, utterances=kept, emotions=tuple(e for e in corpus.emotions if e in spoken))


TABLES: Mapping[str, Reader] = {
    "manifest": _table(manifest.read),
    "audiofolder": _table(audiofolder.read),
    "parquet": _table(parquet.read),
    "audformat": _table(audformat_database.read),
}
"""The readers of tables of recordings, whose columns can be named."""

READERS: Mapping[str, Reader] = {
    "synthetic": _synthetic,
    "ravdess": _real(ravdess.read),
    "crema-d": _real(crema_d.read),
    "emodb": _real(emodb.read),
    "nemo": _real(nemo.read),
    "iemocap": _real(iemocap.read),
    "tess": _real(tess.read),
    "savee": _real(savee.read),
    "shemo": _real(shemo.read),
    **TABLES,
}
"""The corpora of this package, by their ``corpus.name``."""


def load(settings: CorpusSettings, seed: int) -> Corpus:
    """Read the corpus that the settings name. No recording is decoded yet.

    Args:
        settings: name, path, and the size of generated speech.
        seed: seed of generated speech; real corpora do not depend on it.

    Raises:
        BadInput: the name is unknown, there is no such folder, nothing is recognised in it, an unknown
            speaker is left out, columns are named of what is no table, or there are fewer than two emotions,
            more than 256, or as many as recordings.
    """
    reader = _own if is_plugin("corpus", settings.name) else READERS.get(settings.name)
    if reader is None:
        raise BadInput(f"corpus.name = {settings.name!r} is not known; known are {', '.join(READERS)}")
    if settings.columns != ColumnNames() and settings.name not in TABLES:
        raise BadInput(
            f"corpus.columns (--columns): {settings.name} is no table; the readers of tables are "
            f"{', '.join(TABLES)}"
        )
    corpus = _without(reader(settings, seed), settings.leave_out)
    check_emotions(corpus, settings.path or settings.name)
    return corpus
