"""The four models side by side: every measure with its 95 % interval, as a table and as a figure."""

from collections.abc import Callable
from dataclasses import dataclass

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
from fedunlearn.report.values import MISSING, Interval, bracketed, count, fraction, interval, signed
from fedunlearn.results_schema import ModelScores, Results


@dataclass(frozen=True)
class Measure:
    """A measure of a model.

    Attributes:
        label: what it is called.
        word: the entry of the glossary that explains it.
        value: takes it from a model's scores.
        interval: takes its interval.
        n: takes the number of utterances that it is of.
        always: whether it has a row even where no model has it.
    """

    label: str
    word: str
    value: Callable[[ModelScores], float | None]
    interval: Callable[[ModelScores], Interval | None]
    n: Callable[[ModelScores], int | None]
    always: bool = True


MEASURES = (
    Measure("Test UAR", "uar", lambda m: m.test.uar, lambda m: m.test.uar_interval, lambda m: m.test.n),
    Measure(
        "Test accuracy (WA)",
        "wa",
        lambda m: m.test.accuracy,
        lambda m: m.test.accuracy_interval,
        lambda m: m.test.n,
    ),
    Measure(
        "Test macro F1",
        "f1",
        lambda m: m.test.macro_f1,
        lambda m: None,
        lambda m: m.test.n,
        always=False,
    ),
    Measure(
        "Unseen-speaker UAR",
        "uar",
        lambda m: m.unseen.uar,
        lambda m: m.unseen.uar_interval,
        lambda m: m.unseen.n,
    ),
    Measure(
        "Unseen-speaker accuracy (WA)",
        "wa",
        lambda m: m.unseen.accuracy,
        lambda m: m.unseen.accuracy_interval,
        lambda m: m.unseen.n,
        always=False,
    ),
    Measure(
        "Unseen-speaker macro F1",
        "f1",
        lambda m: m.unseen.macro_f1,
        lambda m: None,
        lambda m: m.unseen.n,
        always=False,
    ),
    Measure(
        "Retain accuracy",
        "accuracy",
        lambda m: m.retain.accuracy,
        lambda m: m.retain.accuracy_interval,
        lambda m: m.retain.n,
    ),
    Measure(
        "Forget accuracy",
        "accuracy",
        lambda m: m.forget.accuracy,
        lambda m: m.forget.accuracy_interval,
        lambda m: m.forget.n,
    ),
    Measure(
        "Membership AUC",
        "membership",
        lambda m: m.membership.auc,
        lambda m: interval(m.membership),
        lambda m: m.membership.n,
    ),
    Measure(
        "Membership AUC, same speaker",
        "same-speaker",
        lambda m: m.membership_same_speaker.auc,
        lambda m: interval(m.membership_same_speaker),
        lambda m: m.membership_same_speaker.n,
        always=False,
    ),
)
MARKS = {"original": "s", "unlearned": "D", "recovered": "o", "retrained": "^"}
KINDS = {"s": "mark square", "D": "mark diamond", "o": "mark round", "^": "mark up"}


def models_table(results: Results) -> Table:
    """Measures by models, the retrained model last as the reference.

    Small print: the 95 % interval, then the difference to the retrained model; for that one the range of its
    seeds. Some measures are left out where no model has them.
    """
    rows = [_measure_row(results, m) for m in MEASURES if m.always or _is_known(results, m)]
    gap = results.gap
    cells = [
        Cell(fraction(part.mean), bracketed(interval(part), 3))
        for part in (gap.none, gap.unlearned, gap.recovered)
    ]
    floor = fraction(gap.noise_floor.mean)
    cells.append(Cell(floor, "noise floor" if floor != MISSING else "no noise floor", reference=True))
    columns = (Column("measure"), *(Column(m, m, model=m, reference=m == "retrained") for m in MODELS))
    return Table(columns, (*rows, Row("Mean gap", "to retrained", tuple(cells), "gap", total=True)))


def _is_known(results: Results, measure: Measure) -> bool:
    return any(measure.value(results.models[name]) is not None for name in MODELS)


def _measure_row(results: Results, measure: Measure) -> Row:
    reference = measure.value(results.models.retrained)
    cells = []
    for name in MODELS:
        scores = results.models[name]
        value = measure.value(scores)
        notes = [bracketed(measure.interval(scores))]
        if name == "retrained":
            seeds = seed_range(results, measure)
            notes.append(f"{seeds[0]:.3f}–{seeds[1]:.3f}" if seeds else "")
        elif value is not None and reference is not None:
            notes.append(signed(value - reference))
        note = "\n".join(filter(None, notes))
        cells.append(Cell(fraction(value), note, reference=name == "retrained"))
    sizes = {measure.n(results.models[name]) for name in MODELS} - {None}
    note = f"n = {count(sizes.pop())}" if len(sizes) == 1 else ""
    return Row(measure.label, note, tuple(cells), measure.word)


def seed_range(results: Results, measure: Measure) -> Interval | None:
    """The lowest and the highest of the retrained seeds; None with fewer than two."""
    seeds = [measure.value(scores) for scores in results.models.retrained.seeds]
    known = [value for value in seeds if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def model_dots(results: Results) -> FigureSpec | None:
    """The same as dots with their intervals, the range of the retrained seeds as a band behind them."""
    shown = [measure for measure in MEASURES if _is_known(results, measure)]
    if not shown:
        return None
    key: list[LegendEntry] = [(KINDS[MARKS[name]], OF_MODEL[name], name) for name in MODELS]
    key.append(("bar lying", "ink", "95% interval"))
    if any(seed_range(results, measure) for measure in shown):
        key.append(("patch pale", "green", "range of the retrained seeds"))
    return FigureSpec(
        "models",
        "Each measure of the four models with its 95% interval",
        lambda width: _dots(results, shown, width),
        key=tuple(key),
    )


def _dots(results: Results, shown: list[Measure], width: int) -> Figure:
    figure = new_figure(width, 46 + 58 * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    for y, measure in enumerate(shown):
        seeds = seed_range(results, measure)
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
            value = measure.value(results.models[name])
            if value is None:
                continue
            row, colour = y + 0.2 * (i - 1.5), PALETTE[OF_MODEL[name]]
            spread = measure.interval(results.models[name])
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
