"""Files and folders that a user names: whether they are there, and the text in them."""

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
"""what a file begins with -> its encoding; UTF-32 first, whose mark begins with that of UTF-16"""


def looked_up(path: Path | str, look: Callable[[], T]) -> T:
    """What can be found out about a path, such as whether it is there.

    Args:
        path: as the user gave it.
        look: asks the file system.

    Raises:
        BadInput: it cannot be asked about: the name is too long, or a folder on the way is closed.
    """
    try:
        return look()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RuntimeError, ValueError) as error:  # links in a circle, a ~name of nobody, a zero in the name
        raise BadInput(f"{path}: is no path that can be read ({error})") from error


def read_text(file: Path, what: str = "", kind: str = "") -> str:
    """A text file in UTF-8, with or without the mark that some editors put at its beginning.

    Args:
        file: to be read.
        what: the setting that names it, and kind: what it should be, for the message.

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
