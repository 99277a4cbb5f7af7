"""Audio folders of Hugging Face ``datasets``: sound files with a metadata.csv or metadata.jsonl.

A folder of a split (train, test) has a metadata file of its own, or one at the top lists all of them. Splits
are read together: which speech is tested on is the partition's choice.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedunlearn.config import ColumnNames
from fedunlearn.corpora.folder import files, name_few
from fedunlearn.corpora.manifest import read_csv
from fedunlearn.corpora.rows import TableRow, corpus_of, find_columns
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput
from fedunlearn.inputs import read_text

NAMES = ("metadata.csv", "metadata.jsonl")
USUAL: Mapping[str, tuple[str, ...]] = {
    "path": ("file_name",),
    "speaker": ("speaker", "speaker_id"),
    "emotion": ("emotion", "label"),
    "gender": ("gender",),
    "text": ("text", "transcription"),
}
EXPECTED = "file_name, a speaker and an emotion are needed"


def read(path: Path, columns: ColumnNames = ColumnNames()) -> Corpus:
    """Read an audio folder.

    Args:
        path: the folder.
        columns: names of the columns. Usual are file_name; speaker or speaker_id; emotion or label.

    Returns:
        The corpus. Ids are paths relative to ``path``, without extension.

    Raises:
        BadInput: there is no metadata file, a column is missing, or rows are wrong, as ``rows.corpus_of``
            says.
    """
    tables = sorted(found for found in files(path, (".csv", ".jsonl")) if found.name in NAMES)
    if not tables:
        raise BadInput(f"{path}: no audio folder: expected a {' or '.join(NAMES)} with file_name and labels")
    rows: list[TableRow] = []
    long: list[str] = []
    for table in tables:
        if table.suffix == ".csv":
            found, spanning = read_csv(table, columns, USUAL, EXPECTED)
        else:
            found, spanning = _read_jsonl(table, columns), []
        inside = table.parent.relative_to(path)
        rows += [_below(row, inside) for row in found]
        long += spanning
    place = str(tables[0]) if len(tables) == 1 else str(path)
    return corpus_of(
        "audiofolder", place, rows, name_few("rows over several lines (a quote left open?)", long)
    )


def _below(row: TableRow, folder: Path) -> TableRow:
    """Name the recording from the top; an empty name stays empty, which is an error."""
    inside = row.values["path"] and (folder / row.values["path"]).as_posix()
    return TableRow(row.place, {**row.values, "path": inside}, row.file, row.wrong)


def _read_jsonl(file: Path, given: ColumnNames) -> list[TableRow]:
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise BadInput(f"{file}:{number}: is no JSON object; write one in each line")
        objects.append((number, content))
    header = list(dict.fromkeys(key for _, content in objects for key in content))
    columns = find_columns(str(file), header, given, USUAL, EXPECTED)
    rows = []
    for number, content in objects:
        values = {ours: as_text(content.get(name)) for ours, name in columns.items()}
        wrong = "".join(
            f"{name} holds several values; write one"
            for name in columns.values()
            if is_compound(content.get(name))
        )
        rows.append(TableRow(f"{file}:{number}", values, file.parent / values["path"], wrong))
    return rows


def as_text(value: object) -> str:
    """Return a value as the text of a table's field; nothing is empty.

    Args:
        value: of a cell.
    """
    return "" if value is None else str(value).strip()


def is_compound(value: object) -> bool:
    """Tell whether a cell holds a list or a mapping, of which no label can be read.

    Args:
        value: of a cell.
    """
    return isinstance(value, list | dict)
