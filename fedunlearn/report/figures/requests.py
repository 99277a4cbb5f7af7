"""Each request over the rounds: how long it waited, for what, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import (
    NARROW,
    PALETTE,
    FigureSpec,
    LegendEntry,
    despine,
    new_figure,
    safe,
)
from fedunlearn.report.request_view import CLOSED, FULFILLED, RequestView, view_requests
from fedunlearn.report.values import count
from fedunlearn.results_schema import Results

SHOWN = 30
ROW = 26.0  # pixels
BAR = 0.42  # of a row


@dataclass(frozen=True)
class Lifetimes:
    """The figure of the requests.

    Attributes:
        figure: a line for each request drawn.
        left_out: number of requests that it leaves out.
        deadline: whether one of those drawn has a deadline.
    """

    figure: FigureSpec
    left_out: int
    deadline: bool


def request_lifetimes(results: Results) -> Lifetimes | None:
    """One line for each request over the rounds; None where each was served in the round that raised it.

    With more than ``SHOWN`` requests: those that are not fulfilled, are overdue, or waited longest.
    """
    numbered = [(n, request) for n, request in enumerate(view_requests(results), start=1) if request.history]
    if not any(_took_time(request) for _, request in numbered):
        return None
    by_interest = sorted(
        numbered, key=lambda each: (each[1].state in FULFILLED, not each[1].overdue, -(each[1].waited or 0))
    )
    shown = sorted(by_interest[:SHOWN], key=lambda each: each[0])
    absent = _absences(results)
    away = any(absent.get(client) for _, request in shown for client in request.clients)
    overdue = any(request.overdue for _, request in shown)
    deadline = any(request.late_by is not None and not request.overdue for _, request in shown)
    figure = FigureSpec(
        "requests",
        "Each request over the rounds: raised, applied to the model, verified",
        lambda width: _draw(shown, absent, width=width, narrow=width == NARROW),
        key=_key(deadline=deadline, offline=away, overdue=overdue),
    )
    return Lifetimes(figure, len(numbered) - len(shown), deadline or overdue)


def _key(*, deadline: bool, offline: bool, overdue: bool) -> tuple[LegendEntry, ...]:
    always: tuple[LegendEntry, ...] = (
        ("ring", "ink", "raised"),
        ("patch pale", "orange", "waiting"),
        ("patch small", "blue", "applied to the model"),
        ("patch pale", "blue", "not yet purged and searched"),
        ("bar thick", "green", "verified"),
    )
    sometimes: tuple[tuple[bool, LegendEntry], ...] = (
        (deadline, ("bar dashed", "ink", "deadline")),
        (offline, ("patch hatched", "muted", "its client was offline")),
        (overdue, ("patch crossed", "vermillion", "past its deadline")),
    )
    return (*always, *(sign for there, sign in sometimes if there))


def describe_end(request: RequestView) -> str:
    """How it ended, in a word or three."""
    state = _shorten(request.state)
    if request.overdue:
        late = request.late_by
        return f"{state}, overdue by {count(late)}" if late is not None and late > 0 else "overdue"
    return state if request.state in (*FULFILLED, *CLOSED) else f"{state}, open"


def _shorten(text: str) -> str:
    text = safe(text)
    return text if len(text) <= 16 else f"{text[:15]}…"


def _took_time(request: RequestView) -> bool:
    return request.state not in FULFILLED or len(set(request.history.values())) > 1


def _absences(results: Results) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for client, start, end in results.availability.requesters:
        found.setdefault(str(client), []).append((start, end))
    return found


def _draw(
    shown: Sequence[tuple[int, RequestView]],
    absent: Mapping[str, Sequence[tuple[int, int]]],
    *,
    width: int,
    narrow: bool,
) -> Figure:
    first = min(min(request.history.values()) for _, request in shown)
    last = max(max(*request.history.values(), request.end or 0) for _, request in shown)
    figure = new_figure(width, 58 + ROW * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    margin = 0.03 * max(last - first, 1.0)
    axes.set_xlim(first - margin, max(last, first + 1.0) + margin)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    for y, (_, request) in enumerate(shown):
        for client in request.clients:
            for start, end in absent.get(client, ()):
                # A mark stands where its round ends, so a round lies between the mark before and its own.
                _absence(axes, y, max(start - 1, first - margin), min(end - 1, last + margin))
        _draw_request(axes, y, request, request.end if request.end is not None else last)
    names = [f"#{n}" if narrow else f"#{n}  client {_shorten(', '.join(w.clients))}" for n, w in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    ends = axes.secondary_yaxis("right")
    words = [describe_end(request).replace(", ", "\n", narrow) for _, request in shown]
    ends.set_yticks(range(len(shown)), words)
    ends.tick_params(length=0, labelcolor=PALETTE["ink"], labelsize=10 if narrow else 11)
    ends.spines["right"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10, integer=True))
    axes.set_xlabel("round")
    return figure


def _absence(axes: Axes, y: int, start: float, end: float) -> None:
    if end > start:
        axes.barh(
            y,
            end - start,
            0.84,
            left=start,
            facecolor="none",
            edgecolor=PALETTE["muted"],
            hatch="////",
            linewidth=0.0,
            zorder=1,
        )


def _draw_request(axes: Axes, y: int, request: RequestView, now: float) -> None:
    reached = request.history
    raised = reached.get("raised", min(reached.values()))
    over = next((reached[state] for state in ("verified", "purged", *CLOSED) if state in reached), None)
    done = now if over is None or request.state not in (*FULFILLED, *CLOSED) else over
    applied = reached.get("applied", done)
    axes.barh(y, applied - raised, BAR, left=raised, color=PALETTE["orange"], alpha=0.45, zorder=2)
    axes.barh(y, done - applied, BAR, left=applied, color=PALETTE["blue"], alpha=0.45, zorder=2)
    due = None if request.late_by is None else done - request.late_by
    if request.overdue and due is not None and done > due:
        left = max(due, raised)
        axes.barh(
            y,
            done - left,
            BAR,
            left=left,
            facecolor="none",
            edgecolor=PALETTE["vermillion"],
            hatch="xxxx",
            linewidth=1.4,
            zorder=3,
        )
    elif due is not None and request.state not in CLOSED:
        axes.vlines(due, y - 0.4, y + 0.4, PALETTE["ink"], linewidth=1.2, linestyle=(0, (1, 1.5)))
    _mark(axes, raised, y, "o", PALETTE["ink"], size=11, hollow=True)
    for state in ("accepted", "unlearned"):
        if state in reached and reached[state] not in (raised, applied):
            _mark(axes, reached[state], y, "|", PALETTE["ink"], size=7)
    if "applied" in reached:
        _mark(axes, applied, y, "s", PALETTE["blue"], size=6)
    if "verified" in reached and request.state == "verified":
        _mark(axes, reached["verified"], y, "|", PALETTE["green"], size=17, thick=3.0)
    if request.state == "withdrawn":
        _mark(axes, done, y, "x", PALETTE["ink"], size=8, thick=2.0)
    elif request.state == "refused":
        _mark(axes, done, y, "v", PALETTE["vermillion"], size=10, hollow=True)
    elif request.state not in FULFILLED:
        _mark(axes, done, y, ">", PALETTE["ink"], size=9, hollow=True)


def _mark(
    axes: Axes,
    x: float,
    y: float,
    shape: str,
    colour: str,
    *,
    size: float,
    hollow: bool = False,
    thick: float = 1.6,
) -> None:
    face = "none" if hollow else colour
    axes.plot(
        x,
        y,
        marker=shape,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=colour,
        markeredgewidth=thick,
        linestyle="",
        zorder=5,
        clip_on=False,
    )
