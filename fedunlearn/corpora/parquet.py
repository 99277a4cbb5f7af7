"""Parquet files with the recordings in a column, as Hugging Face ``datasets`` stores them.

The audio column is a struct of ``bytes`` and ``path``, or plain bytes, or paths. Labels that are stored as
numbers (ClassLabel) get their names from the file's own metadata. Nothing is downloaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedunlearn.audio import BadAudio
from fedunlearn.config import ColumnNames
from fedunlearn.corpora.audiofolder import as_text, is_compound
from fedunlearn.corpora.folder import files
from fedunlearn.corpora.rows import TableRow, corpus_of, find_columns
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

INSTALL = 'pip install -e ".[parquet]"   (or: pip install pyarrow)'
USUAL: Mapping[str, tuple[str, ...]] = {
    "path": ("audio", "path", "file"),
    "speaker": ("speaker", "speaker_id"),
    "emotion": ("emotion", "label"),
    "gender": ("gender",),
    "text": ("text", "transcription"),
}
EXPECTED = "audio, a speaker and an emotion are needed"


@dataclass(frozen=True)
class ParquetCell:
    """A recording in a parquet file.

    Attributes:
        file: the parquet file.
        group: its row group, which is read as a whole; one is kept at a time.
        row: within the group.
        column: of the audio.
        number: row within the file, from 0, for messages.
    """

    file: Path
    group: int
    row: int
    column: str
    number: int

    @property
    def path(self) -> Path:
        """The parquet file and the row."""
        return self.file / f"row {self.number}"

    def read(self) -> bytes:
        """Return the sound file: the bytes in the cell or, where it has a path alone, that file's.

        Raises:
            BadAudio: the cell is empty, or the parquet file is damaged.
            OSError: a file cannot be read.
        """
        import pyarrow

        try:
            changed = self.file.stat().st_mtime_ns
            value = _group(self.file, changed, self.group, self.column)[self.row].as_py()
        except pyarrow.ArrowException as error:
            raise BadAudio(self.path, f"cannot be read ({error})") from error
        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(content, str):
            content, name = None, content
        if content is not None:
            return bytes(content)
        if not name:
            raise BadAudio(self.path, "holds neither sound nor the path of a file")
        beside = self.file.parent / str(name)
        if not beside.is_file():
            raise BadAudio(self.path, f"names {beside}, which is no file")
        return beside.read_bytes()


def read(path: Path, columns: ColumnNames = ColumnNames()) -> Corpus:
    """Read one parquet file, or all of a folder; splits are read together.

    Args:
        path: the file or folder.
        columns: names of the columns. Usual are audio (or the only one that holds audio); speaker or
            speaker_id; emotion or label.

    Returns:
        The corpus. Ids are file and row, such as ``data/train-00000-of-00001/000012``; emotions are in the
        order of the ClassLabel, otherwise alphabetical.

    Raises:
        BadInput: pyarrow is not installed, there is no parquet file, one is damaged, a column is missing, or
            rows are wrong, as ``rows.corpus_of`` says.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise BadInput(f"corpus.name = 'parquet' needs pyarrow; run: {INSTALL}") from error
    tables = sorted(files(path, (".parquet",))) if path.is_dir() else [path]
    if not tables:
        raise BadInput(f"{path}: no parquet file in it (.parquet)")
    rows: list[TableRow] = []
    emotions: list[str] = []
    for table in tables:
        inside = table.relative_to(path) if path.is_dir() else Path(table.name)
        try:
            with ParquetFile(table) as content:
                found, named = _rows(table, inside.with_suffix("").as_posix(), content, columns)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"{table}: is no parquet file that can be read ({reason})") from error
        rows += found
        emotions += [name for name in named if name not in emotions]
    unnamed = sorted({row.values["emotion"] for row in rows} - set(emotions))
    return corpus_of("parquet", str(path), rows, emotions=[*emotions, *unnamed])


def _rows(
    file: Path, stem: str, content: "ParquetFile", given: ColumnNames
) -> tuple[list[TableRow], Sequence[str]]:
    """The rows of a file, and the names of its emotions in their order; () = not given."""
    schema = content.schema_arrow
    features = _features(schema.metadata or {})
    sound = [name for name in schema.names if features.get(name, {}).get("_type") == "Audio"]
    usual = {**USUAL, "path": (*sound, *USUAL["path"])}
    names = find_columns(str(file), schema.names, given, usual, EXPECTED)
    audio = names.pop("path")
    _check_audio(file, schema.field(audio))
    # Plain columns alone: no sound is read here.
    table = content.read(columns=list(names.values()), use_threads=False).to_pydict()
    labels = {name: features.get(name, {}).get("names") for name in names.values()}
    rows = []
    number = 0
    for group in range(content.num_row_groups):
        for row in range(content.metadata.row_group(group).num_rows):
            cells = {ours: table[name][number] for ours, name in names.items()}
            wrong = [
                f"{names[ours]} holds several values; one is needed"
                for ours, cell in cells.items()
                if is_compound(cell)
            ]
            values = {ours: _word(cell, labels[names[ours]]) for ours, cell in cells.items()}
            values["path"] = f"{stem}/{number:06d}"
            place = f"{file}: row {number}"
            rows.append(
                TableRow(place, values, ParquetCell(file, group, row, audio, number), "; ".join(wrong))
            )
            number += 1
    return rows, labels[names["emotion"]] or ()


def _word(cell: object, labels: Sequence[str] | None) -> str:
    """The text of a cell; a number of a ClassLabel stands for its name, and -1 for no label."""
    if labels is None or not isinstance(cell, int):
        return as_text(cell)
    return labels[cell] if 0 <= cell < len(labels) else ""


def _check_audio(file: Path, field: Any) -> None:
    import pyarrow.types as kinds

    kind = field.type
    inner = {kind.field(i).name for i in range(kind.num_fields)} if kinds.is_struct(kind) else set()
    plain = (kinds.is_binary, kinds.is_large_binary, kinds.is_string, kinds.is_large_string)
    if not {"bytes", "path"} & inner and not any(test(kind) for test in plain):
        raise BadInput(
            f"{file}: column {field.name} holds {kind}; sound files are needed: a struct of bytes and path, "
            "bytes, or paths (--columns path=NAME names another)"
        )


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What ``datasets`` notes of each column; empty where it has not written the file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: about for name, about in features.items() if isinstance(about, dict)}


@lru_cache(maxsize=1)
def _group(file: Path, changed: int, group: int, column: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as content:
        return content.read_row_group(group, columns=[column], use_threads=False).column(column)
