"""Any other corpus: a CSV file with the columns path, speaker, emotion and, optionally, gender and text."""

import csv
import io
import math
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from fedunlearn import audio
from fedunlearn.corpora.folder import assemble, name_few
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up, read_text

REQUIRED = ("path", "speaker", "emotion")
OPTIONAL = ("gender", "text")
FILE_NAME = "manifest.csv"
PROBLEMS_AT_MOST = 20
MISSING = frozenset(
    ("nan", "-nan", "none", "null", "nil", "na", "n/a", "n.a.", "<na>", "#na", "#n/a", "#value!", "nat")
)
"""What pandas, R and spreadsheets write into an empty cell, in lower case."""


@dataclass(frozen=True)
class _Row:
    """One row that is not blank.

    Attributes:
        line: number of its first line, counted from 1.
        lines: number of lines it spans; more than one if a quoted field contains a line break.
        fields: its fields without surrounding space, in the order of the file.
    """

    line: int
    lines: int
    fields: tuple[str, ...]


def read(path: Path) -> Corpus:
    """Read the recordings that a manifest lists.

    Args:
        path: a UTF-8 CSV file (with or without byte-order mark), or a folder that contains a
            ``manifest.csv``. Its ``path`` column is relative to the file's own folder, or absolute. Other
            columns are not read.

    Returns:
        The corpus. Ids are the ``path`` column without extension (with it, if two rows differ in nothing
        else); emotions are as written, in alphabetical order. Rows that span several lines, speakers that
        differ only in spelling and speakers with two genders are warned of.

    Raises:
        BadInput: a column is missing or named twice; or rows are wrong, one line each (the first 20): more or
            fewer fields than the header, an empty field or one that says "nan" and the like, a file that does
            not exist, a file listed twice, emotions that differ only in spelling, scores in place of
            emotions.
    """
    file = path / FILE_NAME if looked_up(path, path.is_dir) else path
    header, table = _table(file)
    columns = _columns(file, header)
    rows = [
        (row, {name: row.fields[at] if at < len(row.fields) else "" for name, at in columns.items()})
        for row in table
    ]
    problems = [*_problems(file, len(header), rows)]
    if not rows:
        problems.append(f"{file}: lists no recording")
    if problems:
        more = len(problems) - PROBLEMS_AT_MOST
        raise BadInput(
            problems[:PROBLEMS_AT_MOST] + ([f"{file}: and {more} more errors"] if more > 0 else [])
        )

    stems = [PurePath(values["path"]).with_suffix("").as_posix() for _, values in rows]
    rows_of = Counter(stems)
    utterances = [
        Utterance(
            id=stem if rows_of[stem] == 1 else PurePath(values["path"]).as_posix(),
            speaker=values["speaker"],
            emotion=values["emotion"],
            pcm=partial(audio.decode, file.parent / values["path"]),
            gender=_gender(values.get("gender", "")),
            text=values.get("text", ""),
            path=file.parent / values["path"],
        )
        for stem, (_, values) in zip(stems, rows, strict=True)
    ]
    long = [f"{file}:{row.line}-{row.line + row.lines - 1}" for row, _ in rows if row.lines > 1]
    warnings = [*name_few("rows over several lines (a quote left open?)", long), *_about_speakers(utterances)]
    return assemble("manifest", utterances, sorted({u.emotion for u in utterances}), warnings)


def _problems(file: Path, width: int, rows: Sequence[tuple[_Row, Mapping[str, str]]]) -> list[str]:
    """List what is wrong with the rows, in their order."""
    problems: list[str] = []
    listed: dict[object, tuple[int, Mapping[str, str]]] = {}
    spelling: dict[str, str] = {}
    for row, values in rows:
        place = f"{file}:{row.line}"
        wrong = _wrong_fields(row, values, width)
        if wrong:
            problems.append(f"{place}: {wrong}")
            continue
        recording = file.parent / values["path"]
        identity, reason = _identity(recording)
        if identity in listed:
            line, other = listed[identity]
            differ = [name for name in ("speaker", "emotion") if other[name] != values[name]]
            also = f", with another {' and '.join(differ)}" if differ else ""
            problems.append(f"{place}: {values['path']} is listed already in line {line}{also}")
        elif reason:
            problems.append(f"{place}: {reason}: {recording}")
        listed.setdefault(identity, (row.line, values))
        known = spelling.setdefault(_spoken(values["emotion"]), values["emotion"])
        if known != values["emotion"]:
            problems.append(f"{place}: emotion {values['emotion']!r} is written {known!r} further up")
    numbers = [_number(word) for word in spelling.values()]
    scores = [n for n in numbers if n is not None and not n.is_integer()]
    if scores and None not in numbers:
        problems.append(
            f"{file}: its emotions are scores such as {scores[0]:g}, not classes; write a word for each class"
        )
    return problems


