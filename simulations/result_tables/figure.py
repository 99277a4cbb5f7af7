"""The figure of results: each method's gap as a multiple of the noise floor, corpus by corpus."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fedunlearn.report.figures.style import PALETTE, despine, figure_style, new_figure
from fedunlearn.report.statistics import pool, pool_all
from fedunlearn.report.study.figures import COLOURS, MARKS
from fedunlearn.report.study.statistics import references, select
from result_tables.gaps import over_floor


def gaps_over_floor(rows: pd.DataFrame) -> Figure:
    """Draw the gap over the noise floor, pooled over sizes, on a logarithmic axis.

    A group of marks for each corpus and recogniser, a colour for each method, with 95 % intervals of the gap.
    """
    methods = list(rows["method"].unique())
    groups = list(rows.groupby(["corpus", "model"], sort=False))
    figure = new_figure(260 + 120 * len(groups), 380)
    axes = figure.add_subplot()
    several = rows["model"].nunique() > 1
    points: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    for place, (_, mine) in enumerate(groups):
        floor, gaps = pool_all(references(mine), "gap").mean, pool(select(mine), "gap", "method")
        for number, method in enumerate(methods):
            times = over_floor(gaps[method].mean, floor)
            if math.isnan(times) or times <= 0:
                continue
            half = over_floor(gaps[method].half, floor)
            aside = 0.6 * ((number + 0.5) / len(methods) - 0.5)
            points[method].append((place + aside, times, 0.0 if math.isnan(half) else half))
    for number, (method, found) in enumerate(points.items()):
        axes.errorbar(
            [x for x, _, _ in found],
            [y for _, y, _ in found],
            # A logarithmic axis has no place for an end at 0 or below.
            yerr=[[min(half, 0.95 * y) for _, y, half in found], [half for _, _, half in found]],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)],
            linestyle="",
            elinewidth=0.8,
            label=method,
        )
    axes.axhline(1.0, color=PALETTE["ink"], linewidth=1.2, linestyle="--", label="noise floor")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), ["\n".join(key if several else key[:1]) for key, _ in groups])
    axes.set_ylabel("mean gap / noise floor")
    axes.set_title("bars: 95 % interval of the gap", loc="left", fontsize=10, color=PALETTE["muted"])
    despine(axes, grid="y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def write_figure(rows: pd.DataFrame, folder: Path) -> None:
    """Draw the figure, and write it as results.svg and results.png.

    Args:
        rows: of several comparisons.
        folder: to write into.
    """
    with figure_style():
        figure = gaps_over_floor(rows)
        figure.savefig(folder / "results.svg", dpi=160, metadata={"Date": None})
        figure.savefig(folder / "results.png", dpi=160)
