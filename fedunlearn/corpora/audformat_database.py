"""Databases in audformat, as ``audb`` stores them: db.yaml and its tables beside the recordings.

Read with the package audformat, from disk alone. A database may have several tables; labels are found by
scheme.
"""

import io
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import soundfile

from fedunlearn.audio import BadAudio
from fedunlearn.config import ColumnNames
from fedunlearn.corpora.audiofolder import as_text
from fedunlearn.corpora.folder import name_few
from fedunlearn.corpora.rows import TableRow, corpus_of
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

INSTALL = 'pip install -e ".[audformat]"   (or: pip install audformat)'
HEADER = "db.yaml"
_MILLISECOND = 1_000_000
"""ns"""


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Attributes:
        file: the recording.
        start: of the part, in ms.
        end: of the part, in ms; None = to the end of the recording.
    """

    file: Path
    start: int
    end: int | None

    @property
    def path(self) -> Path:
        """The recording."""
        return self.file

    def read(self) -> bytes:
        """Return the part as a WAV file of the recording's rate and channels.

        Raises:
            BadAudio: there is no such file, or the part does not lie in it.
            OSError: the file cannot be read.
        """
        if not self.file.is_file():
            raise BadAudio(self.file, "no such file")
        with soundfile.SoundFile(self.file) as source:
            rate, frames = source.samplerate, source.frames
            first = self.start * rate // 1000
            last = frames if self.end is None else min(frames, self.end * rate // 1000)
            if first >= last:
                raise BadAudio(
                    self.file, f"ends before its segment at {self.start} ms begins, or that is empty"
                )
            source.seek(first)
            samples = source.read(last - first, dtype="float64", always_2d=True)
        part = io.BytesIO()
        soundfile.write(part, samples, rate, format="WAV", subtype="DOUBLE")
        return part.getvalue()


def read(path: Path, columns: ColumnNames = ColumnNames()) -> Corpus:
    """Read a database folder.

    Args:
        path: the folder with db.yaml, or db.yaml itself.
        columns: names of schemes; usual are emotion, speaker, gender and transcription.

    Returns:
        The corpus. Ids are paths without extension; those of segments end in their start and end in ms.
        Emotions are in the order of the scheme's labels. Files without an emotion or speaker are left out,
        with a warning.

    Raises:
        BadInput: audformat is not installed, there is no database, it has no such scheme, a label is
            contradictory, or rows are wrong, as ``rows.corpus_of`` says.
    """
    root = path.parent if path.is_file() else path
    header = root / HEADER
    if not header.is_file():
        raise BadInput(f"{path}: no audformat database: expected a {HEADER} in it")
    if columns.path:
        raise BadInput("corpus.columns.path: a database has no column of files; leave it out")
    emotion, speaker = columns.emotion or "emotion", columns.speaker or "speaker"
    gender, text = columns.gender or "gender", columns.text or "transcription"
    table = _labels(root, header, emotion, (speaker, gender, text))
    lacking = [name for name in (emotion, speaker) if name not in table or table[name].isna().all()]
    if lacking:
        raise BadInput(
            f"{header}: has no labels of the scheme {lacking[0]} (other names: --columns emotion=... "
            "speaker=...)"
        )
    labelled = table.dropna(subset=[emotion, speaker])
    named = {"speaker": speaker, "emotion": emotion, "gender": gender, "text": text}
    cells = labelled.astype(object).where(labelled.notna(), None)
    rows = []
    for where, values in zip(cells.index, cells.to_dict("records"), strict=True):
        words = {ours: as_text(values.get(name)) for ours, name in named.items()}
        rows.append(_row(header, root, where, words))
    left_out = [str(_split(where)[0]) for where in table.index.difference(labelled.index)]
    return corpus_of(
        "audformat",
        str(header),
        rows,
        name_few("left out, without an emotion or speaker", left_out),
        _order(labelled[emotion]),
    )


def _labels(root: Path, header: Path, emotion: str, more: tuple[str, ...]) -> "pd.DataFrame":
    try:
        import audformat
    except ImportError as error:
        raise BadInput(f"corpus.name = 'audformat' needs audformat; run: {INSTALL}") from error
    # A copy of the tables without their pickles, which audformat would read first: a pickle can run code.
    with TemporaryDirectory() as copy, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audformat calls what newer versions of pandas deprecate
        for file in root.glob("db.*"):
            if file.suffix in (".yaml", ".csv", ".parquet") and file.is_file():
                shutil.copyfile(file, Path(copy) / file.name)
        try:
            database = audformat.Database.load(copy)
            found: pd.DataFrame = database.get(emotion, list(more))
        except Exception as error:  # of yaml, pandas and audformat alike
            reason = " ".join(str(error).split())
            raise BadInput(f"{header}: cannot be read ({type(error).__name__}: {reason})") from error
    return found


def _row(header: Path, root: Path, where: Any, words: dict[str, str]) -> TableRow:
    name, start, end = _split(where)
    recording, place = root / name, f"{header}: {name}"
    if not start and end is None:
        return TableRow(place, {"path": name, **words}, recording)
    stem = Path(name).with_suffix("").as_posix()
    segment = f"{stem}/{start:08d}-{'end' if end is None else f'{end:08d}'}"
    return TableRow(place, {"path": segment, **words}, Segment(recording, start, end))


def _split(where: Any) -> tuple[str, int, int | None]:
    """The file of an index entry, and start and end in ms; None = to the end of the file."""
    if not isinstance(where, tuple):
        return str(where), 0, None
    name, start, end = where
    # A missing time differs from itself.
    return str(name), start.value // _MILLISECOND, end.value // _MILLISECOND if end == end else None


def _order(emotions: "pd.Series[Any]") -> list[str]:
    occurring = {as_text(value) for value in emotions}
    if emotions.dtype == "category":
        return [word for word in map(as_text, emotions.cat.categories) if word in occurring]
    return sorted(occurring)
