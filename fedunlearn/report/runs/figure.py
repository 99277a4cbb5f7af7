"""The figure of gaps: every run with its interval, means over seeds, the noise floor."""

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from fedunlearn.report.figures.style import PALETTE, despine, figure_style, new_figure, safe, to_svg
from fedunlearn.report.runs.grouping import ComparedRun, ComparedTask, Run
from fedunlearn.report.values import fraction

_MOST_LANES = 60
"""of single runs; beyond, means alone are drawn"""
_OF_GROUP = {"forget": "blue", "ticket": "purple", "more": "green", "control": "muted"}


def colour_of(entry: ComparedRun) -> str:
    """Return which colour of ``PALETTE`` an entry has, by what its method sees."""
    return _OF_GROUP[entry.group]


def gaps_figure(task: ComparedTask, ordered: Sequence[ComparedRun], width: int, name: str) -> Markup | None:
    """Draw entries from the top down, the runs of each below its mean.

    Args:
        task: what is drawn.
        ordered: the task's entries, as the tables have them.
        width: CSS pixels.
        name: unique on the page.

    Returns:
        the SVG; None where no run has a gap
    """
    shown = [e for e in ordered if any(run.gap is not None for run in e.runs)]
    if not shown:
        return None
    single = sum(len(e.runs) for e in shown) <= _MOST_LANES
    lanes: list[tuple[ComparedRun, Run | None]] = []
    for entry in shown:
        lanes.append((entry, None))
        if single and len(entry.runs) > 1:
            lanes += [(entry, run) for run in entry.runs if run.gap is not None]
    floor = task.once_a_seed(lambda run: run.floor).mean
    nothing = task.once_a_seed(lambda run: run.results.gap.none.mean).mean
    limit = _limit(shown, floor, nothing)
    with figure_style():
        figure = new_figure(width, 64 + 21 * len(lanes))
        axes = figure.subplots()
        despine(axes, grid="x")
        if not math.isnan(floor):
            axes.axvspan(0, floor, color=PALETTE["shade"], zorder=0.5)
        if not math.isnan(nothing):
            axes.axvline(nothing, color=PALETTE["vermillion"], linewidth=1.4, linestyle="--", zorder=1)
        for y, (entry, run) in enumerate(lanes):
            if run is None:
                _mean(axes, entry, y, limit)
            else:
                _one(axes, entry, run, y, limit)
        longest = 18 if width < 500 else 40
        names = [_short(e.label if r is None else r.name, longest, r is not None) for e, r in lanes]
        axes.set_yticks(range(len(lanes)), names)
        for text, (_, run) in zip(axes.get_yticklabels(), lanes, strict=True):
            text.set_color(PALETTE["ink" if run is None else "muted"])
            text.set_fontsize(11 if run is None else 9.5)
        axes.set_xlim(0, limit)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.set_xlabel("mean gap to the retrained model")
        return to_svg(figure, name, "Mean gap of every run to its retrained model, and means over seeds")


def _mean(axes: Axes, entry: ComparedRun, y: float, limit: float) -> None:
    """Mean and interval over seeds; of a single run, its own. Hollow where no run counts."""
    colour = PALETTE[colour_of(entry)]
    pooled = entry.pooled(lambda run: run.gap)
    if len(entry.runs) == 1:
        _one(axes, entry, entry.runs[0], y, limit)
    elif not math.isnan(pooled.mean):
        if not math.isnan(pooled.half):
            axes.plot(
                [max(0.0, pooled.mean - pooled.half), pooled.mean + pooled.half],
                [y, y],
                color=colour,
                linewidth=5,
                alpha=0.4,
                solid_capstyle="butt",
            )
        _dot(axes, pooled.mean, y, limit, colour, marker="D", size=8)


def _one(axes: Axes, entry: ComparedRun, run: Run, y: float, limit: float) -> None:
    if run.gap is None:
        return
    colour = PALETTE[colour_of(entry)]
    if (ends := run.interval) is not None:
        axes.plot(ends, [y, y], color=colour, linewidth=1.6)
    _dot(axes, run.gap, y, limit, colour, marker="o", size=6, hollow=not run.counts)


def _dot(
    axes: Axes,
    x: float,
    y: float,
    limit: float,
    colour: str,
    *,
    marker: str,
    size: float,
    hollow: bool = False,
) -> None:
    if x > limit:
        label = f"{fraction(x)} →"
        axes.text(limit, y, label, ha="right", va="center", fontsize=9.5, color=PALETTE["muted"])
        return
    face = "none" if hollow else colour
    axes.plot(x, y, marker, markersize=size, color=colour, markerfacecolor=face, markeredgewidth=1.5)


def _limit(shown: Sequence[ComparedRun], floor: float, nothing: float) -> float:
    """The end of the axis: as far as methods and doing nothing reach; a control may be beyond it."""
    seen = [1.5 * x for x in (floor,) if not math.isnan(x)]
    seen += [1.08 * x for x in (nothing,) if not math.isnan(x)]
    for entry in shown:
        if entry.control:
            continue
        pooled = entry.pooled(lambda run: run.gap)
        seen += [] if math.isnan(pooled.mean) else [pooled.mean]
        seen += [] if math.isnan(pooled.half) else [min(pooled.mean + pooled.half, 2 * pooled.mean)]
        for run in entry.runs:
            ends = run.interval
            seen += [x for x in (run.gap, ends and ends[1]) if x]
    return 1.04 * max(seen, default=0.0) or 1.0


def _short(text: str, longest: int, single: bool) -> str:
    text = safe(text)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f"{text}  " if single else text


def legend_entries(tasks: Sequence[ComparedTask]) -> list[tuple[str, str, str]]:
    """List (kind, colour, text) of each sign in the legend of these tasks' figures."""
    entries = [entry for task in tasks for entry in task.entries]
    runs = [run for task in tasks for run in task.runs]
    words = {
        "blue": "sees the forget set alone",
        "green": "privileged baseline: sees more",
        "muted": "control",
    }
    signs = [("disc", c, t) for c, t in words.items() if any(colour_of(e) == c for e in entries)]
    if any(len(e.runs) > 1 for e in entries):
        signs.append(("diamond", "ink", "mean over seeds, bar: its 95 % interval"))
    if any(run.interval for run in runs):
        signs.append(("line", "ink", "95 % interval of one run, over utterances"))
    if any(run.gap is not None and not run.counts for run in runs):
        signs.append(("ring", "ink", "not complete: counted in no mean"))
    if any(run.floor is not None for run in runs):
        signs.append(("patch", "shade", "noise floor"))
    if any(run.results.gap.none.mean is not None for run in runs):
        signs.append(("line dashed", "vermillion", "doing nothing"))
    return signs
