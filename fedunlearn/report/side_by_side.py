"""The four models side by side: every measure with its 95 % interval, as a table and as a figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedunlearn.report.figures.style import (
    NARROW,
    OF_MODEL,
    PALETTE,
    FigureSpec,
    LegendEntry,
    despine,
    new_figure,
)
from fedunlearn.report.names import MODELS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import (
    MISSING,
    at,
    between,
    count,
    fraction,
    interval_at,
    noise_floor,
    number_at,
    rows,
    signed,
)


@dataclass(frozen=True)
class Measure:
    """Where a measure stands in a model's record, where its interval does, and the word that explains it."""

    label: str
    path: tuple[str, str]
    interval: tuple[str, ...]
    word: str


MEASURES = (
    Measure("Test UAR", ("test", "uar"), ("test", "uar_interval"), "uar"),
    Measure("Test accuracy", ("test", "accuracy"), ("test", "accuracy_interval"), "test"),
    Measure("Unseen-speaker UAR", ("unseen", "uar"), ("unseen", "uar_interval"), "uar"),
    Measure("Unseen-speaker accuracy", ("unseen", "accuracy"), ("unseen", "accuracy_interval"), "test"),
    Measure("Retain accuracy", ("retain", "accuracy"), ("retain", "accuracy_interval"), "accuracy"),
    Measure("Forget accuracy", ("forget", "accuracy"), ("forget", "accuracy_interval"), "accuracy"),
    Measure("Membership AUC", ("membership", "auc"), ("membership",), "membership"),
    Measure(
        "Membership AUC, same speaker",
        ("membership_same_speaker", "auc"),
        ("membership_same_speaker",),
        "same-speaker",
    ),
)
MARKS = {"original": "s", "unlearned": "D", "recovered": "o", "retrained": "^"}
KINDS = {"s": "mark square", "D": "mark diamond", "o": "mark round", "^": "mark up"}


def models_table(results: Mapping[str, Any]) -> Table:
    """Measures by models, the retrained model last as the reference.

    Small print: the 95 % interval, then the difference to the retrained model; for that one the range of its
    seeds. Measures that no model has are left out.
    """
    table = [_measure_row(results, measure) for measure in MEASURES if _there(results, measure)]
    gaps = (("none", "original"), ("unlearned", "unlearned"), ("recovered", "recovered"))
    cells = [
        Cell(fraction(at(results, "gap", name, "mean")), between(interval_at(results, "gap", name), 3))
        for name, _ in gaps
    ]
    floor = fraction(noise_floor(results, "mean"))
    cells.append(Cell(floor, "noise floor" if floor != MISSING else "no noise floor", reference=True))
    columns = (Column("measure"), *(Column(m, m, model=m, reference=m == "retrained") for m in MODELS))
    return Table(columns, (*table, Row("Mean gap", "to retrained", tuple(cells), "gap", total=True)))


def _there(results: Mapping[str, Any], measure: Measure) -> bool:
    old = measure.path[0] != "membership_same_speaker" and measure.label != "Unseen-speaker accuracy"
    return old or any(number_at(results, "models", name, *measure.path) is not None for name in MODELS)


def _measure_row(results: Mapping[str, Any], measure: Measure) -> Row:
    part = measure.path[0]
    reference = number_at(results, "models", "retrained", *measure.path)
    cells = []
    for name in MODELS:
        value = number_at(results, "models", name, *measure.path)
        notes = [between(interval_at(results, "models", name, *measure.interval))]
        if name == "retrained":
            seeds = seed_range(results, measure.path)
            notes.append(f"{seeds[0]:.3f}–{seeds[1]:.3f}" if seeds else "")
        elif value is not None and reference is not None:
            notes.append(signed(value - reference))
        note = "\n".join(n for n in notes if n)
        cells.append(Cell(fraction(value), note, reference=name == "retrained"))
    sizes = {number_at(results, "models", name, part, "n") for name in MODELS} - {None}
    note = f"n = {count(sizes.pop())}" if len(sizes) == 1 else ""
    return Row(measure.label, note, tuple(cells), measure.word)


def seed_range(results: Mapping[str, Any], path: tuple[str, str]) -> tuple[float, float] | None:
    """The lowest and the highest of the retrained seeds; None with fewer than two."""
    seeds = [number_at(record, *path) for record in rows(at(results, "models", "retrained", "seeds"))]
    known = [value for value in seeds if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def model_dots(results: Mapping[str, Any]) -> FigureSpec | None:
    """The same as dots with their intervals, the range of the retrained seeds as a band behind them."""
    shown = [m for m in MEASURES if any(number_at(results, "models", n, *m.path) is not None for n in MODELS)]
    if not shown:
        return None
    key: list[LegendEntry] = [(KINDS[MARKS[name]], OF_MODEL[name], name) for name in MODELS]
    key.append(("bar lying", "ink", "95% interval"))
    if any(seed_range(results, measure.path) for measure in shown):
        key.append(("patch pale", "green", "range of the retrained seeds"))
    return FigureSpec(
        "models",
        "Each measure of the four models with its 95% interval",
        lambda width: _dots(results, shown, width),
        key=tuple(key),
    )


def _dots(results: Mapping[str, Any], shown: list[Measure], width: int) -> Figure:
    figure = new_figure(width, 46 + 58 * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    for y, measure in enumerate(shown):
        seeds = seed_range(results, measure.path)
        if seeds:
            axes.barh(
                y,
                max(seeds[1] - seeds[0], 0.002),
                0.9,
                left=seeds[0],
                color=PALETTE["green"],
                alpha=0.3,
                linewidth=0,
            )
        for i, name in enumerate(MODELS):
            value = number_at(results, "models", name, *measure.path)
            if value is None:
                continue
            row, colour = y + 0.2 * (i - 1.5), PALETTE[OF_MODEL[name]]
            spread = interval_at(results, "models", name, *measure.interval)
            if spread:
                axes.hlines(row, *spread, color=colour, linewidth=1.6)
            axes.plot(value, row, MARKS[name], color=colour, markersize=6, markeredgewidth=0)
    labels = [measure.label for measure in shown]
    if width <= NARROW:
        labels = [text.replace("-speaker", "").replace(", ", ",\n").replace(" ", "\n", 1) for text in labels]
    axes.set_yticks(range(len(shown)), labels)
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    for y in range(1, len(shown)):
        axes.axhline(y - 0.5, color=PALETTE["grid"], linewidth=0.8)
    axes.set_xlim(-0.01, 1.01)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    return figure
