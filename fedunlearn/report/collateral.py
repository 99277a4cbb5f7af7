"""What unlearning did to answers on speech that nobody asked to delete, and to the spread of answers."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import OF_MODEL, PALETTE, FigureSpec, LegendEntry, despine, new_figure
from fedunlearn.report.gaps import write_beside
from fedunlearn.report.names import MODELS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, count, number
from fedunlearn.results_schema import CollateralShift, LogOddsShift, Results

_SHIFTED = ("unlearned", "recovered", "retrained")
_KEY: tuple[LegendEntry, ...] = (
    *(("patch", f"of-{name}", f"original to {name}") for name in _SHIFTED),
    ("bar", "ink", "one retrained seed to another"),
)


def _groups(results: Results) -> list[tuple[str, str, CollateralShift]]:
    """What the shift was measured on: name, small print, shifts; only where there are any."""
    found, shadows = results.collateral, results.attacks.collateral
    groups = (
        ("requesters' held-out speech", "of speakers whose speech was deleted", found.requesters),
        ("others' held-out speech", "", found.others),
        ("candidates never heard", "by a shadow model; seeds: from one shadow to another", shadows),
    )
    return [(name, note, of) for name, note, of in groups if of.recovered.rms is not None]


def shift_table(results: Results) -> Table | None:
    """Root mean square and slope of the shift of log-odds; None where there are none."""
    rows = []
    for name, note, of in _groups(results):
        cells = [_cell(of[model]) for model in (*_SHIFTED, "seeds")]
        cells[-1] = Cell(cells[-1].text, cells[-1].note, reference=True)
        rows.append(Row(name, note, (*cells, Cell(count(of.recovered.n))), "collateral"))
    heads = [*(Column(f"original to {model}", model, model) for model in _SHIFTED)]
    columns = (
        Column("rms shift, nats"),
        *heads,
        Column("seed to seed", "floor", reference=True),
        Column("n"),
    )
    return Table(columns, tuple(rows)) if rows else None


def spread_table(results: Results) -> Table | None:
    """Standard deviation of the log-odds of the deleted utterances, by model; None where unknown."""
    spread = results.collateral.spread
    values = (spread.original, spread.unlearned, spread.recovered, spread.retrained)
    if all(value is None for value in values):
        return None
    cells = tuple(
        Cell(_nats(value), reference=model == "retrained")
        for model, value in zip(MODELS, values, strict=True)
    )
    columns = (Column(model, model, model, model == "retrained") for model in MODELS)
    return Table((Column("nats"), *columns), (Row("spread on D_f", "standard deviation", cells, "spread"),))


def following_table(results: Results) -> Table | None:
    """How well answers on deleted utterances follow the method's targets; None where it has none."""
    following, rows = results.attacks.following, []
    for model in ("unlearned", "recovered"):
        found = following[model]
        if found.rms is not None:
            slope = MISSING if found.slope is None else f"{found.slope:.2f}"
            cells = (slope, _nats(found.residual), _signed(found.mean), count(found.n))
            rows.append(Row(model, "", tuple(map(Cell, cells)), model))
    heads = ("slope", "residual, nats", "mean difference, nats", "utterances in shadow models")
    return Table((Column("targets followed"), *map(Column, heads)), tuple(rows)) if rows else None


def shift_bars(results: Results) -> FigureSpec | None:
    """Root mean square shift by model; a tick across marks that between retrained seeds."""
    groups = _groups(results)
    if not groups:
        return None
    return FigureSpec(
        "collateral",
        "Shift of log-odds on speech that nobody asked to delete",
        lambda width: _bars([(name, of) for name, _, of in groups], width),
        widths=(390,),
        key=_KEY,
    )


def _bars(groups: list[tuple[str, CollateralShift]], width: int) -> Figure:
    figure = new_figure(width, 70 + 75 * len(groups))
    axes = figure.subplots()
    despine(axes, grid="x")
    height, longest = 0.8 / len(_SHIFTED), 0.1
    for group, (_, of) in enumerate(groups):
        seeds = of.seeds.rms
        for i, model in enumerate(_SHIFTED):
            rms = of[model].rms
            if rms is None:
                continue
            y, furthest = group + (i - 1) * height, max(rms, seeds or 0.0)
            longest = max(longest, furthest)
            axes.barh(y, rms, 0.88 * height, color=PALETTE[OF_MODEL[model]])
            write_beside(axes, _nats(rms), furthest, y)
        if seeds is not None:
            axes.vlines(seeds, group - 0.45, group + 0.45, color=PALETTE["ink"], linewidth=1.4)
    axes.set_yticks(range(len(groups)), [_two_lines(name) for name, _ in groups])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xlim(0, 1.2 * longest)
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("rms shift of log-odds (nats)")
    return figure


def _two_lines(name: str) -> str:
    first, rest = name.split(" ", 1)
    return f"{first}\n{rest}"


def _cell(shift: LogOddsShift) -> Cell:
    if shift.rms is None:
        return Cell(MISSING)
    slope = "" if shift.slope is None else f"slope {shift.slope:.2f}"
    mean = "" if shift.mean is None else f"mean {_signed(shift.mean)}"
    return Cell(_nats(shift.rms), ", ".join(filter(None, (mean, slope))))


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _nats(value: float | None) -> str:
    known = number(value)
    return MISSING if known is None else f"{known:.2f}"
