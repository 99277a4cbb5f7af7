"""ROC curves of the membership attacks, on linear axes and, for low false-positive rates, on log-log axes.

On log-log axes a curve is a staircase: the true-positive rate at no more than each false-positive rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from fedunlearn.report.attacks import Attack, list_attacks
from fedunlearn.report.figures.style import (
    NARROW,
    OF_MODEL,
    PALETTE,
    FigureSpec,
    LegendEntry,
    despine,
    new_figure,
)
from fedunlearn.results_schema import Results, RocCurve

SHOWN = ("original", "recovered", "retrained")
LOWEST = 5e-4
"""the least rate on log axes; 0 stands there, too"""
_LINE: Mapping[str, Any] = {"original": "solid", "recovered": "solid", "retrained": (0, (4, 2.5))}


@dataclass(frozen=True)
class _Panel:
    title: str
    curves: Mapping[str, tuple[list[float], list[float]]]
    finest: float | None  # the least false-positive rate other than 0 that so many others allow


def roc_curves(results: Results) -> list[FigureSpec]:
    """Both figures, one panel for each attack; empty where no attack has a curve."""
    panels = [panel for attack in list_attacks(results) if (panel := _panel(attack)).curves]
    if not panels:
        return []
    models = [m for m in SHOWN if any(m in panel.curves for panel in panels)]
    key: list[LegendEntry] = [("line dashed" if m == "retrained" else "line", f"of-{m}", m) for m in models]
    key.append(("line dotted", "muted", "guessing"))
    wide = {1: 400, 2: 620}.get(len(panels), 880)
    coarse: list[LegendEntry] = (
        [("patch", "shade", "finer than so few can tell")]
        if any(panel.finest is not None and panel.finest > LOWEST for panel in panels)
        else []
    )
    title = "ROC curves of the membership attacks"
    return [
        FigureSpec(
            "roc", title, lambda width: _draw(panels, width, logarithmic=False), (wide, NARROW), tuple(key)
        ),
        FigureSpec(
            "roc-log",
            f"{title}, on log-log axes",
            lambda width: _draw(panels, width, logarithmic=True),
            (wide, NARROW),
            (*key, *coarse),
        ),
    ]


def _panel(attack: Attack) -> _Panel:
    curves = {}
    for model in SHOWN:
        roc = attack.scores[model].roc if model in attack.scores else RocCurve.empty()
        if len(roc.fpr) > 1 and len(roc.fpr) == len(roc.tpr):
            curves[model] = (roc.fpr, roc.tpr)
    others = [n for model in curves if (n := attack.others.get(model))]
    return _Panel(attack.title, curves, 1 / min(others) if others else None)


def _draw(panels: Sequence[_Panel], width: int, *, logarithmic: bool) -> Figure:
    stacked = width == NARROW
    each = width if stacked else width / len(panels)
    rows, columns = (len(panels), 1) if stacked else (1, len(panels))
    figure = new_figure(width, (each + (10 if rows == columns else 0)) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        despine(axes, grid="none")
        axes.spines["left"].set_visible(True)
        axes.set_title(panel.title, loc="left", fontsize=11, color=PALETTE["ink"])
        axes.set_xlabel("false-positive rate")
        axes.set_ylabel("true-positive rate")
        _scales(axes, panel, logarithmic=logarithmic)
        lowest = LOWEST if logarithmic else 0.0
        axes.plot([lowest, 1], [lowest, 1], color=PALETTE["muted"], linewidth=1.2, linestyle=(0, (1, 2)))
        for model, (fpr, tpr) in panel.curves.items():
            axes.plot(
                np.maximum(fpr, lowest),
                np.maximum(tpr, lowest),
                color=PALETTE[OF_MODEL[model]],
                linestyle=_LINE[model],
                linewidth=1.6,
                drawstyle="steps-post" if logarithmic else "default",
            )
        axes.set_aspect("equal")
    return figure


def _scales(axes: Axes, panel: _Panel, *, logarithmic: bool) -> None:
    if not logarithmic:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        ticks = (0, 0.25, 0.5, 0.75, 1)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_yticks(ticks, [f"{x:g}" for x in ticks])
        axes.grid(True)
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LOWEST, 1)
    axes.set_ylim(LOWEST, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0.001, 0.01, 0.1, 1])
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
        axis.set_minor_locator(NullLocator())
    axes.grid(True)
    for rate in (0.01, 0.001):
        axes.axvline(rate, color=PALETTE["muted"], linewidth=1)
    if panel.finest is not None and panel.finest > LOWEST:
        axes.axvspan(LOWEST, panel.finest, color=PALETTE["shade"], linewidth=0, zorder=0)
