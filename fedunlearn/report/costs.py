"""What it cost: by phase, by who paid, and against retraining."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedunlearn.report.figures.style import NARROW, PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.gaps import beside
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, at, count, duration, number_at, significant, size

PHASES: tuple[tuple[str, str], ...] = (
    ("learn", "Learn"),
    ("listen", "Listen"),
    ("unlearn", "Unlearn"),
    ("recover", "Recover"),
    ("retrain", "Retrain"),
)
COLUMNS = ("rounds", "client_seconds", "wall_seconds", "bytes_up", "bytes_down", "bytes_stored")
HEADS = ("phase", "rounds", "client time", "wall time", "sent up", "sent down", "stored")
LINES = (
    ("unlearn", ("unlearn",), "orange"),
    ("unlearn + recover", ("unlearn", "recover"), "blue"),
    ("retrain", ("retrain",), "green"),
)


def cost_table(results: Mapping[str, Any]) -> Table:
    """Costs by phase, the requesters' part and everybody else's below, then the share of retraining."""
    listed = [(n, head) for n, head in PHASES if n != "listen" or at(results, "cost", n) is not None]
    columns = [c for c in COLUMNS if c != "bytes_stored" or _stored(results)]
    lines = []
    for name, head in listed:
        cost = at(results, "cost", name)
        lines.append(Row(head, "", tuple(Cell(_written(cost, column)) for column in columns), "cost"))
        lines += _roles(cost, columns)
    shares = []
    for column in columns:
        whole = number_at(results, "cost", "retrain", column)
        part = total(results, ("unlearn", "recover"), (column,))
        share = 100 * part / whole if whole and part is not None else None
        shares.append(Cell(MISSING if share is None else f"{significant(share)}%"))
    lines.append(Row("Unlearn + recover", "share of retraining", tuple(shares), "cost", total=True))
    heads = (
        Column(head) for head, column in zip(HEADS, ("", *COLUMNS), strict=True) if column in ("", *columns)
    )
    return Table(tuple(heads), tuple(lines))


def _stored(results: Mapping[str, Any]) -> bool:
    return any(number_at(results, "cost", name, "bytes_stored") for name, _ in PHASES)


def _roles(cost: Any, columns: list[str]) -> list[Row]:
    """Who asked, and who only helped; nothing where nobody who asked took part."""
    if not any(number_at(cost, "roles", "requesters", column) for column in columns):
        return []
    return [
        Row("", role, tuple(Cell(_written(at(cost, "roles", role), column, "")) for column in columns))
        for role in ("requesters", "others")
    ]


def _written(cost: Any, column: str, missing: str = MISSING) -> str:
    value = at(cost, column)
    if value is None:
        return missing
    return (duration if column.endswith("seconds") else size if column.startswith("bytes") else count)(value)


def cost_bars(results: Mapping[str, Any]) -> FigureSpec | None:
    """Client-seconds and traffic of unlearning, with recovery, and of retraining; log scales."""
    if not any(total(results, names, ("client_seconds",)) for _, names, _ in LINES):
        return None
    return FigureSpec(
        "cost",
        "Cost of unlearning and recovery against retraining",
        lambda width: _bars(results, width),
    )


def _bars(results: Mapping[str, Any], width: int) -> Figure:
    measures = (
        ("client time", ("client_seconds",), duration, lambda x: f"{x:,g} s"),
        ("sent up and down", ("bytes_up", "bytes_down"), size, size),
    )
    stacked = width == NARROW
    figure = new_figure(width, 240 if stacked else 140)
    panels = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    for axes, (title, columns, write, tick) in zip(panels, measures, strict=True):
        despine(axes, grid="x")
        totals = [total(results, names, columns) for _, names, _ in LINES]
        known = [value for value in totals if value]
        low = 10 ** math.floor(math.log10(min(known)) - 0.3) if known else 0.1
        high = max(known, default=1.0)
        for y, ((_, _, colour), value) in enumerate(zip(LINES, totals, strict=True)):
            axes.barh(y, value or low, 0.66, color=PALETTE[colour])
            beside(axes, MISSING if value is None else write(value), value or low, y)
        axes.set_xscale("log")
        axes.set_xlim(low, high * (high / low) ** 0.2)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _, tick=tick: _brief(tick(x))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(LINES)), [text for text, _, _ in LINES])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(LINES) - 0.5, -0.5)
        axes.set_title(title, loc="left", fontsize=11, color=PALETTE["muted"])
    return figure


def total(results: Mapping[str, Any], names: tuple[str, ...], columns: tuple[str, ...]) -> float | None:
    """The sum over phases and columns; None where one is missing."""
    parts = [number_at(results, "cost", name, column) for name in names for column in columns]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _brief(text: str) -> str:
    digits, _, unit = text.partition(" ")
    return f"{float(digits.replace(',', '')):g} {unit}" if digits else text
