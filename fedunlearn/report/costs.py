"""What unlearning cost: by phase, by role, and as a share of retraining."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedunlearn.report.figures.style import NARROW, PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.gaps import write_beside
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, count, duration, significant, size
from fedunlearn.results_schema import PhaseCostRow, Results, RoleCostRow

PHASES = (
    ("learn", "Learn"),
    ("listen", "Listen"),
    ("unlearn", "Unlearn"),
    ("recover", "Recover"),
    ("retrain", "Retrain"),
)
BARS = (
    ("unlearn", ("unlearn",), "orange"),
    ("unlearn + recover", ("unlearn", "recover"), "blue"),
    ("retrain", ("retrain",), "green"),
)
NumberFormat = Callable[[float | None], str]


@dataclass(frozen=True)
class Quantity:
    """A column of the cost table.

    Attributes:
        head: of the column.
        write: writes its values.
        of_phase: takes it from the cost of a phase.
        of_role: takes it from the cost of a role in a phase.
    """

    head: str
    write: NumberFormat
    of_phase: Callable[[PhaseCostRow], float | None]
    of_role: Callable[[RoleCostRow], float | None] = lambda cost: None


CLIENT_TIME = Quantity("client time", duration, lambda c: c.client_seconds, lambda c: c.client_seconds)
SENT_UP = Quantity("sent up", size, lambda c: c.bytes_up, lambda c: c.bytes_up)
SENT_DOWN = Quantity("sent down", size, lambda c: c.bytes_down, lambda c: c.bytes_down)
STORED = Quantity("stored", size, lambda c: c.bytes_stored)
NOTED = Quantity("tickets", size, lambda c: c.bytes_noted)
QUANTITIES = (
    Quantity("rounds", count, lambda c: c.rounds),
    CLIENT_TIME,
    Quantity("wall time", duration, lambda c: c.wall_seconds),
    SENT_UP,
    SENT_DOWN,
    STORED,
    NOTED,
)


def phase_cost(results: Results, phase: str) -> PhaseCostRow:
    """The cost of a phase; empty where unknown."""
    return results.cost.get(phase, PhaseCostRow.empty())


def cost_table(results: Results) -> Table:
    """Costs by phase, those of requesters and of others below, then the share of retraining."""
    listed = [(n, head) for n, head in PHASES if n != "listen" or n in results.cost]
    some = {q for q in (STORED, NOTED) if any(q.of_phase(phase_cost(results, n)) for n, _ in PHASES)}
    shown = [quantity for quantity in QUANTITIES if quantity not in (STORED, NOTED) or quantity in some]
    rows = []
    for name, head in listed:
        cost = phase_cost(results, name)
        cells = tuple(Cell(quantity.write(quantity.of_phase(cost))) for quantity in shown)
        rows += [Row(head, "", cells, "cost"), *_role_rows(cost, shown)]
    shares = []
    for quantity in shown:
        whole = quantity.of_phase(phase_cost(results, "retrain"))
        part = total_cost(results, ("unlearn", "recover"), (quantity,))
        share = 100 * part / whole if whole and part is not None else None
        shares.append(Cell(MISSING if share is None else f"{significant(share)}%"))
    rows.append(Row("Unlearn + recover", "share of retraining", tuple(shares), "cost", total=True))
    return Table((Column("phase"), *(Column(quantity.head) for quantity in shown)), tuple(rows))


def _role_rows(cost: PhaseCostRow, shown: Sequence[Quantity]) -> list[Row]:
    """Requesters and others; nothing where no requester took part."""
    roles = cost.roles
    if not any(quantity.of_role(roles.requesters) for quantity in shown):
        return []
    rows = []
    for name, role in (("requesters", roles.requesters), ("others", roles.others)):
        values = ((quantity, quantity.of_role(role)) for quantity in shown)
        cells = (Cell("" if value is None else quantity.write(value)) for quantity, value in values)
        rows.append(Row("", name, tuple(cells)))
    return rows


def total_cost(results: Results, phases: Sequence[str], quantities: Sequence[Quantity]) -> float | None:
    """The sum over phases and quantities; None where one is missing."""
    parts = [quantity.of_phase(phase_cost(results, name)) for name in phases for quantity in quantities]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def cost_bars(results: Results) -> FigureSpec | None:
    """Client-seconds and traffic of unlearning, with recovery, and of retraining; log scales."""
    if not any(total_cost(results, phases, (CLIENT_TIME,)) for _, phases, _ in BARS):
        return None
    return FigureSpec(
        "cost",
        "Cost of unlearning and recovery against retraining",
        lambda width: _bars(results, width),
    )


def _bars(results: Results, width: int) -> Figure:
    measures: tuple[tuple[str, tuple[Quantity, ...], NumberFormat, Callable[[float], str]], ...] = (
        ("client time", (CLIENT_TIME,), duration, lambda x: f"{x:,g} s"),
        ("sent up and down", (SENT_UP, SENT_DOWN), size, size),
    )
    stacked = width == NARROW
    figure = new_figure(width, 240 if stacked else 140)
    panels = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    for axes, (title, quantities, write, tick) in zip(panels, measures, strict=True):
        despine(axes, grid="x")
        totals = [total_cost(results, phases, quantities) for _, phases, _ in BARS]
        known = [value for value in totals if value]
        low = 10 ** math.floor(math.log10(min(known)) - 0.3) if known else 0.1
        high = max(known, default=1.0)
        for y, ((_, _, colour), value) in enumerate(zip(BARS, totals, strict=True)):
            axes.barh(y, value or low, 0.66, color=PALETTE[colour])
            write_beside(axes, write(value), value or low, y)
        axes.set_xscale("log")
        axes.set_xlim(low, high * (high / low) ** 0.2)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _, tick=tick: _shorten(tick(x))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(BARS)), [text for text, _, _ in BARS])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(BARS) - 0.5, -0.5)
        axes.set_title(title, loc="left", fontsize=11, color=PALETTE["muted"])
    return figure


def _shorten(text: str) -> str:
    digits, _, unit = text.partition(" ")
    return f"{float(digits.replace(',', '')):g} {unit}" if digits else text