def _wrong_fields(row: _Row, values: Mapping[str, str], width: int) -> str:
    """Say why the fields of a row do not fit the header; empty if they do."""
    count = len(row.fields)
    if count > width:
        return (
            f"has {count} fields, but the header names {width}: put a field that holds a comma into double "
            "quotes"
        )
    empty = [name for name in REQUIRED if not values[name]]
    if empty:
        return f"{', '.join(empty)} must not be empty"
    if count < width:
        return f"has {count} fields, but the header names {width}: write a comma for each empty field"
    for name in REQUIRED:
        value = values[name]
        if value.casefold() in MISSING or not any(unicodedata.category(c)[0] in "LNS" for c in value):
            return f"{name} is {value!r}, which stands for a missing value: fill it in, or remove the row"
        if any(unicodedata.category(c) == "Cc" for c in value):
            return (
                f"{name} is {value!r}: it holds a line end or another control character (a quote left open?)"
            )
    return ""


def _identity(recording: Path) -> tuple[object, str]:
    """Return an identity shared by all paths to one file, and why it cannot be used (empty if it can)."""
    try:
        status = recording.stat()
    except FileNotFoundError:
        return recording, "no such file"
    except OSError as error:
        return recording, f"cannot be read ({error.strerror})"
    reason = "" if stat.S_ISREG(status.st_mode) else "no such file"
    # A file system without inodes gives 0 for all.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(recording), reason


def _about_speakers(utterances: Sequence[Utterance]) -> list[str]:
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    genders: defaultdict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        spellings[_spoken(utterance.speaker)].add(utterance.speaker)
        genders[utterance.speaker] |= {utterance.gender} - {""}
    alike = [" / ".join(map(repr, sorted(names))) for _, names in sorted(spellings.items()) if len(names) > 1]
    mixed = [f"{name} ({', '.join(sorted(g))})" for name, g in sorted(genders.items()) if len(g) > 1]
    return [
        *name_few("speakers that differ only in spelling, taken for different people", alike),
        *name_few("speakers of more than one gender", mixed),
    ]


def _spoken(word: str) -> str:
    """Normalise the spelling of a word: case, spaces, hyphens, invisible characters, 1 and 1.0."""
    number = _number(word)
    if number is not None:
        return f"{number:g}"
    seen = "".join(c for c in unicodedata.normalize("NFKC", word) if unicodedata.category(c) != "Cf")
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", seen.replace("_", " ")).strip().casefold()


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _gender(written: str) -> str:
    """Return the word that the other readers use, so that groups can be compared."""
    word = written.lower()
    return "" if word in MISSING else {"m": "male", "f": "female"}.get(word, word)


def _columns(file: Path, header: Sequence[str]) -> dict[str, int]:
    """Map the columns that are read, if present, to their positions."""
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        mark = next((m for m in (";", "\t", "|") if len(header) == 1 and m in header[0]), "")
        looks = f"; its fields look separated by {mark!r}, write commas" if mark else ""
        raise BadInput(
            f"{file}: has no column {', '.join(missing)} (a CSV file with commas and the columns "
            f"path, speaker, emotion is needed; found: {', '.join(header) or 'nothing'}){looks}"
        )
    read_ones = [name for name in (*REQUIRED, *OPTIONAL) if name in header]
    twice = [name for name in read_ones if header.count(name) > 1]
    if twice:
        raise BadInput(
            f"{file}: has {header.count(twice[0])} columns named {', '.join(twice)}; keep one, or rename "
            "the other"
        )
    return {name: header.index(name) for name in read_ones}


def _table(file: Path) -> tuple[tuple[str, ...], list[_Row]]:
    """Return the column names, in lower case, and every row that is not blank."""
    text = _text(file)
    # newline="": lines may end as on any system, and a quoted field keeps its own line breaks.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: list[_Row] = []
    line = 0
    try:
        for fields in reader:
            stripped = tuple(field.strip() for field in fields)
            if any(stripped):
                rows.append(_Row(line + 1, reader.line_num - line, stripped))
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
