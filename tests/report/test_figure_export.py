"""Figures as files for publications: all of them, in three formats, the same bytes for the same results."""

import html
import json
import re
from pathlib import Path

import pytest
from page_reading import bare, read
from results_example import eventful_results, example_results
from results_measures import add_measures
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.report.figures import export
from fedunlearn.report.figures.export import write_figures
from fedunlearn.report.figures.style import FigureSpec
from fedunlearn.report.run_page import render


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all the figures two: the others take longer and are written alike."""
    every = export.all_figures
    monkeypatch.setattr(
        export, "all_figures", lambda results: [d for d in every(results) if d.name in ("norms", "cost")]
    )


def test_the_files_are_of_the_figures_of_the_page() -> None:
    results = bare(add_measures(eventful_results())) | {"timeline": []}
    drawn = export.all_figures(read(results))
    assert len({drawing.name for drawing in drawn}) == len(drawn) == 10
    on_page = {
        html.unescape(says) for says in re.findall(r'role="img" aria-label="([^"]+)"', render(read(results)))
    }
    assert {drawing.alt for drawing in drawn} == on_page


def test_every_figure_has_a_name_of_its_own() -> None:
    names = [drawing.name for drawing in export.all_figures(read(add_measures(eventful_results())))]
    assert len(names) == len(set(names)) == 21


@pytest.mark.usefixtures("two")
def test_each_figure_in_three_formats_and_the_same_twice(tmp_path: Path) -> None:
    results = add_measures(example_results())
    first = write_figures(read(results), tmp_path / "new" / "figures")
    second = write_figures(read(results), tmp_path / "again")
    assert [file.name for file in first] == [
        "norms.svg",
        "norms.pdf",
        "norms.png",
        "cost.svg",
        "cost.pdf",
        "cost.png",
    ]
    files = {file.name: file.read_bytes() for file in first}
    assert [file.read_bytes() for file in second] == list(files.values())
    assert b"Date" not in files["norms.pdf"], "nor in the SVG:"
    assert b"<dc:date>" not in files["norms.svg"]
    assert b"/FontFile2" in files["norms.pdf"], "TrueType, embedded as type 42"
    assert b"/Type3" not in files["norms.pdf"]
    place = files["norms.png"].index(b"pHYs") + 4
    assert int.from_bytes(files["norms.png"][place : place + 4], "big") == 11811, "pixels a metre: 300 dpi"


def test_what_the_key_says_on_the_page_stands_inside_the_file(tmp_path: Path) -> None:
    results = add_measures(eventful_results())
    chosen = ("models", "timeline", "requests", "norms", "gaps", "roc-log", "speakers", "losses-original")
    for drawing in export.all_figures(read(results)):
        if drawing.name in chosen:
            assert drawing.key
            text = saved(drawing, tmp_path)
            for _, _, label in drawing.key:
                assert label in text, f"{drawing.name}: {label}"
            assert drawing.title in text


def saved(drawing: FigureSpec, folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "all_figures", lambda results: [drawing])
        patch.setattr(export, "_METADATA", {"svg": {"Date": None}})
        (file,) = write_figures(read({}), folder)
    return file.read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_the_command_writes_them_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(bare(example_results())))
    despine = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert despine.exit_code == 0 and not (tmp_path / "figures").exists()
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--figures"])
    assert done.exit_code == 0, done.output
    assert "Figures: " in done.output
    assert (tmp_path / "report.html").exists() and (tmp_path / "figures" / "cost.pdf").exists()
