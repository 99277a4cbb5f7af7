"""Tables of recordings: which column is which, the checks of their rows, and the corpus that they make."""

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
from fedunlearn.audio import AudioFile
from fedunlearn.config import ColumnNames
from fedunlearn.corpora.folder import assemble, name_few
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

REQUIRED = ("path", "speaker", "emotion")
OPTIONAL = ("gender", "text")
PROBLEMS_AT_MOST = 20
MISSING = frozenset(
    ("nan", "-nan", "none", "null", "nil", "na", "n/a", "n.a.", "<na>", "#na", "#n/a", "#value!", "nat")
)
"""What pandas, R and spreadsheets write into an empty cell, in lower case."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        place: its file and line, for messages.
        values: its fields without surrounding space, by our names: path, speaker, emotion and, where the
            table has them, gender and text. The path identifies the recording within the corpus.
        file: the recording.
        wrong: why its fields cannot be read; empty if they can.
    """

    place: str
    values: Mapping[str, str]
    file: AudioFile
    wrong: str = ""


def find_columns(
    place: str,
    header: Sequence[str],
    given: ColumnNames,
    usual: Mapping[str, Sequence[str]],
    expected: str,
) -> dict[str, str]:
    """Find the columns of a table.

    Args:
        place: the table, for messages.
        header: names of its columns.
        given: the names that the user gives.
        usual: our name -> names that are looked for where none is given, the first that is there.
        expected: what kind of table is needed, for messages.

    Returns:
        Our name -> the table's name.

    Raises:
        BadInput: a required column, or one that the user names, is missing; or a column that is read is there
            twice.
    """
    columns, missing = {}, []
    for ours in (*REQUIRED, *OPTIONAL):
        own = getattr(given, ours)
        name = next((n for n in ((own,) if own else usual[ours]) if n in header), None)
        if name is not None:
            columns[ours] = name
        elif own or ours in REQUIRED:
            missing.append(own or usual[ours][0])
    if missing:
        raise BadInput(
            f"{place}: has no column {', '.join(missing)} ({expected}; found: "
            f"{', '.join(header) or 'nothing'}; other names: --columns path=... speaker=... emotion=...)"
        )
    twice = [name for name in columns.values() if header.count(name) > 1]
    if twice:
        raise BadInput(
            f"{place}: has {header.count(twice[0])} columns named {', '.join(twice)}; keep one, or rename "
            "the other"
        )
    return columns


def corpus_of(
    name: str,
    place: str,
    rows: Sequence[TableRow],
    warnings: Sequence[str] = (),
    emotions: Sequence[str] = (),
) -> Corpus:
    """Make a corpus of the rows of a table.

    Args:
        name: the reader's name.
        place: the table, for messages.
        rows: its rows.
        warnings: what was found odd already, one line each.
        emotions: in the order of the classes; empty = in alphabetical order.

    Returns:
        The corpus. Ids are the paths without extension (with it, if two rows differ in nothing else).
        Speakers that differ only in spelling and speakers with two genders are warned of.

    Raises:
        BadInput: there are no rows, or some are wrong, one line each (the first 20): an empty field or one
            that says "nan" and the like, a file that does not exist, a file listed twice, emotions that
            differ only in spelling, scores in place of emotions.
    """
    problems = _problems(place, rows)
    if not rows:
        problems.append(f"{place}: lists no recording")
    if problems:
        more = len(problems) - PROBLEMS_AT_MOST
        raise BadInput(
            problems[:PROBLEMS_AT_MOST] + ([f"{place}: and {more} more errors"] if more > 0 else [])
        )
    stems = [PurePath(row.values["path"]).with_suffix("").as_posix() for row in rows]
    rows_of = Counter(stems)
    utterances = [
        Utterance(
            id=stem if rows_of[stem] == 1 else PurePath(row.values["path"]).as_posix(),
            speaker=row.values["speaker"],
            emotion=row.values["emotion"],
            pcm=partial(audio.decode, row.file),
            gender=_gender(row.values.get("gender", "")),
            text=row.values.get("text", ""),
            path=row.file,
        )
        for stem, row in zip(stems, rows, strict=True)
    ]
    order = emotions or sorted({u.emotion for u in utterances})
    return assemble(name, utterances, order, [*warnings, *_about_speakers(utterances)])


def _problems(place: str, rows: Sequence[TableRow]) -> list[str]:
    """List what is wrong with the rows, in their order."""
    problems: list[str] = []
    listed: dict[object, TableRow] = {}
    spelling: dict[str, str] = {}
    for row in rows:
        values = row.values
        wrong = row.wrong or _wrong_fields(values)
        if wrong:
            problems.append(f"{row.place}: {wrong}")
            continue
        identity, reason = _identity(row.file)
        if identity in listed:
            first = listed[identity]
            line = first.place.rpartition(":")[2]
            differ = [name for name in ("speaker", "emotion") if first.values[name] != values[name]]
            also = f", with another {' and '.join(differ)}" if differ else ""
            problems.append(f"{row.place}: {values['path']} is listed already in line {line}{also}")
        elif reason:
            problems.append(f"{row.place}: {reason}: {row.file}")
        listed.setdefault(identity, row)
        known = spelling.setdefault(_spoken(values["emotion"]), values["emotion"])
        if known != values["emotion"]:
            problems.append(f"{row.place}: emotion {values['emotion']!r} is written {known!r} further up")
    numbers = [_number(word) for word in spelling.values()]
    scores = [n for n in numbers if n is not None and not n.is_integer()]
    if scores and None not in numbers:
        problems.append(
            f"{place}: its emotions are scores such as {scores[0]:g}, not classes; write a word for each "
            "class"
        )
    return problems


def _wrong_fields(values: Mapping[str, str]) -> str:
    """Say which field is missing or unreadable; empty if none is."""
    empty = [name for name in REQUIRED if not values[name]]
    if empty:
        return f"{', '.join(empty)} must not be empty"
    for name in REQUIRED:
        value = values[name]
        if value.casefold() in MISSING or not any(unicodedata.category(c)[0] in "LNS" for c in value):
            return f"{name} is {value!r}, which stands for a missing value: fill it in, or remove the row"
        if any(unicodedata.category(c) == "Cc" for c in value):
            return (
                f"{name} is {value!r}: it holds a line end or another control character (a quote left open?)"
            )
    return ""


def _identity(recording: AudioFile) -> tuple[object, str]:
    """Return an identity shared by all paths to one file, and why it cannot be used (empty if it can)."""
    if not isinstance(recording, Path):
        return recording, ""
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
