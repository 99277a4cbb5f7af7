"""How large the requesters' updates were, beside an ordinary one: a large update tells on who sent it."""

from collections.abc import Mapping, Sequence
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
from fedunlearn.report.request_view import wishes
from fedunlearn.report.values import at, number_at, plain, rows, significant

SHOWN = 30
ROW = 24.0  # pixels
_Update = tuple[str, float, float | None]


def update_norms(results: Mapping[str, Any]) -> FigureSpec | None:
    """A row an update: its L2 norm, and the usual norm of an ordinary update then; None without any.

    With more than ``SHOWN``: the longest beside what was usual.
    """
    number_of = {wish.id: number for number, wish in enumerate(wishes(results), start=1)}
    found: list[_Update] = []
    for entry in rows(at(results, "requests")):
        norm = number_at(entry, "update_norm")
        if norm is not None:
            number = number_of.get(str(at(entry, "id")))
            name = f"#{number}" if number is not None else plain(at(entry, "id"))
            name += f"  client {plain(at(entry, 'client'))}"
            found.append((safe(name)[:24], norm, number_at(entry, "usual_norm")))
    if not found:
        return None
    longest = sorted(range(len(found)), key=lambda i: -found[i][1] / (found[i][2] or 1.0))[:SHOWN]
    shown = [found[i] for i in sorted(longest)]
    key: list[LegendEntry] = [("mark round", "blue", "update of a requester")]
    if any(usual is not None for _, _, usual in shown):
        key.append(("bar thick", "ink", "usual norm of an ordinary update"))
    return FigureSpec(
        "norms",
        "L2 norm of each requester's update beside the usual norm of an ordinary one",
        lambda width: _lollipops(shown, width),
        key=tuple(key),
    )


def _lollipops(shown: Sequence[_Update], width: int) -> Figure:
    figure = new_figure(width, 50 + ROW * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    furthest = max(max(norm, usual or 0.0) for _, norm, usual in shown) or 1.0
    limit = furthest * (1.45 if width == NARROW else 1.3)
    for y, (_, norm, usual) in enumerate(shown):
        axes.hlines(y, 0, norm, color=PALETTE["blue"], linewidth=1.6)
        axes.plot(norm, y, "o", color=PALETTE["blue"], markersize=7, markeredgewidth=0, clip_on=False)
        if usual is not None:
            axes.vlines(usual, y - 0.5, y + 0.5, color=PALETTE["ink"], linewidth=2.2)
        said = significant(norm) + (f", {significant(norm / usual)} times the usual" if usual else "")
        if width == NARROW:
            said = f"{significant(norm)}" + (f" (×{significant(norm / usual)})" if usual else "")
        reach = limit * (6.0 * len(said) + 16) / (width - 50)  # of the text, in units of the axis
        place = usual if usual and norm < usual < norm + reach else norm
        axes.annotate(
            said, (place, y), xytext=(8, -0.5), textcoords="offset points", va="center", fontsize=10
        )
    axes.set_yticks(
        range(len(shown)), [name.split("  ")[0] if width == NARROW else name for name, _, _ in shown]
    )
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xlim(0, limit)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("L2 norm")
    return figure
