"""Figures of a comparison: forget against retain; the gap by method, size, aggregation, recovery, waiting."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.stats import chi2

from fedunlearn.report.figures.style import PALETTE, FigureSpec, despine, figure_style, new_figure
from fedunlearn.report.statistics import GROUPS, Spread, pool, pool_all
from fedunlearn.report.study.statistics import (
    methods_of,
    name_size,
    references,
    select,
    settings_of,
    unit_names,
    windows_of,
)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8c510a")
MARKS = "osD^vPX<>ph*"
_OF_GROUP = {
    "forget": PALETTE["blue"],
    "ticket": PALETTE["purple"],
    "more": PALETTE["green"],
    "control": PALETTE["muted"],
}
_HEADROOM = 1.2
"""how far a figure reaches, as a multiple of the highest mean gap in it"""
_INSIDE = 0.95
"""share of retrained models, were they Gaussian, inside the ellipse"""


def write_figures(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw all figures, and write each as SVG, PDF and PNG.

    The first three are of the aggregation, the recovery and the window that stand first in the rows; where
    there is more than one of them, one more is across aggregations and recoveries, and one across windows.
    """
    one = rows.iloc[0]
    joined = select(rows, None, aggregation=one["aggregation"], recovery=one["recovery"])
    served = select(rows, None, window=one["window"])
    first = select(joined, None, window=one["window"])
    files = []
    with figure_style():
        drawn = {
            "forget-retain": forget_against_retain(first),
            "gap-by-method": gap_by_method(first),
            "gap-by-size": gap_by_size(first),
        }
        if len(first) < len(served):
            drawn["aggregation-recovery"] = aggregation_against_recovery(served)
        if len(windows_of(joined)) > 1:
            drawn["waiting-gap"] = waiting_against_gap(joined)
        for name, figure in drawn.items():
            files += _save(figure, name, folder)
    return files


def write_specs(specs: Iterable[FigureSpec], folder: Path) -> list[Path]:
    """Draw figures of a page, and write each as SVG, PDF and PNG.

    Args:
        specs: named as the files are.
        folder: where to; it exists.
    """
    files = []
    for spec in specs:
        with figure_style():
            files += _save(spec.draw(spec.widths[0]), spec.name, folder)
    return files


def _save(figure: Figure, name: str, folder: Path) -> list[Path]:
    files = []
    for ending, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None}), ("png", {})):
        files.append(folder / f"{name}.{ending}")
        figure.savefig(files[-1], dpi=160, metadata=metadata)
    return files


def forget_against_retain(rows: pd.DataFrame) -> Figure:
    """Draw forget and retain accuracy after each method, as differences from the retrained models.

    The origin is the mean of each run's retrained seeds; the ellipse holds 95 % of them, were they Gaussian,
    by their covariance around that mean, pooled over runs.
    """
    figure = new_figure(700, 440)
    axes = figure.add_subplot()
    styles = _styles(rows)
    apart = _from_retrained(rows)
    across, up = pool(apart, "x", "method"), pool(apart, "y", "method")
    shown = []
    for method, style in styles.items():
        x, y = across[method], up[method]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_half(x),
            yerr=_half(y),
            label=method,
            elinewidth=0.8,
            **{**style, "linestyle": ""},
        )
        shown.append((method, x, y))
    axes.plot(
        0,
        0,
        marker="+",
        markersize=12,
        color=PALETTE["ink"],
        linestyle="",
        label="origin: mean of the\nretrained models",
    )
    ellipse = noise_ellipse(rows)
    if ellipse is not None:
        axes.add_patch(ellipse)
    _look_at(axes, shown, ellipse, far_controls(rows))
    axes.axvline(0, color=PALETTE["muted"], linewidth=0.8, zorder=0)
    axes.axhline(0, color=PALETTE["muted"], linewidth=0.8, zorder=0)
    axes.set_xlabel("forget accuracy less that of the retrained models")
    axes.set_ylabel("retain accuracy less that of the retrained models")
    caption = f"bars: 95 % interval over {unit_names(rows)}"
    if ellipse is not None:
        caption += f"; shaded: {100 * _INSIDE:.0f} % of retrained models"
    axes.set_title(f"{_joining(rows)}; {caption}", loc="left", fontsize=10, color=PALETTE["muted"])
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def noise_ellipse(rows: pd.DataFrame) -> Ellipse | None:
    """Compute the region around the mean that holds 95 % of a run's retrained models, were they Gaussian.

    Covariance of (forget, retain) around each run's mean, pooled over runs; None with too few to estimate it.
    """
    apart, free = np.zeros((2, 2)), 0
    for of_run in references(rows)["seeds"]:
        seeds = np.array(of_run, float)
        away = seeds - seeds.mean(axis=0)
        apart, free = apart + away.T @ away, free + len(seeds) - 1
    if free < 2:
        return None
    values, vectors = np.linalg.eigh(apart / free)
    lengths = 2.0 * np.sqrt(np.maximum(values, 0.0) * chi2.ppf(_INSIDE, 2))
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    # The larger eigenvalue comes last.
    return Ellipse((0, 0), lengths[1], lengths[0], angle=angle, color=PALETTE["muted"], alpha=0.25, lw=0)


