"""The figures of the pages as matplotlib axes, as a notebook draws them."""

import matplotlib as mpl
import pytest
from comparison_rows import rows_of
from matplotlib.axes import Axes
from page_reading import read
from results_example import example_results
from results_measures import add_measures

import fedunlearn as fu
from fedunlearn.errors import BadInput
from fedunlearn.results_schema import Results


@pytest.fixture(scope="module")
def results() -> Results:
    return read(add_measures(example_results()))


def test_every_figure_of_the_page_can_be_plotted(results: Results) -> None:
    names = fu.plot_names(results)
    assert {"timeline", "gaps", "norms", "cost"} <= set(names) and len(names) == len(set(names))
    for name in ("timeline", "norms", "cost"):
        axes = fu.plot(results, name)
        assert axes and all(isinstance(each, Axes) for each in axes)
        assert len({id(each.figure) for each in axes}) == 1
    accuracy, uar = fu.plot(results)[:2]
    assert (accuracy.get_ylabel(), uar.get_ylabel()) == ("accuracy", "test UAR")


def test_plotting_leaves_the_style_of_the_program_alone(results: Results) -> None:
    before = dict(mpl.rcParams)
    (axes, *_) = fu.plot(results, "norms")
    assert dict(mpl.rcParams) == before
    assert axes.figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # legible in a dark notebook


def test_a_figure_that_is_not_there_is_one_line(results: Results) -> None:
    with pytest.raises(BadInput, match=r"portrait: these results have no such figure; they have .*timeline"):
        fu.plot(results, "portrait")
    with pytest.raises(
        BadInput, match="pie: is no figure of a comparison; there are gap-by-method, gap-by-size"
    ):
        fu.plot_comparison(rows_of({"calm": [0.1]}), "pie")
    with pytest.raises(BadInput, match="no rows"):
        fu.plot_comparison(rows_of({"calm": [0.1]}).iloc[:0])


def test_a_comparison_is_plotted_with_its_means() -> None:
    """Gaps of 0.1 and 0.3 have the mean 0.2; a bar is as long as the mean."""
    (axes,) = fu.plot_comparison(rows_of({"calm": [0.1, 0.3], "none": [0.4, 0.4]}))
    bars = {round(patch.get_width(), 6) for patch in axes.patches if patch.get_width() == patch.get_width()}
    assert bars == {0.2, 0.4}
    for name in ("gap-by-size", "forget-retain"):
        assert fu.plot_comparison(rows_of({"calm": [0.1, 0.3], "none": [0.4, 0.4]}), name)
