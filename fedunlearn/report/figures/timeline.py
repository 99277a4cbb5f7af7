"""The run over its rounds: what the global model knew, and when somebody asked it to forget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.request_view import FULFILLED, wishes
from fedunlearn.report.values import at, number_at, numbers, rows

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("accuracy", (("retain_accuracy", "green"), ("forget_accuracy", "vermillion"))),
    ("test UAR", (("unseen_uar", "purple"), ("test_uar", "blue"))),
)
KEY = (
    ("line", "green", "retain accuracy"),
    ("line", "vermillion", "forget accuracy"),
    ("line", "blue", "test UAR"),
    ("line", "purple", "unseen-speaker UAR"),
    ("line dashed", "muted", "the same of the retrained model"),
    ("bar", "ink", "deletion applied"),
    ("bar dashed", "ink", "raised, never applied"),
    ("patch", "shade", "recovery rounds"),
    ("patch", "muted", "clients out of reach"),
)
LABEL_WIDTH = 7.0  # of a character of the event labels, in pixels
LINE_TOP = 0.89  # of the upper panel; the labels stand on the event lines


@dataclass(frozen=True)
class Event:
    """Deletion requests at a place on the round axis; ``done`` = applied to the global model."""

    x: float
    numbers: tuple[int, ...]
    done: bool


def timeline(results: Mapping[str, Any]) -> FigureSpec | None:
    """Panels over rounds: retain and forget accuracy; test and unseen-speaker UAR; clients out of reach.

    Returns:
        None where the results hold no timeline. The last panel is there where some client ever was away.
    """
    steps = places(rows(at(results, "timeline")))
    if not steps:
        return None
    away = _away(results)
    marked = {event.done for event in events(results, steps)}
    there = {
        "deletion applied": True in marked,
        "raised, never applied": False in marked,
        "recovery rounds": any(at(row, "phase") == "recover" for _, row in steps),
        "the same of the retrained model": bool(rows(at(results, "retrained_timeline"))),
        "clients out of reach": bool(away),
    }
    key = tuple(sign for sign in KEY if there.get(sign[2], True))
    return FigureSpec(
        "timeline",
        "Accuracy and UAR of the global model over the rounds",
        lambda width: _draw(results, steps, away, width),
        key=key,
    )


def _draw(
    results: Mapping[str, Any],
    steps: Sequence[tuple[float, Any]],
    away: Sequence[tuple[float, float]],
    width: int,
) -> Figure:
    figure = new_figure(width, 470 if away else 390, between=18)
    heights = (1.12, 1, 0.32) if away else (1.12, 1)
    panels: Sequence[Axes] = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    left, right = min(0.0, steps[0][0]), max(steps[-1][0], 1.0)
    margin = 0.012 * (right - left)
    for axes in panels:
        despine(axes, grid="y")
        axes.set_xlim(left - margin, right + margin)
        _shade_recovery(axes, steps)
    for axes, (label, curves) in zip(panels, PANELS, strict=False):
        for measure, colour in curves:
            _retrained(axes, results, measure, colour, right)
            _curve(axes, steps, measure, colour)
        axes.set_ylabel(label)
    panels[0].set_ylim(0, 1.16)
    panels[0].set_yticks((0, 0.25, 0.5, 0.75, 1))
    panels[1].set_ylim(0, 1.08 * max(panels[1].get_ylim()[1], 0.05))
    panels[1].yaxis.set_major_locator(MaxNLocator(5))
    if away:
        # A mark stands where its round ends, so a round lies between the mark before and its own.
        panels[2].bar([r - 0.5 for r, _ in away], [n for _, n in away], 1.0, color=PALETTE["muted"])
        panels[2].set_ylim(0, 1.1 * max(n for _, n in away))
        panels[2].yaxis.set_major_locator(MaxNLocator(2, integer=True))
        panels[2].set_ylabel("away")
    panels[-1].xaxis.set_major_locator(MaxNLocator(10 if width > 600 else 6, integer=True))
    panels[-1].set_xlabel("round")
    shown = [event for event in events(results, steps) if event.x <= right]
    _mark_events(panels[:2], shown, pixels=(width - 60) / (right - left))
    return figure


def _away(results: Mapping[str, Any]) -> list[tuple[float, float]]:
    told = [numbers(pair) for pair in rows(at(results, "availability", "unreachable"))]
    return [(pair[0], pair[1]) for pair in told if len(pair) == 2 and pair[1] > 0]


def places(timeline: Sequence[Any]) -> list[tuple[float, Any]]:
    """Each timeline row with its place on the round axis.

    Rows of one round share the stretch up to the next: an unlearn step after round 30 stands at 30.5.
    """
    placed: list[tuple[float, Any]] = []
    known = [row for row in timeline if number_at(row, "round") is not None]
    for round_, group in groupby(known, key=lambda row: number_at(row, "round") or 0.0):
        same = list(group)
        placed += [(round_ + i / len(same), row) for i, row in enumerate(same)]
    return placed


def events(results: Mapping[str, Any], steps: Sequence[tuple[float, Any]]) -> list[Event]:
    """Where requests were applied; those that never were stand where they were raised."""
    asked = wishes(results)
    number_of = {wish.id: number for number, wish in enumerate(asked, start=1)}
    applied: dict[float, set[int]] = {}
    for x, row in steps:
        if at(row, "phase") == "unlearn":
            named = {number_of[str(name)] for name in rows(at(row, "requests")) if str(name) in number_of}
            applied.setdefault(x, set()).update(named)
    seen = set().union(*applied.values())
    waiting: dict[float, set[int]] = {}
    for i, wish in enumerate(asked, start=1):
        if i in seen:
            continue
        if wish.applied is not None:
            applied.setdefault(wish.applied, set()).add(i)
        elif wish.raised is not None and wish.state not in FULFILLED:  # these had nothing to apply
            waiting.setdefault(wish.raised, set()).add(i)
    found = [Event(x, tuple(sorted(who)), True) for x, who in applied.items() if who]
    found += [Event(x, tuple(sorted(who)), False) for x, who in waiting.items()]
    return sorted(found, key=lambda event: event.x)


def label(numbers: Sequence[int]) -> str:
    """``#1``, ``#2–4``, ``#1, 3``; a long list becomes ``12 requests``."""
    ordered = sorted(set(numbers))
    runs = [list(run) for _, run in groupby(ordered, key=lambda n: n - ordered.index(n))]
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"#{text}" if len(text) <= 9 else f"{len(ordered)} requests"


