"""What the readers of real corpora share: walk a folder, let file names say who speaks and how.

Downloads are messy. Folders may be nested, flat, linked or sorted by emotion; endings may be upper-case; the
same recording may lie in two places. A reader gives a ``Scheme``; everything else is done here, and nothing
is decoded yet.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from fedunlearn import audio
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

# In order of preference, where one recording lies there in several formats (CREMA-D ships WAV and MP3).
# Video is looked at only to be counted as skipped.
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
"""Endings of sound, of archives not unpacked and of downloads not finished: counted, never read."""
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Label:
    """What a name says about one recording.

    Attributes:
        speaker, emotion, gender, text: as in ``Utterance``.
        key: the same for two copies of one recording; empty = the file's stem.
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
        what: such as "song recordings"; files are counted under it. Empty = not worth a word.
    """

    what: str


@dataclass(frozen=True)
class Scheme:
    """How one corpus names its files.

    Attributes:
        name: the reader's name.
        expected: such names, for a user whose folder holds none.
        emotions: every emotion, in the order of the model's classes.
        parse: a path relative to the corpus folder, its last part without ending (NFC), to what it says;
            None = not a name of this corpus.
    """

    name: str
    expected: str
    emotions: tuple[str, ...]
    parse: Callable[[PurePosixPath], Label | Skip | None]


def read(root: Path, scheme: Scheme) -> Corpus:
    """All recordings under ``root`` that ``scheme`` recognises.

    A recording found twice (the same name in two folders) is read once: uncompressed before compressed, then
    the one nearest to ``root``, then the first by name. Ids are paths relative to ``root`` without ending.

    Raises:
        BadInput: no such folder, an unreadable folder in it, or no recognised file in it.
    """
    found: dict[str, Utterance] = {}
    strays: list[str] = []
    skipped: Counter[str] = Counter()
    copies: list[str] = []
    not_read: list[PurePosixPath] = []
    for path in sorted(files(root, (*ENDINGS, *NOT_READ, "")), key=partial(_preference, root)):
        inside = _inside(root, path)
        label = scheme.parse(inside.with_suffix(""))
        readable = inside.suffix.lower() in ENDINGS
        if label is None:
            if readable:
                strays.append(str(inside))
            elif inside.suffix:  # a name without an ending is most often a README
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
                pcm=partial(audio.decode, path),
                gender=label.gender,
                text=label.text,
                path=path,
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
    """A corpus in order: utterances by id; of ``emotions``, in their order, those that occur."""
    ordered = tuple(sorted(utterances, key=lambda u: u.id))
    occurring = {u.emotion for u in ordered}
    return Corpus(name, ordered, tuple(e for e in emotions if e in occurring), tuple(warnings))


def counted(names: Sequence[str]) -> str:
    """Names in one line: how many, and the first few."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    shown = ", ".join(names[:NAMED_AT_MOST])
    return f"{len(names)} {'file' if len(names) == 1 else 'files'} ({shown}{more})"


def name_few(what: str, names: Sequence[str]) -> list[str]:
    """One warning that says how many there are and names the first few; none where there are none."""
    if not names:
        return []
    more = f"; and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return [f"{what} ({len(names)}): {'; '.join(names[:NAMED_AT_MOST])}{more}"]


def name_not_read(paths: Sequence[PurePath]) -> list[str]:
    """One warning about files whose formats are not read; none where there are none."""
    if not paths:
        return []
    kinds = Counter(path.suffix.lower() or "no ending" for path in paths)
    each = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return [
        f"left out, of formats that are not read ({each}; convert them to WAV or FLAC, unpack archives): "
        f"{counted(sorted(map(str, paths)))}"
    ]


def files(root: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Files below ``root`` with one of the (lower-case) endings, in any case and no particular order.

    Hidden files and what archives leave behind (``._x.wav``, ``__MACOSX``) are passed over. Links are
    followed, into each folder once.

    Raises:
        BadInput: ``root`` is not a folder, or a folder cannot be read.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: is not a folder")

    def refuse(error: OSError) -> None:
        # Going on would silently train on a part of the corpus.
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


def _inside(root: Path, path: Path) -> PurePosixPath:
    # NFC: the same name comes decomposed from macOS. A name that is not UTF-8 would break every log.
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
    return PurePosixPath(unicodedata.normalize("NFC", name))


def _preference(root: Path, path: Path) -> tuple[int, int, str]:
    inside = path.relative_to(root)
    ending = path.suffix.lower()
    order = ENDINGS.index(ending) if ending in ENDINGS else len(ENDINGS)
    return order, len(inside.parts), inside.as_posix()
