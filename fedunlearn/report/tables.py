"""A table as data, the same for every page and file: columns, rows of ready-made text, groups."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: a number or words, ready to be shown.
        note: lines of small print under it.
        reference: whether it is what others are read against.
    """

    text: str
    note: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table; without cells it is the heading of the rows below it.

    Attributes:
        head: the cell at its left.
        note: small print under the head.
        cells: the others, one for each column after the first.
        word: the entry of the glossary that explains the head; empty where there is none.
        total: whether it sums up the rows above.
        reference: whether it is what others are read against.
    """

    head: str
    note: str = ""
    cells: tuple[Cell, ...] = ()
    word: str = ""
    total: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        text: what stands there.
        word: the entry of the glossary that explains it; empty where there is none.
        model: the model whose colour it has; empty where there is none.
        reference: whether it is what others are read against.
        left: whether its cells are words, which Markdown and LaTeX align to the left.
    """

    text: str
    word: str = ""
    model: str = ""
    reference: bool = False
    left: bool = False


@dataclass(frozen=True)
class Table:
    """A table, ready to be written as HTML, Markdown or LaTeX.

    Attributes:
        columns: heads of the columns, that of the row heads first.
        rows: its rows, headings of groups included.
        title: one line above it; empty on pages, where a section has one.
        caption: what its marks mean.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    caption: str = ""
