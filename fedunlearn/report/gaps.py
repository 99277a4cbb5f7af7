"""Distance to the retrained models: against the controls, and against how far those stand from each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import OF_MODEL, PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import (
    MISSING,
    at,
    between,
    fraction,
    interval_at,
    noise_floor,
    number_at,
    numbers,
    plain,
    rows,
    significant,
)

GAPS = ("none", "destroy", "unlearned", "recovered")
NAMES = {
    "recovered": "recovered",
    "unlearned": "unlearned",
    "none": "doing nothing",
    "destroy": "random weights",
}
GAP_MEASURES = ("mean", "forget", "retain", "test", "membership")
KEY = (
    *(("patch", f"of-{'original' if name == 'none' else name}", said) for name, said in NAMES.items()),
    ("bar lying", "ink", "95% interval of the mean"),
)
FLOOR_KEY = ("bar", "ink", "noise floor")


@dataclass(frozen=True)
class Rank:
    """A line of the ranking; ``share`` is its gap as a percentage of the longest one."""

    name: str
    gap: str
    interval: str
    forgot: str
    kept: str
    share: float
    useful: bool
    why: str
    kind: str


def ranking_table(results: Mapping[str, Any]) -> list[Rank]:
    """The ranking as it stands in the results, with bar lengths and the interval of each mean gap."""
    ranked = rows(at(results, "ranking"))
    longest = max((number_at(r, "mean_gap") or 0.0 for r in ranked), default=0.0) or 1.0
    table = []
    for entry in ranked:
        name = plain(at(entry, "name"))
        which = next((k for k in ("recovered", "unlearned") if name.startswith(k)), name.split(": ")[-1])
        kind = which if which in ("recovered", "unlearned") else "original" if which == "none" else "destroy"
        share = 100 * (number_at(entry, "mean_gap") or 0.0) / longest
        useful, why = at(entry, "useful") is True, at(entry, "why") or ""
        interval = between(interval_at(results, "gap", which), 3)
        gap = fraction(at(entry, "mean_gap"))
        forgot, kept = (_percent(number_at(entry, part)) for part in ("forgetting", "retention"))
        table.append(Rank(name, gap, interval, forgot, kept, round(share, 1), useful, str(why), kind))
    return table


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{round(100 * share)}%"


def gap_table(results: Mapping[str, Any]) -> Table | None:
    """Every gap as a number; None where there are none."""
    lines = []
    for name, said in NAMES.items():
        record = at(results, "gap", name)
        if not isinstance(record, Mapping):
            continue
        each = [fraction(value) for value in numbers(at(record, "against"))]
        mean = Cell(fraction(at(record, "mean")), between(interval_at(record), 3))
        parts = (Cell(fraction(at(record, measure))) for measure in GAP_MEASURES[1:])
        note = f"to each seed: {', '.join(each)}" if len(each) > 1 else ""
        lines.append(Row(said, note, (mean, *parts), "control" if name in ("none", "destroy") else name))
    if not lines:
        return None
    if noise_floor(results, "mean") is not None:
        floor = tuple(Cell(fraction(noise_floor(results, m))) for m in GAP_MEASURES)
        lines.append(Row("another retraining", "the noise floor", floor, "floor", total=True, reference=True))
    heads = (
        ("mean gap", "gap"),
        ("forget", "accuracy"),
        ("retain", "accuracy"),
        ("test", "test"),
        ("membership", "membership"),
    )
    return Table((Column("model"), *(Column(*head) for head in heads)), tuple(lines))


def rho_words(results: Mapping[str, Any]) -> str:
    """How far there was to go, in units of the noise floor; empty where that is unknown."""
    rho = number_at(results, "gap", "rho")
    if rho is None:
        return ""
    if at(results, "gap", "nothing_to_forget") is True:
        said = "with a rho as near to 1 there is nothing to forget"
    else:
        said = f"the original stands {significant(rho)} times as far from retrained models as they do"
        said += " from each other"
    return f"rho = {significant(rho)}: {said}."


def gap_bars(results: Mapping[str, Any]) -> FigureSpec | None:
    """Distance to the retrained model by measure and model; a tick across marks the noise floor."""
    if not isinstance(at(results, "gap"), Mapping):
        return None
    return FigureSpec(
        "gaps",
        "Distance to the retrained model by measure",
        lambda width: _bars(results, width),
        widths=(390,),
        key=KEY if noise_floor(results, "mean") is None else (*KEY, FLOOR_KEY),
    )


def _bars(results: Mapping[str, Any], width: int) -> Figure:
    figure = new_figure(width, 400)
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    height = 0.8 / len(GAPS)
    longest = 0.05
    for group, measure in enumerate(GAP_MEASURES):
        floor = noise_floor(results, measure)
        for i, name in enumerate(reversed(GAPS)):
            y = group + (i - (len(GAPS) - 1) / 2) * height
            gap = number_at(results, "gap", name, measure)
            spread = interval_at(results, "gap", name) if measure == "mean" and gap is not None else None
            furthest = max(gap or 0.0, floor or 0.0, spread[1] if spread else 0.0)
            longest = max(longest, furthest)
            axes.barh(y, gap or 0.0, 0.88 * height, color=PALETTE[OF_MODEL[name]])
            if spread:
                axes.hlines(y, *spread, color=PALETTE["ink"], linewidth=1.4)
            beside(axes, fraction(gap), furthest, y)
        if floor is not None:
            axes.vlines(floor, group - 0.45, group + 0.45, color=PALETTE["ink"], linewidth=1.4)
    axes.set_yticks(range(len(GAP_MEASURES)), GAP_MEASURES)
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xlim(0, 1.13 * longest)
    axes.set_ylim(len(GAP_MEASURES) - 0.45, -0.55)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("distance to the retrained model")
    return figure


def beside(axes: Axes, text: str, x: float, y: float) -> None:
    """Write right of a point."""
    axes.annotate(text, (x, y), xytext=(4, -0.5), textcoords="offset points", va="center", fontsize=10)