def gap_by_method(rows: pd.DataFrame) -> Figure:
    """Draw the mean gap of each method over all settings, its interval over seeds, and the noise floor."""
    groups, gaps = methods_of(rows), pool(select(rows), "gap", "method")
    names = [(m, g) for g, methods in groups.items() for m in methods][::-1]
    figure = new_figure(640, 90 + 24 * max(len(names), 2))
    axes = figure.add_subplot()
    for y, (method, group) in enumerate(names):
        gap = gaps[method]
        axes.barh(y, gap.mean, xerr=_half(gap), color=_OF_GROUP[group], height=0.62, ecolor=PALETTE["ink"])
    for group in groups:
        axes.barh(0, math.nan, color=_OF_GROUP[group], label=GROUPS[group])
    floor = pool_all(references(rows), "gap").mean
    if not math.isnan(floor):
        axes.axvline(floor, color=PALETTE["ink"], linewidth=1.2, linestyle="--", label="noise floor")
    axes.set_yticks(range(len(names)), [m for m, _ in names])
    farthest = max((gaps[method].mean for method, _ in names), default=1.0)
    axes.set_xlim(0, 1.12 * farthest)
    axes.set_xlabel(
        f"mean gap to the retrained model, over all settings (bars: 95 % interval over {unit_names(rows)})"
    )
    axes.set_title(_joining(rows), loc="left", fontsize=10, color=PALETTE["muted"])
    despine(axes, grid="x")
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=4)
    return figure


