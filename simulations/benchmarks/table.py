"""The benchmark's table: each row is a figure, its target, and whether the target is met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        part: part of the benchmark that it belongs to.
        what: what is measured.
        value: the figure; None = not measured here.
        target: ("<=" | ">=", limit); None = no target.
        note: the numbers that the figure was computed from.
    """

    part: str
    what: str
    value: float | None
    target: tuple[str, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a measurement."""
        if self.value is None or self.target is None:
            return None
        sign, limit = self.target
        return self.value <= limit if sign == "<=" else self.value >= limit

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {**vars(self), "met": self.met}


def table_of(rows: Sequence[Row], machine: Mapping[str, Any]) -> Table:
    """Format the rows for a terminal."""
    table = Table(title=f"{machine['name']}, {machine['cores']} cores, torch {machine['torch']}")
    for name, justify in (
        ("", "left"),
        ("figure", "right"),
        ("target", "right"),
        ("", "left"),
        ("of", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    part = ""
    for row in rows:
        if row.part != part:
            table.add_section()
            table.add_row(Text(row.part, "bold"))
            part = row.part
        value = (
            "-" if row.value is None else f"{row.value:.3g}" if abs(row.value) < 1000 else f"{row.value:,.0f}"
        )
        target = "" if row.target is None else f"{row.target[0]} {row.target[1]:g}"
        verdict = {None: Text(), True: Text("met", "green"), False: Text("missed", "red")}[row.met]
        table.add_row(f"  {row.what}", value, target, verdict, row.note)
    return table
