"""Files and folders that a user names: lookups, reading text, and the refusal to write into a corpus."""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedunlearn.errors import BadInput

T = TypeVar("T")

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""byte-order mark -> encoding; UTF-32 first, since its mark begins with that of UTF-16"""


def looked_up(path: Path | str, look: Callable[[], T]) -> T:
    """Look something up about a path, such as whether it exists.

    Args:
        path: as the user gave it, for the message.
        look: asks the file system.

    Raises:
        BadInput: the file system cannot tell: the name is too long, or a folder on the way is not readable.
    """
    try:
        return look()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RuntimeError, ValueError) as error:  # a cycle of links, an unknown ~user, a null character
        raise BadInput(f"{path}: is no path that can be read ({error})") from error


def read_text(file: Path, what: str = "", kind: str = "") -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Args:
        file: to be read.
        what: the setting that names it, for the message.
        kind: what it should be, for the message.

    Raises:
        BadInput: it cannot be read, or is in another encoding.
    """
    place = f"{what}: {file}" if what else str(file)
    is_not = f"is not {kind}: " if kind else ""
    content = looked_up(place, file.read_bytes)
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise BadInput(f"{place}: {is_not}is {encoding}; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        why = f"{error.reason} at byte {error.start}, line {line}"
        raise BadInput(f"{place}: {is_not}is not UTF-8 ({why}); save it as UTF-8") from error


def refuse_inside_corpus(option: str, path: Path, corpus: Path | str | None) -> None:
    """Refuse to write a file or folder inside the user's corpus.

    Args:
        option: that names the path, such as "--out", for the message.
        path: to be written.
        corpus: folder or file as the user gave it. A manifest stands for the folder that it is in, a zip
            file for itself. Empty or None = generated speech, which has no folder.

    Raises:
        BadInput: the path lies inside the corpus, or cannot be looked up.
    """
    if not corpus:
        return
    speech = looked_up(corpus, lambda: Path(corpus).expanduser().resolve())
    alone = speech.suffix.lower() == ".zip"
    folder = speech.parent if not alone and looked_up(corpus, speech.is_file) else speech
    if looked_up(f"{option} {path}", path.resolve).is_relative_to(folder):
        raise BadInput(
            f"{option} {path}: lies inside the corpus {corpus}, which is never written; name another"
        )
