"""The other figures: gaps, losses, confusion, cost. Each is None where the results lack its numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fedunlearn.report.drawing import OF_MODEL, PALETTE, ink, quiet, safe, sheet, to_svg
from fedunlearn.report.tables import MODELS
from fedunlearn.report.values import (
    MISSING,
    at,
    duration,
    fraction,
    noise_floor,
    number_at,
    numbers,
    rows,
    size,
)

GAPS = ("none", "destroy", "unlearned", "recovered")
GAP_MEASURES = ("mean", "forget", "retain", "test", "membership")
CONFUSION_NUMBERS_UP_TO = 10  # emotions; more would not be legible


def gap_bars(results: Mapping[str, Any]) -> Markup | None:
    """Distance to the retrained model by measure and model; a tick across marks the noise floor."""
    if not isinstance(at(results, "gap"), Mapping):
        return None
    with ink():
        figure = sheet(390, 380)
        axes = figure.subplots()
        quiet(axes, grid="x")
        height = 0.8 / len(GAPS)
        longest = 0.05
        for group, measure in enumerate(GAP_MEASURES):
            floor = noise_floor(results, measure)
            for i, name in enumerate(reversed(GAPS)):
                y = group + (i - (len(GAPS) - 1) / 2) * height
                gap = number_at(results, "gap", name, measure)
                longest = max(longest, gap or 0.0)
                axes.barh(y, gap or 0.0, 0.88 * height, color=PALETTE[OF_MODEL[name]])
                _beside(axes, fraction(gap), max(gap or 0.0, floor or 0.0), y)
            if floor is not None:
                axes.vlines(floor, group - 0.45, group + 0.45, color=PALETTE["ink"], linewidth=1.4)
        axes.set_yticks(range(len(GAP_MEASURES)), GAP_MEASURES)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_xlim(0, 1.13 * longest)
        axes.set_ylim(len(GAP_MEASURES) - 0.45, -0.55)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("distance to the retrained model")
        return to_svg(figure, "gaps", "Distance to the retrained model by measure")


def _beside(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(4, -0.5), textcoords="offset points", va="center", fontsize=10)


def loss_histograms(results: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Loss of forget and of test utterances, a panel a model, all on the same axes."""
    panels = {}
    for name in MODELS:
        record = at(results, "models", name, "losses")
        edges, *counts = (numbers(at(record, key)) for key in ("edges", "forget", "test"))
        if len(edges) > 1 and all(len(c) == len(edges) - 1 for c in counts):
            panels[name] = (edges, [[n / (sum(c) or 1.0) for n in c] for c in counts])
    if not panels:
        return []
    highest = max((max(c, default=0.0) for _, shares in panels.values() for c in shares), default=0.0) or 1.0
    used = [e[i + 1] for e, shares in panels.values() for c in shares for i, n in enumerate(c) if n > 0]
    limits = (min(edges[0] for edges, _ in panels.values()), max(used, default=1.0))
    logarithmic = all(_grows_by_ratio(edges) for edges, _ in panels.values())
    return [
        (name, _histogram(name, edges, shares, limits, highest, logarithmic=logarithmic))
        for name, (edges, shares) in panels.items()
    ]


def _histogram(
    name: str,
    edges: list[float],
    shares: list[list[float]],
    limits: tuple[float, float],
    highest: float,
    *,
    logarithmic: bool,
) -> Markup:
    with ink():
        figure = sheet(280, 210)
        axes = figure.subplots()
        quiet(axes, grid="y")
        for values, colour in zip(reversed(shares), ("blue", "vermillion"), strict=True):
            axes.stairs(values, edges, color=PALETTE[colour], fill=True, alpha=0.25)
            axes.stairs(values, edges, color=PALETTE[colour], linewidth=1.4)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(*limits)
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set_ylim(0, 1.05 * highest)
        ticks = [tick for tick in (0, 0.02, 0.1, 0.25, 0.5, 0.75, 1) if tick <= 1.05 * highest]
        axes.set_yticks(ticks, [f"{100 * tick:.0f}%" for tick in ticks])
        axes.set_xlabel("loss")
        return to_svg(figure, f"losses-{name}", f"Losses of the {name} model: forget against test utterances")


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0.0))


