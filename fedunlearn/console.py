"""Printing: strings are shown literally, and a closed output does not end the program.

Paths, ids, names and messages come from outside. They are never interpreted as markup or sent to the terminal
as control sequences, and characters that the stream's encoding lacks are written as escapes.
"""

import errno
import sys
import unicodedata
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fedunlearn.streams import give_up

_SHOWN_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories: control and format characters (also those that change the direction of writing),
surrogates (bytes of a name that is not UTF-8), private ones, separators of lines and paragraphs"""
_JOINERS = {"\u200c", "\u200d", "\u00ad"}
"""format characters that ordinary words and emoji are written with"""
_WIDEST = 10_000


def visible(text: str, keep: str = "") -> str:
    """Write every invisible character of a text as an escape, such as ``\\x1b``.

    Args:
        text: any text.
        keep: characters that stay as they are.
    """
    return text if text.isprintable() else "".join(_shown(character, keep) for character in text)


def _shown(character: str, keep: str) -> str:
    hidden = unicodedata.category(character) in _SHOWN_ESCAPED and character not in _JOINERS
    if not hidden or character in keep:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def plain(text: str) -> str:
    """Put a message into one line, with invisible characters as escapes."""
    return visible(" ".join(text.split()))


class Screen(Console):
    """A rich console for strings from outside.

    Args:
        stderr: standard error instead of standard output.
        options: of rich's console.
    """

    def __init__(self, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False, **options)

    @property
    def file(self) -> IO[str]:
        """The output stream; errors in writing to it are not raised."""
        return cast(IO[str], _Sturdy(cast(TextIO, super().file)))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text without interpreting markup."""
        return super().render_str(visible(text, "\n"), **(options | {"markup": False, "emoji": False}))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with control characters of any text as escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, "\n"))

    def tell(self, text: str) -> None:
        """Print one line without wrapping it."""
        self.print(Text(visible(text)), soft_wrap=True)

    def labelled(self, label: str, style: str, text: str) -> None:
        """Print one line that begins with a coloured word."""
        self.print(Text.assemble((label, style), " ", plain(text)), soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table without cutting it; into a pipe or file, as wide as it needs to be."""
        for column in table.columns:
            column.overflow = "fold"
        if not self.is_terminal:
            wide = self.options.update(max_width=_WIDEST)
            self.width = max(self.width, Measurement.get(self, wide, table).maximum)
        self.print(table, crop=False)


class _Sturdy:
    """A stream whose first failure to write is reported on standard error, and has no other effect."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        try:
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        give_up(self._stream)
        gone = isinstance(error, OSError) and error.errno in {errno.EPIPE, errno.EIO}
        if self._stream is sys.stdout and not gone:
            warn(f"standard output cannot be written ({error}); what was to be shown there is lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


errors = Screen(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """Print one line on standard output."""
    Screen().tell(text)


def warn(text: str) -> None:
    """Print a warning on standard error; the command goes on."""
    errors.labelled("warning:", "yellow", text)
