"""Figures as files for papers: all of them, in three formats, the same bytes for the same results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from results_example import eventful_results, example_results
from results_measures import add_measures
from test_report import bare
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.report import papers, write_figures
from fedunlearn.report.drawing import Drawing
from fedunlearn.report.page import render


def few(results: dict[str, Any]) -> dict[str, Any]:
    return bare(results) | {"timeline": [], "cost": None, "models": {}}


def test_the_names_are_those_of_the_page_and_of_no_other() -> None:
    results = add_measures(eventful_results())
    names = [drawing.name for drawing in papers.drawings(results)]
    assert len(names) == len(set(names)) == 20
    prefixes = set(re.findall(r'aria-label="([^"]+)"', render(results)))
    assert {drawing.says for drawing in papers.drawings(results)} == prefixes


def test_each_figure_in_three_formats_and_the_same_twice(tmp_path: Path) -> None:
    results = few(add_measures(example_results()))
    first = write_figures(results, tmp_path / "new" / "figures")
    second = write_figures(results, tmp_path / "again")
    assert [file.name for file in first] == [
        f"{d.name}.{end}" for d in papers.drawings(results) for end in ("svg", "pdf", "png")
    ]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"Date" not in next(f for f in first if f.suffix == ".pdf").read_bytes()


def test_fonts_are_embedded_as_type_42_and_png_has_300_dots_an_inch(tmp_path: Path) -> None:
    files = {
        file.name: file.read_bytes() for file in write_figures(few(add_measures(example_results())), tmp_path)
    }
    assert b"/Subtype /Type42" not in files["norms.pdf"]  # PDF calls it so:
    assert b"/FontFile2" in files["norms.pdf"] and b"/Type3" not in files["norms.pdf"]
    png = files["norms.png"]
    place = png.index(b"pHYs") + 4
    assert int.from_bytes(png[place : place + 4], "big") == 11811  # pixels a metre


def test_what_the_key_says_on_the_page_stands_inside_the_file(tmp_path: Path) -> None:
    results = add_measures(eventful_results())
    chosen = ("models", "timeline", "requests", "norms", "gaps", "roc-log", "speakers", "losses-original")
    for drawing in papers.drawings(results):
        if drawing.name in chosen:
            assert drawing.key
            text = saved(drawing, tmp_path)
            for _, _, said in drawing.key:
                assert said in text, f"{drawing.name}: {said}"
            assert drawing.title in text


def saved(drawing: Drawing, folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papers, "drawings", lambda results: [drawing])
        patch.setattr(papers, "_NOBODY", {"svg": {"Date": None}})
        (file,) = write_figures({}, folder)
    return file.read_text(encoding="utf-8")


def test_the_command_writes_them_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(few(example_results())))
    quiet = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert quiet.exit_code == 0 and not (tmp_path / "figures").exists()
    asked = CliRunner().invoke(app, ["report", str(tmp_path), "--figures"])
    assert asked.exit_code == 0, asked.output
    assert "Figures: " in asked.output
    assert (tmp_path / "report.html").exists() and (tmp_path / "figures" / "gaps.pdf").exists()
