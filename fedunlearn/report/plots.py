"""The figures of the pages as matplotlib axes, for notebooks and papers."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedunlearn.errors import BadInput
from fedunlearn.report.figures.export import all_figures, draw_whole
from fedunlearn.report.figures.style import figure_style
from fedunlearn.results_schema import Results

if TYPE_CHECKING:
    import pandas as pd


def plot_names(results: Results) -> list[str]:
    """List the figures that the results of a run have numbers for, in the order of its page.

    >>> plot_names(results)  # doctest: +SKIP
    ['model-dots', 'timeline', ...]

    Args:
        results: of a run.
    """
    return [spec.name for spec in all_figures(results)]


def plot(results: Results, name: str = "timeline") -> list[Axes]:
    """Draw a figure of a run's page.

    >>> axes = fu.plot(results, "timeline")  # doctest: +SKIP
    >>> axes[0].figure.savefig("timeline.pdf")  # doctest: +SKIP

    Args:
        results: of a run.
        name: one of ``plot_names(results)``.

    Returns:
        the figure's panels, from top to bottom; the whole figure is ``axes[0].figure``.

    Raises:
        BadInput: there is no such figure; the line lists those that there are.
    """
    specs = {spec.name: spec for spec in all_figures(results)}
    if name not in specs:
        raise BadInput(f"{name}: these results have no such figure; they have {', '.join(specs)}")
    with figure_style():
        return _panels(draw_whole(specs[name]))


def plot_comparison(rows: "pd.DataFrame", name: str = "gap-by-method") -> list[Axes]:
    """Draw a figure of a comparison of methods.

    >>> axes = fu.plot_comparison(fu.compare("synthetic", out="runs/compare").rows)  # doctest: +SKIP

    Args:
        rows: those of the comparison; of one aggregation, recovery and window.
        name: gap-by-method, gap-by-size, or forget-retain: the gap on forgotten against that on kept speech.

    Returns:
        the figure's panels; the whole figure is ``axes[0].figure``.

    Raises:
        BadInput: there is no such figure, or there are no rows.
    """
    from fedunlearn.report.study.figures import forget_against_retain, gap_by_method, gap_by_size

    known: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
        "gap-by-method": gap_by_method,
        "gap-by-size": gap_by_size,
        "forget-retain": forget_against_retain,
    }
    if name not in known:
        raise BadInput(f"{name}: is no figure of a comparison; there are {', '.join(known)}")
    if rows.empty:
        raise BadInput("the comparison has no rows: none of its cells has finished")
    with figure_style():
        return _panels(known[name](rows))


def _panels(figure: Figure) -> list[Axes]:
    # On the pages figures are transparent; in a dark notebook their ink could not be read.
    figure.set_facecolor("white")
    return figure.axes
