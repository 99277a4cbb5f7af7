"""``fedunlearn explore``: what it takes, what it writes, and one line for each mistake."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from explored_runs import cell_name, made_results


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a comparison with two finished cells."""
    cells = tmp_path / "study" / "cells"
    cells.mkdir(parents=True)
    for seed in (1, 2):
        content = made_results("near", 10, seed, (0.02, -0.01, -0.01)).to_json()
        (cells / f"{cell_name('near', 10, seed)}.json").write_text(json.dumps(content))
    return tmp_path / "study"


def runs_of(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'id="data-overview">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found is not None
    runs: list[dict[str, Any]] = json.loads(found[1])["runs"]
    return runs


def test_a_run_and_a_comparison_are_on_one_page(
    study: Path, inline_run: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = inline_run
    other = tmp_path / "other"
    other.mkdir()
    results = made_results("timid", 10, 1, (0.2, 0.0, 0.0))
    (other / "results.json").write_text(json.dumps(results.to_json()))
    (other / "report.html").write_text("its report")
    code, said = call("explore", folder, other, study, "--out", tmp_path / "page.html")
    assert code == 0, said
    assert "Page to explore 4 runs, with the sound of" in said
    single, with_report, *cells = runs_of(tmp_path / "page.html")
    assert (single["method"], single["report"]) == ("calm", "")
    assert (with_report["method"], with_report["report"]) == ("timid", "other/report.html")
    assert [cell["method"] for cell in cells] == ["near", "near"]
    assert [cell["recovery"] for cell in cells] == ["gentle", "gentle"]


def test_a_page_names_nothing_that_was_deleted(inline_run: tuple[Path, Any], tmp_path: Path) -> None:
    """Neither the ids that the receipts name, nor the speakers whose they are."""
    folder, results = inline_run
    page = tmp_path / "page.html"
    assert call("explore", folder, "--out", page)[0] == 0
    receipts = [json.loads(file.read_text()) for file in folder.glob("vaults/*/receipts/*.json")]
    removed = {name for receipt in receipts for name in re.findall(r"s\d+[-_]\w+", json.dumps(receipt))}
    assert removed
    everything = page.read_text(encoding="utf-8") + json.dumps(results["answers"])
    assert not [name for name in removed if name in everything]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: is neither a run (no results.json) nor a comparison (no cells)"),
        (["study", "study"], "a folder is named twice"),
        (["study", "--out", "page.txt"], "--out page.txt: is not named as a page"),
        (["study", "--corpus", "nowhere"], "--corpus nowhere: does not exist"),
        (["empty"], "empty: holds no finished run"),
        (["broken"], "broken/cells/x.json: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], line: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    (tmp_path / "broken" / "cells").mkdir(parents=True)
    (tmp_path / "broken" / "cells" / "x.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    code, said = call("explore", *arguments)
    assert code == 2
    assert line in " ".join(said.split()) and said.count("error:") == 1
    assert not (tmp_path / "explore.html").exists()
