"""Any other corpus: a CSV file with the columns path, speaker, emotion, and if you like gender and text."""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath

from fedunlearn import audio
from fedunlearn.corpora.folder import assemble
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up, read_text

REQUIRED = ("path", "speaker", "emotion")
FILE_NAME = "manifest.csv"
PROBLEMS_AT_MOST = 20


def read(path: Path) -> Corpus:
    """The recordings that a manifest lists.

    Args:
        path: a UTF-8 CSV file (a byte-order mark is fine), or a folder that holds a ``manifest.csv``. Its
            ``path`` column is relative to the file's own folder, or absolute. Other columns are not read.

    Returns:
        ids: the ``path`` column without ending (with it, where two rows differ in nothing else).
        emotions: as written, in alphabetical order.

    Raises:
        BadInput: every wrong row, one line each (the first 20): a missing column, an empty field, a file
            that is not there, a path listed twice, emotions that differ only in case.
    """
    file = path / FILE_NAME if looked_up(path, path.is_dir) else path
    rows = _rows(file)
    problems: list[str] = []
    line_of: dict[Path, int] = {}
    spelling: dict[str, str] = {}
    for line, row in rows:
        empty = [name for name in REQUIRED if not row[name]]
        if empty:
            problems.append(f"{file}:{line}: {', '.join(empty)} must not be empty")
            continue
        recording = file.parent / row["path"]
        if recording in line_of:
            problems.append(f"{file}:{line}: {row['path']} is listed already in line {line_of[recording]}")
        elif not _is_there(recording):
            problems.append(f"{file}:{line}: no such file: {recording}")
        line_of.setdefault(recording, line)
        known = spelling.setdefault(row["emotion"].casefold(), row["emotion"])
        if known != row["emotion"]:
            problems.append(f"{file}:{line}: emotion {row['emotion']!r} is written {known!r} further up")
    if not rows:
        problems.append(f"{file}: lists no recording")
    if problems:
        more = len(problems) - PROBLEMS_AT_MOST
        raise BadInput(
            problems[:PROBLEMS_AT_MOST] + ([f"{file}: and {more} more errors"] if more > 0 else [])
        )

    stems = [PurePath(row["path"]).with_suffix("").as_posix() for _, row in rows]
    rows_of = Counter(stems)
    utterances = [
        Utterance(
            id=stem if rows_of[stem] == 1 else PurePath(row["path"]).as_posix(),
            speaker=row["speaker"],
            emotion=row["emotion"],
            pcm=partial(audio.decode, file.parent / row["path"]),
            gender=_gender(row.get("gender", "")),
            text=row.get("text", ""),
        )
        for stem, (_, row) in zip(stems, rows, strict=True)
    ]
    return assemble("manifest", utterances, sorted(spelling.values()))


def _is_there(recording: Path) -> bool:
    try:
        return recording.is_file()
    except OSError:  # the name is too long, or the folder is closed
        return False


def _gender(written: str) -> str:
    """The same words as the other readers use, so that groups can be compared."""
    return {"m": "male", "f": "female"}.get(written.lower(), written.lower())


def _rows(file: Path) -> list[tuple[int, Mapping[str, str]]]:
    """(line number, column to stripped value) of every row that is not blank."""
    try:
        stream = io.StringIO(read_text(file), newline="")
        reader = csv.DictReader(stream, restkey="", restval="", skipinitialspace=True, strict=True)
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in REQUIRED if name not in reader.fieldnames]
        if missing:
            raise BadInput(
                f"{file}: has no column {', '.join(missing)} (a CSV file with commas and the columns "
                f"path, speaker, emotion is needed; found: {', '.join(reader.fieldnames) or 'nothing'})"
            )
        rows = [
            (reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)}) for row in reader
        ]
    except csv.Error as error:
        raise BadInput(f"{file}: is not valid CSV ({error})") from error
    return [(line, row) for line, row in rows if any(row.values())]