def _shade_recovery(axes: Axes, steps: Sequence[tuple[float, Any]]) -> None:
    start = None
    for (before, _), (_, row) in zip([steps[0], *steps], steps, strict=False):
        if at(row, "phase") != "recover":
            if start is not None:
                axes.axvspan(start, before, color=PALETTE["shade"], linewidth=0, zorder=0)
            start = None
        elif start is None:
            start = before
    if start is not None:
        axes.axvspan(start, steps[-1][0], color=PALETTE["shade"], linewidth=0, zorder=0)


def _curve(axes: Axes, steps: Sequence[tuple[float, Any]], measure: str, colour: str) -> None:
    points: list[tuple[float, float]] = []
    stands = False  # whether the model is still the one of the last point
    for x, row in steps:
        y = number_at(row, measure)
        trained = at(row, "phase") in ("learn", "recover")
        if y is None:
            stands = stands and not trained
            continue
        if stands and not trained:
            points.append((x, points[-1][1]))  # a step down, not a slope
        points.append((x, y))
        stands = True
    if points:
        marker = "o" if len(points) <= 12 else None
        axes.plot(*zip(*points, strict=True), color=PALETTE[colour], marker=marker, markersize=3.5, zorder=4)


def _retrained(axes: Axes, results: Mapping[str, Any], measure: str, colour: str, right: float) -> None:
    curve = places(rows(at(results, "retrained_timeline")))
    points = [(x, y) for x, row in curve if (y := number_at(row, measure)) is not None]
    if points:
        points = [(x, y) for x, y in points if x <= right] or points
        points.append((max(right, points[-1][0]), points[-1][1]))  # training is over, the model stands
        axes.plot(*zip(*points, strict=True), color=PALETTE[colour], linewidth=1.1, dashes=(4, 2.5), zorder=3)


def _mark_events(panels: Sequence[Axes], marked: Sequence[Event], *, pixels: float) -> None:
    for event in marked:
        style = (0, ()) if event.done else (0, (1, 2))
        for axes, top in zip(panels, (LINE_TOP, 1.0), strict=True):
            axes.axvline(event.x, ymax=top, color=PALETTE["ink"], linewidth=1, linestyle=style, alpha=0.75)
    crowd: list[Event] = []
    for event in marked:
        taken = len(label([n for e in crowd for n in e.numbers])) * LABEL_WIDTH + 8
        if crowd and (event.x - crowd[0].x) * pixels > taken:
            _write_label(panels[0], crowd)
            crowd = []
        crowd.append(event)
    if crowd:
        _write_label(panels[0], crowd)


def _write_label(axes: Axes, crowd: Sequence[Event]) -> None:
    left, right = axes.get_xlim()
    at_end = crowd[0].x > left + 0.93 * (right - left)
    axes.annotate(
        label([n for event in crowd for n in event.numbers]),
        (crowd[0].x, LINE_TOP),
        xycoords=axes.get_xaxis_transform(),
        xytext=(2 if at_end else -2, 1),
        textcoords="offset points",
        ha="right" if at_end else "left",
        va="bottom",
        fontsize=11,
    )
