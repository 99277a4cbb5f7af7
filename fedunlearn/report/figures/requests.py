"""Each request's way over the rounds: how long it waited, for what, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from fedunlearn.report.request_view import CLOSED, FULFILLED, RequestView, wishes
from fedunlearn.report.values import at, count, number, rows

SHOWN = 30
ROW = 26.0  # pixels
BAR = 0.42  # of a row


@dataclass(frozen=True)
class Lives:
    """The figure, how many requests it leaves out, and whether one of those drawn has a deadline."""

    drawing: FigureSpec
    left_out: int
    deadline: bool


def request_lives(results: Mapping[str, Any]) -> Lives | None:
    """A row a request, rounds across; None where each was served in the round in which it was raised.

    With more than ``SHOWN`` requests: those that are not fulfilled, are overdue, or waited longest.
    """
    numbered = [(n, wish) for n, wish in enumerate(wishes(results), start=1) if wish.history]
    if not any(_took_time(wish) for _, wish in numbered):
        return None
    telling = sorted(
        numbered, key=lambda each: (each[1].state in FULFILLED, not each[1].overdue, -(each[1].waited or 0.0))
    )
    shown = sorted(telling[:SHOWN], key=lambda each: each[0])
    absent = _absences(results)
    away = any(absent.get(client) for _, wish in shown for client in wish.clients)
    overdue = any(wish.overdue for _, wish in shown)
    deadline = any(wish.late_by is not None and not wish.overdue for _, wish in shown)
    drawing = FigureSpec(
        "requests",
        "Each request over the rounds: raised, applied to the model, verified",
        lambda width: _draw(shown, absent, width=width, narrow=width == NARROW),
        key=_key(deadline=deadline, offline=away, overdue=overdue),
    )
    return Lives(drawing, len(numbered) - len(shown), deadline or overdue)


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


def ending(wish: RequestView) -> str:
    """How it ended, in a word or three."""
    state = _short(wish.state)
    if wish.overdue:
        late = wish.late_by
        return f"{state}, overdue by {count(late)}" if late is not None and late > 0 else "overdue"
    return state if wish.state in (*FULFILLED, *CLOSED) else f"{state}, open"


def _short(text: str) -> str:
    text = safe(text)
    return text if len(text) <= 16 else f"{text[:15]}…"


def _took_time(wish: RequestView) -> bool:
    return wish.state not in FULFILLED or len(set(wish.history.values())) > 1


def _absences(results: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for absence in rows(at(results, "availability", "requesters")):
        known = [number(value) for value in rows(absence)]
        if len(known) == 3 and known[0] is not None and known[1] is not None and known[2] is not None:
            found.setdefault(f"{known[0]:.0f}", []).append((known[1], known[2]))
    return found


def _draw(
    shown: Sequence[tuple[int, RequestView]],
    absent: Mapping[str, Sequence[tuple[float, float]]],
    *,
    width: int,
    narrow: bool,
) -> Figure:
    first = min(min(wish.history.values()) for _, wish in shown)
    last = max(max(*wish.history.values(), wish.end or 0.0) for _, wish in shown)
    figure = new_figure(width, 58 + ROW * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    margin = 0.03 * max(last - first, 1.0)
    axes.set_xlim(first - margin, max(last, first + 1.0) + margin)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    for y, (_, wish) in enumerate(shown):
        for client in wish.clients:
            for start, end in absent.get(client, ()):
                # A mark stands where its round ends, so a round lies between the mark before and its own.
                _absence(axes, y, max(start - 1, first - margin), min(end - 1, last + margin))
        _life(axes, y, wish, wish.end if wish.end is not None else last)
    names = [f"#{n}" if narrow else f"#{n}  client {_short(', '.join(w.clients))}" for n, w in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    ends = axes.secondary_yaxis("right")
    words = [ending(wish).replace(", ", "\n", narrow) for _, wish in shown]
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


def _life(axes: Axes, y: int, wish: RequestView, now: float) -> None:
    way = wish.history
    raised = way.get("raised", min(way.values()))
    over = next((way[state] for state in ("verified", "purged", *CLOSED) if state in way), None)
    done = now if over is None or wish.state not in (*FULFILLED, *CLOSED) else over
    applied = way.get("applied", done)
    axes.barh(y, applied - raised, BAR, left=raised, color=PALETTE["orange"], alpha=0.45, zorder=2)
    axes.barh(y, done - applied, BAR, left=applied, color=PALETTE["blue"], alpha=0.45, zorder=2)
    due = None if wish.late_by is None else done - wish.late_by
    if wish.overdue and due is not None and done > due:
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
    elif due is not None and wish.state not in CLOSED:
        axes.vlines(due, y - 0.4, y + 0.4, PALETTE["ink"], linewidth=1.2, linestyle=(0, (1, 1.5)))
    _mark(axes, raised, y, "o", PALETTE["ink"], size=11, hollow=True)
    for state in ("accepted", "unlearned"):
        if state in way and way[state] not in (raised, applied):
            _mark(axes, way[state], y, "|", PALETTE["ink"], size=7)
    if "applied" in way:
        _mark(axes, applied, y, "s", PALETTE["blue"], size=6)
    if "verified" in way and wish.state == "verified":
        _mark(axes, way["verified"], y, "|", PALETTE["green"], size=17, thick=3.0)
    if wish.state == "withdrawn":
        _mark(axes, done, y, "x", PALETTE["ink"], size=8, thick=2.0)
    elif wish.state == "refused":
        _mark(axes, done, y, "v", PALETTE["vermillion"], size=10, hollow=True)
    elif wish.state not in FULFILLED:
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
