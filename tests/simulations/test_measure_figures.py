"""The page of measures has a figure for each of them, drawn from numbers."""

import re
from pathlib import Path

import pytest

from fedunlearn.seeding import rng_for
from measure_figures import examples, figures
from measure_figures.figures import write_measure_figures

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_figure_stands_on_the_page_once_and_lies_in_its_folder() -> None:
    page = (DOCS / "measures.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(figures/measures-([a-z0-9]+)\.svg\)", page)
    assert sorted(shown) == sorted(figures.NAMES)
    assert {f.stem for f in (DOCS / "figures").glob("measures-*")} == {f"measures-{n}" for n in shown}


def test_figures_are_drawn_from_their_numbers_and_the_same_again(tmp_path: Path) -> None:
    numbers = {
        "gap": examples.of_gap(),
        "tow": examples.of_tug_of_war(),
        "w1": examples.of_outlier(),
        "js": examples.of_outputs(),
        "gum": examples.of_gum(),
        "fairness": examples.of_fairness(rng_for(1, "fairness")),
    }
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        files = write_measure_figures(numbers, folder)
        assert {f.name for f in files} == {f"measures-{name}.svg" for name in numbers}
        written.append([f.read_bytes() for f in sorted(files)])
    assert written[0] == written[1]


def test_the_examples_say_what_the_page_says_of_them() -> None:
    """Least gap at the retrained model, both ends far; GUM likes a model at chance, CGUM does not."""
    gap = examples.of_gap()
    least = min(range(len(gap["gap"])), key=gap["gap"].__getitem__)
    assert gap["forget"][least] == pytest.approx(gap["retrained"], abs=0.03)
    assert min(gap["gap"][0], gap["gap"][-1]) > 5 * gap["floor"]
    gum = examples.of_gum()
    assert max(gum["chance"]["gum"]) > 0.6 and max(gum["chance"]["cgum"]) == 0.0
    outlier = examples.of_outlier()
    assert outlier["w1"][-1] == pytest.approx(1.0, abs=1e-9) and max(outlier["ks"]) == pytest.approx(1 / 48)
    fair = examples.of_fairness(rng_for(1, "fairness"))
    one, everybody = (fair[name]["change"]["unlearned"] for name in ("one", "everybody"))
    assert one["mean"] == pytest.approx(everybody["mean"])
    assert one["worst"] < 10 * everybody["worst"] < 0
