"""The run over its rounds: what the global model knew, and when deletions were requested and applied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.request_view import FULFILLED, view_requests
from fedunlearn.results_schema import Results, TimelineEntry

TimelineMeasure = Callable[[TimelineEntry], float | None]
Step = tuple[float, TimelineEntry]
"""an entry with its place on the round axis"""

PANELS: tuple[tuple[str, tuple[tuple[TimelineMeasure, str], ...]], ...] = (
    (
        "accuracy",
        (
            (lambda entry: entry.retain_accuracy, "green"),
            (lambda entry: entry.forget_accuracy, "vermillion"),
        ),
    ),
    ("test UAR", ((lambda entry: entry.unseen_uar, "purple"), (lambda entry: entry.test_uar, "blue"))),
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
    ("patch", "muted", "unreachable clients"),
)
LABEL_WIDTH = 7.0  # of a character of the event labels, in pixels
LINE_TOP = 0.89  # of the upper panel; the labels stand on the event lines


@dataclass(frozen=True)
class Event:
    """Deletion requests at one place on the round axis.

    Attributes:
        x: the place.
        numbers: of the requests, as in the request table.
        applied: whether they were applied to the global model.
    """

    x: float
    numbers: tuple[int, ...]
    applied: bool


def timeline(results: Results) -> FigureSpec | None:
    """Panels over rounds: retain and forget accuracy; test and unseen-speaker UAR; unreachable clients.

    Returns:
        None where the results hold no timeline. The last panel is there where some client ever was away.
    """
    steps = place_entries(results.timeline)
    if not steps:
        return None
    away = _away(results)
    marked = {event.applied for event in events(results, steps)}
    there = {
        "deletion applied": True in marked,
        "raised, never applied": False in marked,
        "recovery rounds": any(entry.phase == "recover" for _, entry in steps),
        "the same of the retrained model": bool(results.retrained_timeline),
        "unreachable clients": bool(away),
    }
    key = tuple(sign for sign in KEY if there.get(sign[2], True))
    return FigureSpec(
        "timeline",
        "Accuracy and UAR of the global model over the rounds",
        lambda width: _draw(results, steps, away, width),
        key=key,
    )


def _draw(
    results: Results,
    steps: Sequence[Step],
    away: Sequence[tuple[int, int]],
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


def _away(results: Results) -> list[tuple[int, int]]:
    return [(round_, clients) for round_, clients in results.availability.unreachable if clients > 0]


def place_entries(timeline: Sequence[TimelineEntry]) -> list[Step]:
    """Each entry of a timeline with its place on the round axis.

    Entries of one round share the stretch up to the next: an unlearn step after round 30 is at 30.5.
    """
    placed: list[Step] = []
    known = [entry for entry in timeline if entry.round is not None]
    for round_, group in groupby(known, key=lambda entry: entry.round or 0):
        same = list(group)
        placed += [(round_ + i / len(same), entry) for i, entry in enumerate(same)]
    return placed


def events(results: Results, steps: Sequence[Step]) -> list[Event]:
    """Where requests were applied; those that never were are placed where they were raised."""
    requests = view_requests(results)
    number_of = {request.id: number for number, request in enumerate(requests, start=1)}
    applied: dict[float, set[int]] = {}
    for x, entry in steps:
        if entry.phase == "unlearn":
            applied.setdefault(x, set()).update(number_of[id_] for id_ in entry.requests if id_ in number_of)
    seen = set().union(*applied.values())
    waiting: dict[float, set[int]] = {}
    for number, request in enumerate(requests, start=1):
        if number in seen:
            continue
        if request.applied is not None:
            applied.setdefault(request.applied, set()).add(number)
        elif request.raised is not None and request.state not in FULFILLED:  # these had nothing to apply
            waiting.setdefault(request.raised, set()).add(number)
    found = [Event(x, tuple(sorted(who)), True) for x, who in applied.items() if who]
    found += [Event(x, tuple(sorted(who)), False) for x, who in waiting.items()]
    return sorted(found, key=lambda event: event.x)


def label(numbers: Sequence[int]) -> str:
    """``#1``, ``#2–4``, ``#1, 3``; a long list becomes ``12 requests``."""
    ordered = sorted(set(numbers))
    runs = [list(run) for _, run in groupby(ordered, key=lambda n: n - ordered.index(n))]
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"#{text}" if len(text) <= 9 else f"{len(ordered)} requests"


def _shade_recovery(axes: Axes, steps: Sequence[Step]) -> None:
    start = None
    for (before, _), (_, entry) in zip([steps[0], *steps], steps, strict=False):
        if entry.phase != "recover":
            if start is not None:
                axes.axvspan(start, before, color=PALETTE["shade"], linewidth=0, zorder=0)
            start = None
        elif start is None:
            start = before
    if start is not None:
        axes.axvspan(start, steps[-1][0], color=PALETTE["shade"], linewidth=0, zorder=0)


def _curve(axes: Axes, steps: Sequence[Step], measure: TimelineMeasure, colour: str) -> None:
    points: list[tuple[float, float]] = []
    unchanged = False  # whether the model is still the one of the last point
    for x, entry in steps:
        y = measure(entry)
        trained = entry.phase in ("learn", "recover")
        if y is None:
            unchanged = unchanged and not trained
            continue
        if unchanged and not trained:
            points.append((x, points[-1][1]))  # a step down, not a slope
        points.append((x, y))
        unchanged = True
    if points:
        marker = "o" if len(points) <= 12 else None
        axes.plot(*zip(*points, strict=True), color=PALETTE[colour], marker=marker, markersize=3.5, zorder=4)


def _retrained(axes: Axes, results: Results, measure: TimelineMeasure, colour: str, right: float) -> None:
    curve = place_entries(results.retrained_timeline)
    points = [(x, y) for x, entry in curve if (y := measure(entry)) is not None]
    if points:
        points = [(x, y) for x, y in points if x <= right] or points
        points.append((max(right, points[-1][0]), points[-1][1]))  # the model stays as it is
        axes.plot(*zip(*points, strict=True), color=PALETTE[colour], linewidth=1.1, dashes=(4, 2.5), zorder=3)


def _mark_events(panels: Sequence[Axes], marked: Sequence[Event], *, pixels: float) -> None:
    for event in marked:
        style = (0, ()) if event.applied else (0, (1, 2))
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
