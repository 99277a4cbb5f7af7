"""One panel for each model: losses of forget and test utterances, and confusion matrices."""

from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedunlearn.report.figures.style import PALETTE, FigureSpec, despine, new_figure, safe
from fedunlearn.report.names import MODELS
from fedunlearn.results_schema import ModelScores, Results

CONFUSION_NUMBERS_UP_TO = 10  # emotions; more would not be legible
LOSSES_KEY = (("patch", "vermillion", "forget utterances"), ("patch", "blue", "test utterances"))


def loss_histograms(results: Results) -> list[FigureSpec]:
    """Loss of forget and of test utterances, a panel a model, all on the same axes."""
    panels = {}
    for name in MODELS:
        losses = results.models[name].losses
        edges, counts = losses.edges, (losses.forget, losses.test)
        if len(edges) > 1 and all(len(c) == len(edges) - 1 for c in counts):
            panels[name] = (edges, [[n / (sum(c) or 1.0) for n in c] for c in counts])
    if not any(sum(forget) > 0 for _, (forget, _) in panels.values()):
        return []
    highest = max((max(c, default=0.0) for _, shares in panels.values() for c in shares), default=0.0) or 1.0
    used = [e[i + 1] for e, shares in panels.values() for c in shares for i, n in enumerate(c) if n > 0]
    limits = (min(edges[0] for edges, _ in panels.values()), max(used, default=1.0))
    logarithmic = all(_grows_by_ratio(edges) for edges, _ in panels.values())
    return [
        FigureSpec(
            f"losses-{name}",
            f"Losses of the {name} model: forget against test utterances",
            partial(_histogram, edges, shares, limits, highest, logarithmic),
            widths=(280,),
            key=LOSSES_KEY,
            title=name,
        )
        for name, (edges, shares) in panels.items()
    ]


def _histogram(
    edges: list[float],
    shares: list[list[float]],
    limits: tuple[float, float],
    highest: float,
    logarithmic: bool,
    width: int,
) -> Figure:
    figure = new_figure(width, 0.75 * width)
    axes = figure.subplots()
    despine(axes, grid="y")
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
    axes.set_xlabel("loss (nats)")
    return figure


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0.0))


def _grows_by_ratio(edges: list[float]) -> bool:
    if edges[0] <= 0 or len(edges) < 3:
        return False
    ratios = np.divide(edges[1:], edges[:-1])
    return bool(ratios.min() > 1 and np.allclose(ratios, ratios[0], rtol=0.05))


def confusions(results: Results, part: Literal["test", "unseen"] = "test") -> list[FigureSpec]:
    """Confusion on the "test" or the "unseen" utterances, each row as shares of its true emotion."""
    emotions = [safe(name) for name in results.corpus.emotions]
    utterances = {"test": "test utterances", "unseen": "utterances of unseen speakers"}[part]
    specs = []
    for name in ("original", "recovered", "retrained"):
        table = _counts(results.models[name], part)
        if table and all(len(row) == len(table) for row in table):
            labels = emotions if len(emotions) == len(table) else [str(i) for i in range(len(table))]
            specs.append(
                FigureSpec(
                    f"confusion-{name}" if part == "test" else f"confusion-{part}-{name}",
                    f"Confusion matrix of the {name} model on {utterances}",
                    partial(_confusion, np.asarray(table, dtype=float), labels),
                    widths=(300,),
                    title=name,
                )
            )
    return specs


def _counts(scores: ModelScores, part: Literal["test", "unseen"]) -> list[list[int]]:
    return scores.confusion.test if part == "test" else scores.confusion.unseen


def _confusion(table: np.ndarray[Any, Any], labels: list[str], width: int) -> Figure:
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    n = len(labels)
    figure = new_figure(width, width - 10)
    axes: Axes = figure.subplots()
    despine(axes, grid="none")
    places = list(np.ndindex(n, n))
    cells = axes.bar(
        [j for _, j in places], 0.96, 0.96, bottom=[i - 0.48 for i, _ in places], color=PALETTE["heat"]
    )
    for (i, j), cell in zip(places, cells, strict=True):
        share = float(shares[i, j])
        cell.set_alpha(0.04 + 0.96 * share)
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
    return figure