def gap_by_size(rows: pd.DataFrame) -> Figure:
    """Draw the mean gap over the size of each request, a panel for each number of requesters."""
    asking = _numbers(rows, "requesters")
    sizes = _numbers(rows, "forget_size")
    if sizes[0] == 0:  # whole clients
        sizes = [*sizes[1:], 0]
    places = _places(sizes)
    styles = _styles(rows)
    figure = new_figure(330 + 280 * len(asking), 420)
    panels = figure.subplots(1, len(asking), sharey=True, squeeze=False)[0]
    tops, far = [], far_controls(rows)
    for axes, requesters in zip(panels, asking, strict=True):
        here = select(rows, None, requesters=requesters)
        of_size = pool(select(here), "gap", "method", "forget_size")
        for number, (method, style) in enumerate(styles.items()):
            gaps = [of_size[method, n] for n in sizes]
            aside = 0.012 * (places[-1] - places[0]) * (number / max(len(styles) - 1, 1) - 0.5)
            axes.errorbar(
                [place + aside for place in places],
                [g.mean for g in gaps],
                yerr=[_half(g) for g in gaps],
                elinewidth=0.7,
                label=method if requesters == asking[0] else None,
                **style,
            )
            tops += [g.mean for g in gaps if method not in far and not math.isnan(g.mean)]
        floors = pool(references(here), "gap", "forget_size")
        label = "noise floor" if requesters == asking[0] else None
        floor = [floors[n].mean for n in sizes]
        axes.fill_between(places, 0, floor, color=PALETTE["muted"], alpha=0.25, linewidth=0, label=label)
        axes.set_title("one requester" if requesters == 1 else f"{requesters} requesters", fontsize=10)
        axes.set_xticks(places, [name_size(n).replace(" ", "\n") for n in sizes])
        axes.set_xlabel("utterances that each deletes")
        despine(axes, grid="y")
        _remark_far(axes, here, far, tops)
    panels[0].set_ylim(0, _HEADROOM * max(tops, default=1.0))
    panels[0].set_ylabel(f"mean gap ({_joining(rows)})")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _places(sizes: Sequence[int]) -> list[float]:
    """Where sizes stand on an axis of utterances: whole clients (0, the last) one step beyond the numbers."""
    numbers = [float(size) for size in sizes if size]
    if len(numbers) == len(sizes):
        return numbers
    beyond = numbers[-1] + (numbers[-1] - numbers[0]) / max(len(numbers) - 1, 1) if numbers else 0.0
    return [*numbers, max(beyond, 1.2 * numbers[-1]) if numbers else 0.0]


