"""A study from its config to claims, tables, figures and a page, by the command and from Python."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import command_line
import pytest

import fedunlearn as fu
from fedunlearn.experiment.reference_cache import Learned, ReferenceCache
from fedunlearn.study.joining import check_study_file, join_rows
from fedunlearn.study.rows import csv_of
from fedunlearn.study.runner import StudyRunner
from fedunlearn.study.study_file import read_study

SEEDS = 2
CELLS = SEEDS * (2 * 2 + 2 + 1)
"""two sizes of two variants, two swept values, one variant with recovery"""


def write_study(folder: Path, **changed: Any) -> Path:
    """The small experiment as a study with three questions and three claims."""
    gap = {"measure": "gap", "relation": "below"}
    study = {
        "seeds": list(range(SEEDS)),
        "requesters": [1],
        "sizes": [3, 4],
        "recoveries": ["none"],
        "notes": ["The protocol of a <paper>."],
        "variants": [{"name": "relabel", "method": "l2ul", "settings": {"hold": "none"}}],
        "sweeps": [{"name": "tau", "variant": "relabel", "key": "gradient_clip", "values": [0.1, 1.0]}],
        "questions": [
            {"title": "Which method?", "variants": ["relabel", "none"]},
            {"title": "Which tau", "sweep": "tau", "sizes": [4]},
            {"title": "With recovery", "variants": ["relabel"], "sizes": [4], "recoveries": ["gentle"]},
        ],
        "claims": [
            {"text": "Does nothing", "parts": [{**gap, "of": "none", "less": "original", "bound": 0.01}]},
            {"text": "Is worse", "parts": [{**gap, "of": "none", "less": "original", "bound": -0.01}]},
            {"text": "Tau matters", "parts": [{**gap, "of": "tau 0.1", "less": "tau 1", "sizes": [3]}]},
        ],
        **changed,
    }
    return command_line.small_file(folder, evaluation__retrained_seeds=2, study=study)


def read(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "client_seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A study, the reference keys that were trained for it, and its output."""
    folder, kept = tmp_path_factory.mktemp("study"), list[str]()
    keep = ReferenceCache.keep
    with pytest.MonkeyPatch.context() as patch:

        def noted(self: ReferenceCache, key: str, learned: Learned) -> None:
            kept.append(key)
            keep(self, key, learned)

        patch.setattr(ReferenceCache, "keep", noted)
        code, output = command_line.call("compare", "--config", write_study(folder), "--out", folder / "out")
    assert code == 0, output
    return folder / "out", kept, output


def test_each_cell_is_run_once_and_what_it_shares_is_trained_once(
    finished: tuple[Path, list[str], str],
) -> None:
    out, kept, _ = finished
    assert len(list((out / "cells").iterdir())) == CELLS
    assert len(kept) == len(set(kept)) == SEEDS * (1 + 2 * 2), "an original, 2 retrained of each of 2 sizes"
    rows = [row for row in read(out / "compare.csv") if row["stage"] == "recovered"]
    assert len(rows) == CELLS
    assert {(row["method"], row["recovery"]) for row in rows} == {
        *(("relabel", "none"), ("none", "none"), ("relabel", "gentle")),
        *(("tau 0.1", "none"), ("tau 1", "none")),
    }
    swept = next(row for row in rows if row["method"] == "tau 0.1")
    assert (swept["algorithm"], swept["settings"]) == ("l2ul", "hold=none, gradient_clip=0.1")


def test_claims_are_decided_by_their_rules(finished: tuple[Path, list[str], str]) -> None:
    """Doing nothing leaves the original: the difference of their gaps is 0 with every seed."""
    out, _, output = finished
    found = {row["claim"]: row for row in read(out / "claims.csv")}
    assert {claim: row["verdict"] for claim, row in found.items()} == {
        "Does nothing": "reproduced",
        "Is worse": "refuted",
        "Tau matters": "not decided",
    }
    assert float(found["Does nothing"]["mean"]) == 0 and found["Does nothing"]["seeds"] == str(SEEDS)
    assert found["Tau matters"]["condition"] == "not measured"
    assert "### Claims" in output and "**refuted**" in output


def test_tables_figures_and_the_page_are_by_question(finished: tuple[Path, list[str], str]) -> None:
    out, _, _ = finished
    text = (out / "compare.md").read_text()
    assert text.startswith("The protocol of a <paper>.")
    for title in ("Which method? Mean gap", "Which tau. tau: ", "With recovery. Mean gap"):
        assert f"### {title}" in text
    figures = ("question-1-gap-by-size", "question-2-sweep", "question-3-gap-by-size")
    for name in figures:
        for ending in ("svg", "pdf", "png"):
            assert (out / f"{name}.{ending}").stat().st_size > 0
    assert not (out / "question-2-gap-by-size.svg").exists()
    page = (out / "compare.html").read_text()
    assert "3 claims: 1 reproduced, 1 refuted, 1 not decided" in page
    assert "The protocol of a &lt;paper&gt;." in page and page.count("<svg") == len(figures)
    assert "src=" not in page and "<script" not in page
    assert r"\begin{tabular}" in (out / "compare.tex").read_text()


