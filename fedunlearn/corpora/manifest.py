"""Any other corpus: a CSV file with the columns path, speaker, emotion and, optionally, gender and text."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.config import ColumnNames
from fedunlearn.corpora.folder import name_few
from fedunlearn.corpora.rows import OPTIONAL, REQUIRED, TableRow, corpus_of, find_columns
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up, read_text

FILE_NAME = "manifest.csv"
USUAL = {name: (name,) for name in (*REQUIRED, *OPTIONAL)}


@dataclass(frozen=True)
class Line:
    """One row of a CSV file that is not blank.

    Attributes:
        line: number of its first line, counted from 1.
        lines: number of lines it spans; more than one if a quoted field contains a line break.
        fields: its fields without surrounding space, in the order of the file.
    """

    line: int
    lines: int
    fields: tuple[str, ...]


def read(path: Path, columns: ColumnNames = ColumnNames()) -> Corpus:
    """Read the recordings that a manifest lists.

    Args:
        path: a UTF-8 CSV file (with or without byte-order mark), or a folder that contains a
            ``manifest.csv``. Its ``path`` column is relative to the file's own folder, or absolute. Other
            columns are not read.
        columns: names of its columns, in any case.

    Returns:
        The corpus, as of ``rows.corpus_of``; emotions are as written, in alphabetical order. Rows that span
        several lines are warned of.

    Raises:
        BadInput: a column is missing or named twice, a row has more or fewer fields than the header, or is
            wrong, as ``rows.corpus_of`` says.
    """
    file = path / FILE_NAME if looked_up(path, path.is_dir) else path
    rows, long = read_csv(
        file, columns, USUAL, "a CSV file with commas and the columns path, speaker, emotion is needed"
    )
    return corpus_of(
        "manifest", str(file), rows, name_few("rows over several lines (a quote left open?)", long)
    )


def read_csv(
    file: Path, given: ColumnNames, usual: Mapping[str, Sequence[str]], expected: str
) -> tuple[list[TableRow], list[str]]:
    """Read a CSV file that lists recordings.

    Args:
        file: the CSV file.
        given: names of its columns, as the user gives them, in any case.
        usual: as of ``rows.find_columns``.
        expected: as of ``rows.find_columns``.

    Returns:
        Its rows, and the places of those that span several lines.

    Raises:
        BadInput: it cannot be read, or a column is missing or named twice.
    """
    header, table = _table(file)
    mark = next((m for m in (";", "\t", "|") if len(header) == 1 and m in header[0]), "")
    looks = f"its fields look separated by {mark!r}, write commas; " if mark else ""
    lower = ColumnNames(**{name: value.lower() for name, value in given})
    columns = find_columns(str(file), header, lower, usual, f"{looks}{expected}")
    places = {ours: header.index(name) for ours, name in columns.items()}
    rows = []
    for line in table:
        values = {name: line.fields[at] if at < len(line.fields) else "" for name, at in places.items()}
        wrong = _wrong_count(line, values, len(header))
        rows.append(TableRow(f"{file}:{line.line}", values, file.parent / values["path"], wrong))
    return rows, [f"{file}:{row.line}-{row.line + row.lines - 1}" for row in table if row.lines > 1]


def _wrong_count(line: Line, values: dict[str, str], width: int) -> str:
    """Say why the number of fields does not fit the header; empty if it does."""
    count = len(line.fields)
    if count > width:
        return (
            f"has {count} fields, but the header names {width}: put a field that holds a comma into double "
            "quotes"
        )
    if count < width and all(values[name] for name in REQUIRED):
        return f"has {count} fields, but the header names {width}: write a comma for each empty field"
    return ""


def _table(file: Path) -> tuple[tuple[str, ...], list[Line]]:
    """Return the column names, in lower case, and every row that is not blank."""
    text = _text(file)
    # newline="": lines may end as on any system, and a quoted field keeps its own line breaks.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: list[Line] = []
    line = 0
    try:
        for fields in reader:
            stripped = tuple(field.strip() for field in fields)
            if any(stripped):
                rows.append(Line(line + 1, reader.line_num - line, stripped))
            line = reader.line_num
    except csv.Error as error:
        raise BadInput(
            f"{file}: is not valid CSV (the row that begins in line {line + 1}: {error})"
        ) from error
    header = tuple(name.lower() for name in rows[0].fields) if rows else ()
    return header, rows[1:]


def _text(file: Path) -> str:
    text = read_text(file)
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise BadInput(f"{file}:{line}: holds a NUL character (UTF-16, or damaged?); save it as UTF-8")
    return text