def _grows_by_ratio(edges: list[float]) -> bool:
    if edges[0] <= 0 or len(edges) < 3:
        return False
    ratios = np.divide(edges[1:], edges[:-1])
    return bool(ratios.min() > 1 and np.allclose(ratios, ratios[0], rtol=0.05))


def confusions(results: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Confusion on the test utterances, each row as shares of its true emotion."""
    emotions = [safe(name) for name in rows(at(results, "corpus", "emotions"))]
    drawn = []
    for name in ("original", "recovered", "retrained"):
        table = [numbers(row) for row in rows(at(results, "models", name, "confusion", "test"))]
        if table and all(len(row) == len(table) for row in table):
            labels = emotions if len(emotions) == len(table) else [str(i) for i in range(len(table))]
            drawn.append((name, _confusion(name, np.asarray(table, dtype=float), labels)))
    return drawn


def _confusion(name: str, table: np.ndarray[Any, Any], labels: list[str]) -> Markup:
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    n = len(labels)
    with ink():
        figure = sheet(300, 290)
        axes: Axes = figure.subplots()
        quiet(axes, grid="none")
        for i, j in np.ndindex(n, n):
            share = float(shares[i, j])
            shade = 0.04 + 0.96 * share
            axes.bar(j, 0.96, 0.96, bottom=i - 0.48, color=PALETTE["heat"], alpha=shade)
            if n <= CONFUSION_NUMBERS_UP_TO and share >= 0.005:
                colour = PALETTE["on-heat" if share > 0.8 else "ink"]
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=11)
        short = [text if len(text) <= 11 else f"{text[:10]}…" for text in labels]
        slope = 45 if n <= CONFUSION_NUMBERS_UP_TO else 90
        axes.set_xticks(range(n), short, rotation=slope, ha="right", va="center", rotation_mode="anchor")
        axes.set_yticks(range(n), short)
        axes.tick_params(labelsize=11 if n <= CONFUSION_NUMBERS_UP_TO else 9)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xlabel("recognised as")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return to_svg(figure, f"confusion-{name}", f"Confusion matrix of the {name} model on test utterances")


def cost_bars(results: Mapping[str, Any]) -> Markup | None:
    """Client-seconds and traffic of unlearn + recover, of retraining and of learning; log scales."""
    if not isinstance(at(results, "cost"), Mapping):
        return None
    lines = (
        ("unlearn", ("unlearn",), "orange"),
        ("unlearn + recover", ("unlearn", "recover"), "blue"),
        ("retrain", ("retrain",), "green"),
    )
    measures = (
        ("client time", ("client_seconds",), duration, lambda x: f"{x:,g} s"),
        ("sent up and down", ("bytes_up", "bytes_down"), size, size),
    )
    with ink():
        figure = sheet(390, 240)
        panels = figure.subplots(2, 1)
        for axes, (title, columns, write, tick) in zip(panels, measures, strict=True):
            quiet(axes, grid="x")
            totals = [_total(results, names, columns) for _, names, _ in lines]
            known = [value for value in totals if value]
            low = 10 ** math.floor(math.log10(min(known)) - 0.3) if known else 0.1
            high = max(known, default=1.0)
            for y, ((_, _, colour), total) in enumerate(zip(lines, totals, strict=True)):
                axes.barh(y, total or low, 0.66, color=PALETTE[colour])
                said = MISSING if total is None else write(total)
                _beside(axes, said, total or low, y)
            axes.set_xscale("log")
            axes.set_xlim(low, high * (high / low) ** 0.2)
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _, tick=tick: _brief(tick(x))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_yticks(range(len(lines)), [text for text, _, _ in lines])
            axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
            axes.set_ylim(len(lines) - 0.5, -0.5)
            axes.set_title(title, loc="left", fontsize=11, color=PALETTE["muted"])
        return to_svg(figure, "cost", "Cost of unlearning and recovery against retraining")


def _total(results: Mapping[str, Any], names: tuple[str, ...], columns: tuple[str, ...]) -> float | None:
    parts = [number_at(results, "cost", name, column) for name in names for column in columns]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _brief(text: str) -> str:
    digits, _, unit = text.partition(" ")
    return f"{float(digits.replace(',', '')):g} {unit}" if digits else text
