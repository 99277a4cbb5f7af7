"""The style of all figures: palette, empty figure, and how a figure becomes inline SVG of a page.

A figure is a ``FigureSpec``, drawn when a page or a file needs it.

Every colour is drawn as a plain value and rewritten to a CSS variable with that value as its fallback, so
the figures take on the colours of dark pages and of print, and stay whole when copied out of a page. Text
stays text. One unit of a figure is one CSS pixel.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fedunlearn.results_schema import RANDOM_WEIGHTS

# Okabe and Ito's colours, told apart by colour-blind readers; page.css holds lighter ones for dark pages.
PALETTE = {
    "vermillion": "#d55e00",
    "orange": "#e69f00",
    "blue": "#0072b2",
    "green": "#009e73",
    "purple": "#cc79a7",
    "ink": "#1b2430",
    "muted": "#5b6775",
    "grid": "#dde3ea",
    "shade": "#e8eef5",
    "heat": "#0072b3",
    "on-heat": "#fffffe",
}
OF_MODEL = {
    "original": "vermillion",
    "unlearned": "orange",
    "recovered": "blue",
    "retrained": "green",
    RANDOM_WEIGHTS.model: "purple",
}
WIDE, NARROW = 880, 360
"""CSS pixels: of the page on a screen, and on a phone"""

LegendEntry = tuple[str, str, str]
"""A line of a figure's key: the kind of its sign (words of page.css), its colour, what it stands for"""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedunlearn",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.parse_math": False,
    "text.color": PALETTE["ink"],
    "axes.edgecolor": PALETTE["grid"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": PALETTE["grid"],
    "ytick.color": PALETTE["grid"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The style of the page's figures, whatever style the caller's process has set."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # the browser has the font
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the page, not drawn yet; in a template it becomes its SVG.

    Attributes:
        name: unique on the page; ids inside begin with it, and saved files are named by it.
        alt: what a screen reader reads out.
        draw: makes the figure for a width in CSS pixels; called within ``figure_style``.
        widths: the widest first; a second one is for phones.
        key: what its colours and signs mean; on the page it stands above, in a saved file inside.
        title: of one panel among several; on the page it stands above, in a saved file inside.
    """

    name: str
    alt: str
    draw: Callable[[int], Figure]
    widths: tuple[int, ...] = (WIDE, NARROW)
    key: tuple[LegendEntry, ...] = ()
    title: str = ""

    def svg(self, width: int | None = None) -> Markup:
        """Drawn at one width (the widest, where none is given)."""
        wide = self.widths[0] if width is None else width
        name = f"{self.name}-{wide}" if len(self.widths) > 1 else self.name
        with figure_style():
            return to_svg(self.draw(wide), name, self.alt)

    def __html__(self) -> Markup:
        if len(self.widths) == 1:
            return self.svg()
        wide, narrow = (self.svg(width) for width in self.widths)
        return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def new_figure(width: float, height: float, *, between: float = 6) -> Figure:
    """An empty transparent figure.

    Args:
        width: in CSS pixels.
        height: in CSS pixels.
        between: its panels, in CSS pixels.
    """
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
    pads = {"w_pad": 3 / 72, "h_pad": 3 / 72, "hspace": between / height}
    figure.get_layout_engine().set(**pads)  # type: ignore[union-attr]
    FigureCanvasSVG(figure)
    return figure


def despine(axes: Axes, *, grid: str) -> None:
    """Remove what carries no information.

    Args:
        axes: to change.
        grid: the axis that keeps grid lines: "x", "y" or "none".
    """
    axes.set_facecolor("none")
    axes.tick_params(length=0)
    axes.grid(False)
    if grid != "none":
        axes.grid(True, axis=grid)  # type: ignore[arg-type]
        axes.spines["left" if grid == "x" else "bottom"].set_color(PALETTE["muted"])
        axes.spines["bottom" if grid == "x" else "left"].set_visible(False)


def safe(text: Any) -> str:
    """``text`` without the control characters that XML forbids."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", " ", str(text))


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an inline SVG element.

    Args:
        figure: what to write.
        name: unique on the page; prefixes every id inside.
        alt: what a screen reader reads out.
    """
    if engine := figure.get_layout_engine():
        # Here, as ``savefig`` would draw the whole figure once more before it draws it.
        engine.execute(figure)
        figure.set_layout_engine(None)
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg, count=1).replace("xlink:href=", "href=")
    svg = re.sub(r'(\sid=")', rf"\1{name}-", svg)
    svg = re.sub(r'((?:href="|url\()#)', rf"\1{name}-", svg)
    svg = re.sub(r'style="[^"]*"', _to_variables, svg)
    width = round(figure.get_figwidth() * 72)
    height = round(figure.get_figheight() * 72)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(safe(alt))}" style="--natural: {width}px">'
    )
    return Markup(head + svg[svg.index(">") + 1 :].strip())


def _to_variables(style: re.Match[str]) -> str:
    text = style.group().replace("'DejaVu Sans'", "var(--font, sans-serif)")
    for name, value in PALETTE.items():
        text = text.replace(value, f"var(--{name}, {value})")
    return text