def gap_by_value(rows: pd.DataFrame, name: str, values: Mapping[str, float]) -> Figure:
    """Draw the mean gap over a swept quantity, a line for each size, beside the noise floors.

    Args:
        rows: of the variants that are swept; others are not drawn.
        name: of the quantity.
        values: variant -> its value of it.
    """
    mine = rows[rows["method"].isin(list(values))]
    figure = new_figure(640, 380)
    axes = figure.add_subplot()
    gaps = pool(select(mine), "gap", "method", "forget_size")
    floors = pool(references(mine), "gap", "forget_size")
    order = sorted(values, key=lambda variant: values[variant])
    sizes = _numbers(mine, "forget_size")
    for size, colour, mark in zip(sizes, cycle(COLOURS), cycle(MARKS), strict=False):
        found = [gaps[variant, size] for variant in order]
        axes.errorbar(
            [values[variant] for variant in order],
            [gap.mean for gap in found],
            yerr=[_half(gap) for gap in found],
            color=colour,
            marker=mark,
            markersize=5,
            linewidth=1.3,
            elinewidth=0.7,
            label=name_size(size),
        )
        axes.axhline(floors[size].mean, color=colour, linewidth=0.9, linestyle=":")
    axes.plot([], [], color=PALETTE["muted"], linewidth=0.9, linestyle=":", label="noise floor")
    if min(values.values()) > 0:
        axes.set_xscale("log")
    axes.set_xticks([values[variant] for variant in order], [f"{values[variant]:g}" for variant in order])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(name)
    axes.set_ylabel(f"mean gap ({_joining(mine)})")
    despine(axes, grid="y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, title="utterances")
    return figure


def waiting_against_gap(rows: pd.DataFrame) -> Figure:
    """Draw the mean gap over the rounds that requests waited on average, a line for each method.

    A point is a window; there is a panel for each number of requesters, and sizes are averaged over.
    """
    styles, windows = _styles(rows), windows_of(rows)
    asking = _numbers(rows, "requesters")
    figure = new_figure(200 + 270 * len(asking), 380)
    panels = figure.subplots(1, len(asking), sharey=True, squeeze=False)[0]
    tops, far = [], far_controls(rows)
    for axes, requesters in zip(panels, asking, strict=True):
        here = select(rows, None, requesters=requesters)
        waited = pool(select(here), "rounds_waited_mean", "method", "window")
        found = pool(select(here), "gap", "method", "window")
        for method, style in styles.items():
            waits = [waited[method, window] for window in windows]
            gaps = [found[method, window] for window in windows]
            axes.errorbar(
                [w.mean for w in waits],
                [g.mean for g in gaps],
                yerr=[_half(g) for g in gaps],
                elinewidth=0.7,
                label=method if requesters == asking[0] else None,
                **style,
            )
            tops += [g.mean for g in gaps if method not in far and not math.isnan(g.mean)]
        floor = pool_all(references(here), "gap").mean
        label = "noise floor" if requesters == asking[0] else None
        axes.axhspan(0, floor, color=PALETTE["muted"], alpha=0.25, linewidth=0, label=label)
        axes.set_title("one requester" if requesters == 1 else f"{requesters} requesters", fontsize=10)
        axes.set_xlabel("rounds waited, on average")
        despine(axes, grid="y")
        _remark_far(axes, here, far, tops)
    panels[0].set_ylim(0, _HEADROOM * max(tops, default=1.0))
    panels[0].set_ylabel(f"mean gap ({_joining(rows)})")
    caption = f"windows {', '.join(map(str, windows))}; bars: 95 % interval over {unit_names(rows)}"
    figure.suptitle(caption, fontsize=10, color=PALETTE["muted"])
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def aggregation_against_recovery(rows: pd.DataFrame) -> Figure:
    """Draw the mean gap for every aggregation and recovery, a panel for each method but the controls."""
    groups = methods_of(rows)
    methods = [m for group, own in groups.items() if group != "control" for m in own]
    methods = methods or [m for own in groups.values() for m in own]
    joins = list(dict.fromkeys(s.aggregation for s in settings_of(rows)))
    recoveries = list(dict.fromkeys(s.recovery for s in settings_of(rows)))
    across = min(len(methods), 3)
    down = math.ceil(len(methods) / across)
    figure = new_figure(110 + across * (50 + 62 * len(recoveries)), 80 + down * (44 + 30 * len(joins)))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    found = pool(select(rows), "gap", "method", "aggregation", "recovery")
    gaps = {m: np.array([[found[m, a, r].mean for r in recoveries] for a in joins]) for m in methods}
    darkest = max((float(np.nanmax(g)) for g in gaps.values() if not np.isnan(g).all()), default=1.0)
    shades = LinearSegmentedColormap.from_list("gap", ["#ffffff", PALETTE["heat"]])
    for number, axes in enumerate(panels):
        if number >= len(methods):
            axes.set_visible(False)
            continue
        _heat(axes, gaps[methods[number]], darkest, shades)
        axes.set_title(methods[number], fontsize=10)
        lowest, leftmost = number + across >= len(methods), number % across == 0
        axes.set_xticks(
            range(len(recoveries)), recoveries if lowest else [], rotation=30, ha="right", fontsize=9
        )
        axes.set_yticks(range(len(joins)), joins if leftmost else [], fontsize=9)
    figure.suptitle("mean gap to the retrained model; framed: each method's lowest", fontsize=10)
    return figure


def _heat(axes: Axes, gaps: "np.ndarray[Any, Any]", darkest: float, shades: LinearSegmentedColormap) -> None:
    despine(axes, grid="none")
    axes.imshow(gaps, cmap=shades, vmin=0, vmax=darkest, aspect="auto")
    for y, x in np.ndindex(*gaps.shape):
        if not math.isnan(gaps[y, x]):
            colour = PALETTE["on-heat" if gaps[y, x] > 0.6 * darkest else "ink"]
            axes.text(x, y, f"{gaps[y, x]:.3f}", ha="center", va="center", fontsize=9, color=colour)
    if not np.isnan(gaps).all():
        y, x = np.unravel_index(int(np.nanargmin(gaps)), gaps.shape)
        axes.bar(x, 0.96, 0.96, bottom=y - 0.48, fill=False, edgecolor=PALETTE["ink"], linewidth=1.4)


def far_controls(rows: pd.DataFrame) -> list[str]:
    """List the controls that are clearly farther from the retrained models than doing nothing.

    Figures may leave them outside, with a remark.
    """
    gaps, nothing = pool(select(rows), "gap", "method"), pool_all(select(rows, "original"), "gap").mean
    return [m for m in methods_of(rows).get("control", ()) if gaps[m].mean > _HEADROOM * nothing]


def _look_at(
    axes: Axes, shown: Iterable[tuple[str, Spread, Spread]], ellipse: Ellipse | None, far: Sequence[str]
) -> None:
    """Show all of the ellipse and every method's mean; those of ``far`` may be outside, with a remark."""
    near = {method: (x.mean, y.mean) for method, x, y in shown if not math.isnan(x.mean)}
    seen = [(0.0, 0.0), *(point for method, point in near.items() if method not in far)]
    if ellipse is not None:
        seen += [(float(x), float(y)) for x, y in ellipse.get_corners()]
    low, high = np.min(seen, axis=0), np.max(seen, axis=0)
    margin = np.maximum(0.12 * (high - low), 0.004)
    low, high = low - margin, high + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    for method, point in near.items():
        if not ((low <= point) & (point <= high)).all():
            text = f"{method}: beyond, at ({point[0]:+.2f}, {point[1]:+.2f})"
            _remark(axes, text)


def _remark_far(axes: Axes, rows: pd.DataFrame, far: Sequence[str], tops: Sequence[float]) -> None:
    """Say how far off those of ``far`` are that lie above the methods, whose mean gaps are ``tops``."""
    gaps = pool(select(rows), "gap", "method")
    above = [m for m in far if gaps[m].mean > _HEADROOM * max(tops, default=math.inf)]
    for line, method in enumerate(above):
        _remark(axes, f"{method}: above, {gaps[method].mean:.2f} on average", 0.95 - 0.05 * line)


def _remark(axes: Axes, text: str, height: float = 0.01) -> None:
    where: Any = "axes fraction"
    axes.annotate(text, (0.01, height), xycoords=where, fontsize=9, color=PALETTE["muted"])


def _styles(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Method -> its style, in the order of the tables.

    Colours are for those that see the forget set alone; after seven, hollow and dashed. Others are ink.
    """
    styles: dict[str, dict[str, Any]] = {}
    for group, methods in methods_of(rows).items():
        for number, method in enumerate(methods):
            turn = number // len(COLOURS)
            colour = COLOURS[number % len(COLOURS)] if group == "forget" else PALETTE["ink"]
            line = ("-", "--", "-.")[min(turn, 2)] if group == "forget" else ":"
            if group == "control":
                colour, line = PALETTE["muted"], "--"
            styles[method] = {
                "color": colour,
                "marker": MARKS[len(styles) % len(MARKS)],
                "markersize": 5.0 + 0.15 * len(styles),  # of two at the same place both are seen
                "zorder": 4.0 - 0.01 * len(styles),
                "markerfacecolor": "none" if turn % 2 or group == "control" else colour,
                "linestyle": line,
                "linewidth": 1.3,
            }
    return styles


def _half(value: Spread) -> float:
    return 0.0 if math.isnan(value.half) else value.half


def _joining(rows: pd.DataFrame) -> str:
    return f"{rows['aggregation'].iloc[0]}, recovery {rows['recovery'].iloc[0]}"


def _numbers(rows: pd.DataFrame, column: str) -> list[int]:
    return sorted(rows[column].unique().tolist())


def _from_retrained(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows after recovery, with x and y: forget and retain accuracy less those of the retrained seeds."""
    data = ["fold", "seed", "forget_size", "requesters"]
    known = references(rows)
    known = known[known["seeds"].map(len) > 0]
    centres = np.array([np.mean(seeds, axis=0) for seeds in known["seeds"]]).reshape(-1, 2)
    known = known[data].assign(forget_centre=centres[:, 0], retain_centre=centres[:, 1])
    found = select(rows).merge(known, on=data)
    return found.assign(
        x=found["forget"] - found["forget_centre"], y=found["retain"] - found["retain_centre"]
    )