def test_study_json_holds_every_number_and_nothing_of_the_speech(
    finished: tuple[Path, list[str], str],
) -> None:
    """All columns of compare.csv follow from it but the keys of the references."""
    out, _, _ = finished
    study = read_study(out)
    assert check_study_file(study, "study.json") == [] and len(study.runs) == CELLS
    (out.parent / "shared.csv").write_text(csv_of(join_rows(study).rows))

    def numbers(file: Path) -> list[dict[str, str]]:
        rows = [{key: value for key, value in row.items() if key != "original"} for row in read(file)]
        return sorted(rows, key=lambda row: list(row.values()))

    assert numbers(out.parent / "shared.csv") == numbers(out / "compare.csv")
    assert {one.seed for one in study.speech} == set(range(SEEDS))
    assert len({one.partition for one in study.speech}) == SEEDS
    assert [each.name for each in study.contributors] == ["unnamed"]
    text = (out / "study.json").read_text()
    assert str(out.parent) not in text and not re.search(r"\bs\d{3}\b", text), "a path, a speaker"
    swept = next(entry for entry in study.methods if entry.name == "tau 0.1")
    assert (swept.method, swept.changes) == ("l2ul", "hold=none, gradient_clip=0.1")
    assert swept.settings["gradient_clip"] == 0.1 and swept.settings["hold"] == "none"


def test_cells_that_do_not_say_what_speech_they_are_of_leave_no_study_json(
    finished: tuple[Path, list[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedunlearn.study.compare.write_answer_figures", lambda answers, folder: [])
    monkeypatch.setattr("fedunlearn.study.compare.write_page", lambda *parts: None)
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    for file in (finished[0] / "cells").iterdir():
        content = json.loads(file.read_text())
        del content["speech"]
        (out / "cells" / file.name).write_text(json.dumps(content))
    code, output = command_line.call_wide("compare", "--config", write_study(tmp_path), "--out", out)
    assert code == 0 and not (out / "study.json").exists()
    assert f"{CELLS} finished cells are of an older version" in " ".join(output.split())


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_an_interrupted_study_goes_on(
    finished: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    """Half of the cells are there already; what is not is found by two processes at a time."""
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    for file in sorted((finished[0] / "cells").iterdir())[::2]:
        (out / "cells" / file.name).write_bytes(file.read_bytes())
    before = {file: file.stat().st_mtime_ns for file in (out / "cells").iterdir()}
    code, output = command_line.call(
        "compare", "--config", write_study(tmp_path), "--out", out, "--workers", "2"
    )
    assert code == 0, output
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert not (out / "running").exists()
    one, two = (without_seconds(read(folder / "compare.csv")) for folder in (finished[0], out))
    assert one == two
    assert (out / "claims.csv").read_text() == (finished[0] / "claims.csv").read_text()


def test_options_take_less_of_a_study(
    finished: tuple[Path, list[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []
    monkeypatch.setattr(StudyRunner, "play", lambda self, cell: played.append(cell.name))
    file = write_study(tmp_path)
    assert (
        command_line.call(
            "compare", "--config", file, "--out", tmp_path / "out", "--sizes", "3", "--seeds", "1"
        )[0]
        == 0
    )
    assert played == ["relabel-1x3-sum-none-seed1", "none-1x3-sum-none-seed1"]
    for option in (("--methods", "none"), ("--variant", "x=l2ul")):
        code, output = command_line.call("compare", "--config", file, "--out", tmp_path / "out", *option)
        assert code == 2 and "the config's study has questions" in output.replace("\n", " ")
    code, output = command_line.call(
        "compare", "--config", file, "--out", tmp_path / "out", "--workers", "2", "--engine", "ray"
    )
    assert code == 2 and "several runs at a time need --engine inline" in output.replace("\n", " ")


def test_a_study_without_questions_names_methods_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []
    monkeypatch.setattr(StudyRunner, "play", lambda self, cell: played.append(cell.name))
    plain: dict[str, Any] = {"questions": [], "sweeps": [], "claims": [], "seeds": [4], "sizes": [4]}
    file = write_study(tmp_path, **plain, methods=["none"])
    assert command_line.call("compare", "--config", file, "--out", tmp_path / "out")[0] == 0
    assert played == ["none-1x4-sum-none-seed4", "relabel-1x4-sum-none-seed4"]
    played.clear()
    assert (
        command_line.call("compare", "--config", file, "--out", tmp_path / "out", "--methods", "calm")[0] == 0
    )
    assert played == ["calm-1x4-sum-none-seed4"]


def test_a_study_from_python(finished: tuple[Path, list[str], str], tmp_path: Path) -> None:
    """All of its cells are finished: it reads them."""
    found = fu.compare(write_study(tmp_path), out=finished[0])
    assert [claim.verdict for claim in found.claims] == ["reproduced", "refuted", "not decided"]
    assert len(found.rows) == 4 * CELLS and not found.failures


def test_a_run_does_not_read_the_study(tmp_path: Path) -> None:
    file, out = write_study(tmp_path), tmp_path / "run"
    code, output = command_line.call("run", "--config", file, "--out", out)
    assert code == 0, output
    assert json.loads((out / "results.json").read_text())["config"]["study"]["seeds"] == [0, 1]
