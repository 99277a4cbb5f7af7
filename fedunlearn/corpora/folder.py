"""The common part of the readers of real corpora: walk a folder and read speaker and emotion from file names.

Folders may be nested, flat, linked or sorted by emotion; file extensions may be upper-case; the same
recording may be in two places. A reader provides a ``Scheme``; everything else is done here. Nothing is
decoded yet.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from fedunlearn import audio
from fedunlearn.audio import AudioFile
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.corpora.zip_file import is_zip, members
from fedunlearn.errors import BadInput

# In order of preference, for recordings in several formats (CREMA-D has WAV and MP3). Video files are only
# counted as left out.
ENDINGS = (".wav", ".flac", ".aif", ".aiff", ".ogg", ".opus", ".mp3", ".mp4")
NOT_READ = frozenset(
    (
        *(
            ".3ga",
            ".3gp",
            ".aac",
            ".ac3",
            ".adp",
            ".aifc",
            ".amr",
            ".ape",
            ".au",
            ".avi",
            ".awb",
            ".caf",
            ".dsf",
        ),
        *(
            ".flv",
            ".m4a",
            ".m4b",
            ".m4v",
            ".mka",
            ".mkv",
            ".mov",
            ".mp1",
            ".mp2",
            ".mpc",
            ".mpeg",
            ".mpg",
            ".nist",
        ),
        *(
            ".oga",
            ".ogv",
            ".pcm",
            ".ra",
            ".raw",
            ".rf64",
            ".sd2",
            ".snd",
            ".sph",
            ".spx",
            ".tta",
            ".voc",
            ".vox",
        ),
        *(".w64", ".wave", ".webm", ".wma", ".wmv", ".wv", ".wvx"),
        *(".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".crdownload", ".download", ".part"),
    )
)
"""Extensions of other sound formats, archives and unfinished downloads: counted, never read."""
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Label:
    """What a file name says about a recording.

    Attributes:
        speaker: the person who speaks.
        emotion: one of the corpus's emotions.
        gender: the speaker's gender, if known.
        text: what is said, if known.
        key: the same for all copies of one recording; empty = the file's stem.
    """

    speaker: str
    emotion: str
    gender: str = ""
    text: str = ""
    key: str = ""


@dataclass(frozen=True)
class Skip:
    """A file that belongs to the corpus and is left out on purpose.

    Attributes:
        what: what is left out, such as "song recordings"; files are counted under it. Empty = not mentioned.
    """

    what: str


@dataclass(frozen=True)
class Scheme:
    """How one corpus names its files.

    Attributes:
        name: the reader's name.
        expected: an example of such names, for a user whose folder has none.
        emotions: every emotion, in the order of the model's classes.
        parse: maps a path relative to the corpus folder, without extension and in Unicode NFC, to what it
            says; None = not a name of this corpus.
    """

    name: str
    expected: str
    emotions: tuple[str, ...]
    parse: Callable[[PurePosixPath], Label | Skip | None]


def read(root: Path, scheme: Scheme) -> Corpus:
    """Find all recordings under ``root``, a folder or a zip file, that ``scheme`` recognises.

    A recording found twice (the same name in two folders) is used once: uncompressed before compressed, then
    the one nearest to ``root``, then the first by name. Ids are paths relative to ``root`` without extension.

    Args:
        root: the corpus folder, or a zip file of it, which is read without being unpacked.
        scheme: how its files are named.

    Raises:
        BadInput: there is no such folder, a folder in it or the zip file is unreadable, or no file in it is
            recognised.
    """
    found: dict[str, Utterance] = {}
    strays: list[str] = []
    skipped: Counter[str] = Counter()
    copies: list[str] = []
    not_read: list[PurePosixPath] = []
    for inside, file in sorted(_files_in(root), key=_preference):
        label = scheme.parse(inside.with_suffix(""))
        readable = inside.suffix.lower() in ENDINGS
        if label is None:
            if readable:
                strays.append(str(inside))
            elif inside.suffix:  # a name without an extension is usually a README
                not_read.append(inside)
        elif isinstance(label, Skip):
            skipped[label.what] += 1
        elif (key := label.key or inside.stem.casefold()) in found:
            copies.append(str(inside))
        elif not readable:
            not_read.append(inside)
        else:
            found[key] = Utterance(
                id=str(inside.with_suffix("")),
                speaker=label.speaker,
                emotion=label.emotion,
                pcm=partial(audio.decode, file),
                gender=label.gender,
                text=label.text,
                path=file,
            )
    passed_over = name_not_read(not_read)
    if not found:
        seen = f"; it holds {counted(strays)}" if strays else ""
        seen += "".join(f"; {line}" for line in passed_over)
        left_out = "".join(f"; {count} {what} left out" for what, count in sorted(skipped.items()) if what)
        raise BadInput(f"{root}: no recording of {scheme.name}: expected {scheme.expected}{seen}{left_out}")
    warnings = [f"{count} {what} left out" for what, count in sorted(skipped.items()) if what]
    if strays:
        warnings.append(f"left out, not named as {scheme.name} names its files: {counted(strays)}")
    if copies:
        warnings.append(f"left out, second copies of the same name: {counted(copies)}")
    warnings += passed_over
    return assemble(scheme.name, found.values(), scheme.emotions, warnings)


def assemble(
    name: str, utterances: Iterable[Utterance], emotions: Sequence[str], warnings: Sequence[str] = ()
) -> Corpus:
    """Make a corpus of utterances.

    Args:
        name: the reader's name.
        utterances: the utterances in any order; the corpus has them by id.
        emotions: all emotions in the order of the classes; the corpus has those that occur.
        warnings: one line each.
    """
    ordered = tuple(sorted(utterances, key=lambda u: u.id))
    occurring = {u.emotion for u in ordered}
    return Corpus(name, ordered, tuple(e for e in emotions if e in occurring), tuple(warnings))


def counted(names: Sequence[str]) -> str:
    """Summarise file names in one line: how many there are, and the first few."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    shown = ", ".join(names[:NAMED_AT_MOST])
    return f"{len(names)} {'file' if len(names) == 1 else 'files'} ({shown}{more})"


