"""Distance to the retrained models: beside the controls, and beside their distance to each other."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import OF_MODEL, PALETTE, FigureSpec, LegendEntry, despine, new_figure
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, bracketed, fraction, interval, plain, significant
from fedunlearn.results_schema import CONTROLS, RANDOM_WEIGHTS, Gap, Results

NAMES = {"recovered": "recovered", "unlearned": "unlearned"} | {name: c.words for name, c in CONTROLS.items()}
"""fields of the gaps in the results, and what they are called on the page"""
BARS = (*CONTROLS, "unlearned", "recovered")
_COLOURS = {name: name for name in BARS} | {name: c.model for name, c in CONTROLS.items()}
"""field -> the model whose colour it has: doing nothing leaves the original"""
MEASURES: tuple[tuple[str, str, Callable[[Gap], float | None]], ...] = (
    ("mean", "gap", lambda gap: gap.mean),
    ("forget", "accuracy", lambda gap: gap.forget),
    ("retain", "accuracy", lambda gap: gap.retain),
    ("test", "test", lambda gap: gap.test),
    ("membership", "membership", lambda gap: gap.membership),
)
KEY: tuple[LegendEntry, ...] = (
    *(("patch", f"of-{_COLOURS[name]}", text) for name, text in NAMES.items()),
    ("bar lying", "ink", "95% interval of the mean"),
)
FLOOR_KEY: LegendEntry = ("bar", "ink", "noise floor")


@dataclass(frozen=True)
class Rank:
    """A row of the ranking.

    Attributes:
        name: of the model or control.
        gap: its mean gap.
        interval: the interval of that.
        forgot: how much of the way to the retrained models it went, in per cent.
        kept: how much of the retrained models' accuracy it keeps, in per cent.
        share: its gap as a percentage of the largest.
        useful: whether it is called useful.
        why: why it is, or is not.
        colour: the model whose colour it has.
    """

    name: str
    gap: str
    interval: str
    forgot: str
    kept: str
    share: float
    useful: bool
    why: str
    colour: str


def ranking_table(results: Results) -> list[Rank]:
    """The ranking as in the results, with lengths of bars and the interval of each mean gap."""
    longest = max((entry.mean_gap or 0.0 for entry in results.ranking), default=0.0) or 1.0
    table = []
    for entry in results.ranking:
        name = plain(entry.name)
        field = next((model for model in ("recovered", "unlearned") if name.startswith(model)), "")
        field = field or name.split(": ")[-1]
        gap = results.gap[field] if field in NAMES else Gap.empty()
        table.append(
            Rank(
                name,
                fraction(entry.mean_gap),
                bracketed(interval(gap), 3),
                _percent(entry.forgetting),
                _percent(entry.retention),
                round(100 * (entry.mean_gap or 0.0) / longest, 1),
                entry.useful is True,
                entry.why or "",
                _COLOURS.get(field, RANDOM_WEIGHTS.model),
            )
        )
    return table


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{round(100 * share)}%"


def gap_table(results: Results) -> Table | None:
    """Every gap as a number; None where there are none."""
    rows = []
    for name, text in NAMES.items():
        gap = results.gap[name]
        if not gap:
            continue
        mean, *parts = (Cell(fraction(measure(gap))) for _, _, measure in MEASURES)
        mean = Cell(mean.text, bracketed(interval(gap), 3))
        each = [fraction(value) for value in gap.against if value is not None]
        note = f"to each seed: {', '.join(each)}" if len(each) > 1 else ""
        rows.append(Row(text, note, (mean, *parts), "control" if name in CONTROLS else name))
    if not rows:
        return None
    floor = results.gap.noise_floor
    if floor.mean is not None:
        cells = tuple(Cell(fraction(measure(floor))) for _, _, measure in MEASURES)
        rows.append(Row("another retraining", "the noise floor", cells, "floor", total=True, reference=True))
    heads = (Column("mean gap" if name == "mean" else name, word) for name, word, _ in MEASURES)
    return Table((Column("model"), *heads), tuple(rows))


def rho_sentence(results: Results) -> str:
    """How far there was to go, in units of the noise floor; empty where that is unknown."""
    rho = results.gap.rho
    if rho is None:
        return ""
    if results.gap.nothing_to_forget:
        return f"rho = {significant(rho)}: with a rho so near to 1 there is nothing to forget."
    return (
        f"rho = {significant(rho)}: the original is {significant(rho)} times as far from retrained models as "
        "they are from each other."
    )


def gap_bars(results: Results) -> FigureSpec | None:
    """Distance to the retrained model by measure and model; a tick across marks the noise floor."""
    if not results.gap:
        return None
    return FigureSpec(
        "gaps",
        "Distance to the retrained model by measure",
        lambda width: _bars(results, width),
        widths=(390,),
        key=KEY if results.gap.noise_floor.mean is None else (*KEY, FLOOR_KEY),
    )


def _bars(results: Results, width: int) -> Figure:
    figure = new_figure(width, 400)
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    height = 0.8 / len(BARS)
    longest = 0.05
    for group, (measure, _, value_of) in enumerate(MEASURES):
        floor = value_of(results.gap.noise_floor)
        for i, name in enumerate(reversed(BARS)):
            y = group + (i - (len(BARS) - 1) / 2) * height
            gap = value_of(results.gap[name])
            spread = interval(results.gap[name]) if measure == "mean" and gap is not None else None
            furthest = max(gap or 0.0, floor or 0.0, spread[1] if spread else 0.0)
            longest = max(longest, furthest)
            axes.barh(y, gap or 0.0, 0.88 * height, color=PALETTE[OF_MODEL[_COLOURS[name]]])
            if spread:
                axes.hlines(y, *spread, color=PALETTE["ink"], linewidth=1.4)
            write_beside(axes, fraction(gap), furthest, y)
        if floor is not None:
            axes.vlines(floor, group - 0.45, group + 0.45, color=PALETTE["ink"], linewidth=1.4)
    axes.set_yticks(range(len(MEASURES)), [measure for measure, _, _ in MEASURES])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xlim(0, 1.13 * longest)
    axes.set_ylim(len(MEASURES) - 0.45, -0.55)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("distance to the retrained model")
    return figure


def write_beside(axes: Axes, text: str, x: float, y: float) -> None:
    """Write to the right of a point."""
    axes.annotate(text, (x, y), xytext=(4, -0.5), textcoords="offset points", va="center", fontsize=10)
