"""The page's figures as files for publications: each as SVG, PDF and PNG, with its key inside, on white."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fedunlearn.report.collateral import shift_bars
from fedunlearn.report.costs import cost_bars
from fedunlearn.report.fairness import by_group, by_speaker
from fedunlearn.report.figures.histograms import confusions, loss_histograms
from fedunlearn.report.figures.requests import request_lifetimes
from fedunlearn.report.figures.roc import roc_curves
from fedunlearn.report.figures.style import OF_MODEL, PALETTE, FigureSpec, LegendEntry, figure_style
from fedunlearn.report.figures.timeline import timeline
from fedunlearn.report.gaps import gap_bars
from fedunlearn.report.request_table import update_norms
from fedunlearn.report.side_by_side import model_dots
from fedunlearn.results_schema import Results

DPI = 300
"""of the PNG files; as the page's pixel is a point, a figure as wide as the page has about 3,700"""
_METADATA: Mapping[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Date", "Creator")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "png": {"Software": None},
}
_KEY_ROW = 19.0  # pixels
_MARKS = {"round": "o", "square": "s", "diamond": "D", "up": "^"}


def all_figures(results: Results) -> list[FigureSpec]:
    """Every figure that the results have numbers for, in the order of the page."""
    lifetimes, speakers = request_lifetimes(results), by_speaker(results)
    found = [
        model_dots(results),
        timeline(results),
        lifetimes.figure if lifetimes else None,
        update_norms(results),
        gap_bars(results),
        *loss_histograms(results),
        *roc_curves(results),
        shift_bars(results),
        speakers.figure if speakers else None,
        by_group(results),
        *confusions(results),
        *confusions(results, "unseen"),
        cost_bars(results),
    ]
    return [spec for spec in found if spec is not None]


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Write each figure of the page as ``NAME.svg``, ``NAME.pdf`` and ``NAME.png``.

    The same results give the same bytes. PDF files carry their fonts (TrueType, type 42), PNG files have 300
    dots per inch.

    Args:
        results: of a run; any part may be missing.
        folder: made where it is not there; files of these names are written over.

    Returns:
        The files, in the order of the page.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for spec in all_figures(results):
        with figure_style():
            mpl.rcParams.update({"pdf.fonttype": 42, "savefig.facecolor": "white"})
            figure = draw_whole(spec)
            for ending, metadata in _METADATA.items():
                files.append(folder / f"{spec.name}.{ending}")
                figure.savefig(files[-1], dpi=DPI, metadata=metadata)
    return files


def draw_whole(spec: FigureSpec) -> Figure:
    """Draw a figure with its title and key inside; called within ``figure_style``.

    Args:
        spec: of the figure.
    """
    figure = spec.draw(spec.widths[0])
    if spec.title:
        figure.axes[0].set_title(spec.title, loc="left", fontsize=11, color=PALETTE["ink"])
    _write_key(figure, spec.key)
    return figure


def _write_key(figure: Figure, key: tuple[LegendEntry, ...]) -> None:
    """The key above the panels, the figure that much higher."""
    if not key:
        return
    width = figure.get_figwidth() * 72
    longest = max(len(text) for _, _, text in key)
    columns = max(1, min(len(key), int(width / (longest * 5.6 + 44))))
    lines = -(-len(key) // columns)
    figure.set_figheight(figure.get_figheight() + (lines * _KEY_ROW + 8) / 72)
    figure.legend(
        [_sign(kind, colour) for kind, colour, _ in key],
        [text for _, _, text in key],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=10,
        handlelength=1.8,
        columnspacing=1.4,
    )


def _sign(kind: str, colour: str) -> Artist:
    """A sign of the page's key (its kinds are classes of page.css) as matplotlib draws it."""
    shape, *more = kind.split()
    rgb = PALETTE[_of(colour)]
    if shape == "line":
        style: Any = {"dashed": (0, (4, 2.5)), "dotted": (0, (1, 2))}.get(" ".join(more), "solid")
        return Line2D([], [], color=rgb, linewidth=1.8, linestyle=style)
    if shape == "bar" and "lying" in more:
        return Line2D([], [], color=rgb, linewidth=1.4)
    if shape == "bar":
        thick = 3.0 if "thick" in more else 1.4
        return Line2D([], [], color=rgb, linestyle="", marker="|", markersize=11, markeredgewidth=thick)
    if shape in ("mark", "ring") or "small" in more:
        mark = _MARKS[more[0]] if shape == "mark" else "o" if shape == "ring" else "s"
        face = "none" if shape == "ring" else rgb
        return Line2D([], [], linestyle="", marker=mark, markersize=7, color=rgb, markerfacecolor=face)
    if "hatched" in more or "crossed" in more:
        hatch = "////" if "hatched" in more else "xxxx"
        return Patch(facecolor="none", edgecolor=rgb, hatch=hatch, linewidth=0.8)
    return Patch(facecolor=rgb, alpha=0.45 if "pale" in more else 1.0, linewidth=0)


def _of(colour: str) -> str:
    """A colour of the palette by its own name, or by the model that has it ("of-recovered")."""
    return OF_MODEL[colour.removeprefix("of-")] if colour.startswith("of-") else colour