def name_few(what: str, names: Sequence[str]) -> list[str]:
    """Make one warning with the number of names and the first few; none if there are no names.

    Args:
        what: what the names have in common.
        names: the names.
    """
    if not names:
        return []
    more = f"; and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return [f"{what} ({len(names)}): {'; '.join(names[:NAMED_AT_MOST])}{more}"]


def name_not_read(paths: Sequence[PurePath]) -> list[str]:
    """Make one warning about files in formats that are not read; none if there are no files."""
    if not paths:
        return []
    kinds = Counter(path.suffix.lower() or "no ending" for path in paths)
    each = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return [
        f"left out, of formats that are not read ({each}; convert them to WAV or FLAC, unpack archives): "
        f"{counted(sorted(map(str, paths)))}"
    ]


def files(root: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder that have certain extensions, in no particular order.

    Hidden files and remains of archives (``._x.wav``, ``__MACOSX``) are ignored. Links are followed, each
    folder is entered once.

    Args:
        root: the folder.
        endings: extensions in lower case; files may have them in any case.

    Raises:
        BadInput: ``root`` is not a folder, or a folder cannot be read.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: is not a folder")

    def refuse(error: OSError) -> None:
        # Continuing would silently train on a part of the corpus.
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror})") from error

    entered: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:
            below.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below[:] = sorted(b for b in below if not b.startswith(".") and b != "__MACOSX")
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in endings:
                yield Path(folder, name)


def _files_in(root: Path) -> list[tuple[PurePosixPath, AudioFile]]:
    """List the files of a folder or zip file, each with its path inside."""
    endings = (*ENDINGS, *NOT_READ, "")
    if is_zip(root):
        found = [(_readable(member.name.replace("\\", "/")), member) for member in members(root)]
        return [(path, member) for path, member in found if _is_seen(path, endings)]
    return [(_readable(path.relative_to(root).as_posix()), path) for path in files(root, endings)]


def _is_seen(path: PurePosixPath, endings: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in endings


def _readable(inside: str) -> PurePosixPath:
    # NFC: macOS stores names decomposed. A name that is not UTF-8 would break every log.
    return PurePosixPath(unicodedata.normalize("NFC", os.fsencode(inside).decode("utf-8", "replace")))


def _preference(found: tuple[PurePosixPath, AudioFile]) -> tuple[int, int, str]:
    inside, _ = found
    ending = inside.suffix.lower()
    order = ENDINGS.index(ending) if ending in ENDINGS else len(ENDINGS)
    return order, len(inside.parts), inside.as_posix()
