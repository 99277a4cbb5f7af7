"""Several runs on one page: only what may be compared is ranked, and every claim says how sure it is."""

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import call
from results_example import example_results

from fedunlearn.cli.report import names_of
from fedunlearn.report.runs.figure import gaps_figure
from fedunlearn.report.runs.finding import RunsVerdict, headline, judge
from fedunlearn.report.runs.grouping import ComparedTask, Run, tasks_of
from fedunlearn.report.runs.page import render
from fedunlearn.report.runs.tables import (
    WORDS,
    cost_measures,
    gap_table,
    models_table,
    ordered_entries,
    other_measures,
    pooled_table,
    privacy_measures,
    run_lines,
    settings_table,
)
from fedunlearn.report.tables import Table
from fedunlearn.results_schema import Results

SEES = {"neggrad-plus": "retain", "scrub": "retain"}


def record(method: str, seed: int, gap: float, **more: Any) -> dict[str, Any]:
    """A run with this gap. ``more``: dotted paths with ``__``, and values (... takes the place out)."""
    results = copy.deepcopy(EXAMPLE)
    results["seed"] = results["config"]["seed"] = seed
    results["config"]["unlearning"]["method"] = method
    results["unlearning"] = {"method": method, "sees": SEES.get(method, "forget"), "source": ""}
    results["gap"]["recovered"]["mean"] = gap
    results["references"] = {"retrained-0": f"key of seed {seed}"}
    for path, value in more.items():
        *parents, last = path.split("__")
        node = results
        for key in parents:
            node = node[key]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return results


EXAMPLE = example_results()


def task(*records: tuple[str, dict[str, Any]]) -> ComparedTask:
    (only,) = tasks_of([run(name, results) for name, results in records])
    return only


def run(name: str, results: dict[str, Any]) -> Run:
    return Run(name, Results.model_validate(results))


def page_of(records: Mapping[str, dict[str, Any]]) -> str:
    return render({name: Results.model_validate(results) for name, results in records.items()})


def heads(table: Table) -> tuple[str, ...]:
    """Of the columns after the first."""
    return tuple(column.text for column in table.columns[1:])


def runs(gaps: Mapping[str, Sequence[float]], **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """method -> gap of each seed, from 1."""
    return [
        (f"{method}-{seed}", record(method, seed, gap, **more))
        for method, own in gaps.items()
        for seed, gap in enumerate(own, start=1)
    ]


def verdict(gaps: Mapping[str, Sequence[float]], **more: Any) -> RunsVerdict:
    return judge(task(*runs(gaps, **more)))


# ---- who is compared with whom -----------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_entry_and_so_is_a_copy() -> None:
    """Mean 0.02 of 0.01, 0.02, 0.03; half width t(2) sd / sqrt 3 = 4.3027 * 0.01 / 1.7321 = 0.02484."""
    found = task(*runs({"calm": (0.01, 0.02, 0.03)}), ("a copy", record("calm", 3, 0.03)))
    (entry,) = found.entries
    pooled = entry.pooled(lambda run: run.gap)
    assert entry.label == "calm" and len(entry.runs) == 4
    assert pooled.mean == pytest.approx(0.02) and pooled.half == pytest.approx(0.02484, abs=1e-5)
    assert len(found.by_seed(lambda run: run.gap)["calm"]) == 3


def test_settings_of_the_same_method_make_entries_with_names_that_tell_them_apart() -> None:
    other = record("calm", 1, 0.02, config__unlearning__aggregation="mean")
    found = task(("a", record("calm", 1, 0.01)), ("b", other), ("c", record("l2ul", 1, 0.1)))
    assert [e.label for e in found.entries] == ["calm (aggregation sum)", "calm (aggregation mean)", "l2ul"]


@pytest.mark.parametrize(
    "change",
    [
        {"config__corpus__path": "elsewhere"},
        {"config__federation": {"engine": "ray"}},
        {"config__evaluation": {"bootstrap": 7, "shadows": 64, "relearn_steps": 0}},
    ],
)
def test_what_moves_no_gap_makes_no_entry(change: dict[str, Any]) -> None:
    base = {"config__corpus": {"name": "synthetic"}, "config__evaluation": {}, "config__federation": {}}
    one, two = record("calm", 1, 0.01, **base), record("calm", 2, 0.02, **(base | change))
    assert len(task(("a", one), ("b", two)).entries) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"corpus__name": "ravdess"}, "corpus.name (synthetic; ravdess)"),
        ({"corpus__clients": 6}, "corpus.clients (20; 6)"),
        ({"config__model": {"name": "cnn"}}, "model.name (functionals; cnn)"),
        ({"config__training": {"rounds": 7}}, "training.rounds (30; 7)"),
        ({"config__deletions": {"rate": 0.1}}, "deletions.rate (–; 0.1)"),
        ({"schema": "fedunlearn/results/2"}, "results schema (fedunlearn/results/1; fedunlearn/results/2)"),
        ({"references": {"retrained-0": "other data"}}, "other utterances were forgotten"),
        ({"models__retrained__forget__n": 91}, "other utterances were forgotten"),
    ],
)
def test_what_is_not_comparable_is_not_ranked_and_says_why(change: dict[str, Any], expected: str) -> None:
    tasks = tasks_of([run("a", record("calm", 1, 0.01)), run("b", record("l2ul", 1, 0.1, **change))])
    tone, sentence = headline(tasks)
    assert len(tasks) == 2 and tone == "unknown"
    assert sentence.startswith("These 2 runs are about 2 different things and are not ranked together: ")
    assert expected in sentence
    assert "closest" not in sentence


def test_other_seeds_forget_other_utterances_and_other_versions_have_other_keys() -> None:
    one = record("calm", 1, 0.01)
    two = record("calm", 2, 0.01, models__retrained__forget__n=80)
    three = record("l2ul", 1, 0.1, references={"retrained-0": "another"}, versions__torch="2.10.0")
    found = task(("a", one), ("b", two), ("c", three))
    assert any("torch (2.11.0; 2.10.0)" in remark for remark in judge(found).remarks)


# ---- the sentences -----------------------------------------------------------------------------------------


def test_the_best_is_named_with_its_interval_and_how_sure_it_is() -> None:
    found = verdict({"calm": (0.010, 0.012, 0.011), "l2ul": (0.050, 0.055, 0.051), "none": (0.199,) * 3})
    assert found.sentence == (
        "Of 2 methods, calm is closest to the retrained model over 3 seeds: mean gap 0.011 ± 0.002, "
        "95 % interval over runs (noise floor 0.007); on the 3 shared seeds its difference from every other "
        "is significant (95 %)."
    )
    assert (found.tone, found.best, found.level) == ("good", ("calm",), ())


def test_methods_indistinguishable_from_the_best_are_named() -> None:
    """Paired differences 0.001, -0.002, 0.004: mean 0.001, half width 7.5e-3, so 0 is covered."""
    found = verdict({"calm": (0.010, 0.012, 0.011), "l2ul": (0.011, 0.010, 0.015)})
    assert "but cannot be distinguished from l2ul on the 3 seeds they share" in found.sentence
    assert found.level == ("l2ul",)


def test_one_seed_proves_nothing() -> None:
    assert verdict({"calm": (0.01,), "l2ul": (0.1,)}).sentence.endswith(
        "with one seed shared by all, that order may be chance."
    )
    assert verdict({"calm": (0.01,)}).sentence.endswith("One seed gives no interval over runs.")


def test_the_nearest_is_not_praised_where_single_utterances_are_still_detected() -> None:
    stage = {"auc": 0.74, "low": 0.7, "high": 0.78}
    attacks = {"ulira": {"stages": {"recovered": stage}, "why": None}}
    finding = verdict({"calm": (0.010, 0.012), "l2ul": (0.05, 0.06)}, attacks=attacks)
    assert finding.tone == "unknown" and finding.best == ("calm",)
    assert finding.remarks[0].startswith("calm is close in the mean only, in 2 of 2 runs: U-LiRA still tells")
    stage["low"] = 0.49
    assert verdict({"calm": (0.010, 0.012), "l2ul": (0.05, 0.06)}, attacks=attacks).tone == "good"


def test_controls_and_those_that_see_more_do_not_compete() -> None:
    found = verdict({"l2ul": (0.05, 0.06), "none": (0.0, 0.0), "scrub": (0.001, 0.001)})
    assert found.best == ("l2ul",) and "Over 2 seeds, l2ul has a mean gap" in found.sentence
    assert any("are not ranked: scrub at 0.001" in remark for remark in found.remarks)
    alone = verdict({"scrub": (0.001, 0.002), "neggrad-plus": (0.1, 0.1)})
    assert alone.best == ("scrub",), "among themselves they do"


def test_a_best_that_does_not_beat_doing_nothing_is_useless() -> None:
    found = verdict({"calm": (0.30, 0.31)})
    assert found.tone == "useless"
    assert found.sentence.startswith("No method here is useful: doing nothing (0.199) is no farther")


def test_a_best_that_wrecked_the_model_in_every_run_is_useless() -> None:
    wrecked = {"name": "recovered (pga)", "mean_gap": 0.05, "useful": False, "why": "wrecked the recogniser"}
    bad = [(f"p{s}", record("pga", s, 0.05, ranking=[wrecked])) for s in (1, 2)]
    good = [(f"c{s}", record("calm", s, 0.08)) for s in (1, 2)]
    verdict = judge(task(*bad, *good))
    assert (
        verdict.tone == "useless" and "useless by its own runs, as it wrecked the recog" in verdict.sentence
    )
    half = judge(task(bad[0], ("p2", record("pga", 2, 0.05)), *good))
    assert half.tone == "good" and half.remarks[0] == (
        "In 1 of 2 runs, pga is useless by the run's own ranking: it wrecked the recogniser."
    )


def test_runs_without_any_gap_to_speak_of_are_drawn_all_the_same() -> None:
    nothing = record("calm", 1, 0.0, gap__none__mean=0.0, gap__noise_floor=None, noise_floor=None)
    only = task(("a", nothing))
    assert gaps_figure(only, ordered_entries(only), 880, "gaps") is not None  # and no warning
    assert [row.head for row in gap_table(only, judge(only)).rows] == ["calm"]


def test_every_measure_of_the_page_has_its_definition_one_click_away() -> None:
    page = page_of({"a": record("calm", 1, 0.05), "b": record("pga", 1, 0.06)})
    heads = set(re.findall(r'<th scope="col">([^<]+)</th>', page))
    assert heads <= {
        "configuration",
        "seeds",
        "run",
        "seed",
        "status",
        "model",
        "setting",
        "values, and the runs that have them",
    }
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))
    assert all(f'id="word-{word}"' in page for word in WORDS.values())


def test_partial_and_failed_runs_are_shown_and_counted_nowhere() -> None:
    failed = {k: v for k, v in record("calm", 4, 0).items() if k not in {"models", "gap", "ranking"}}
    failed |= {"status": "failed", "failure": "quorum lost"}
    partial = record("calm", 3, 0.9, status="partial", failure="request r is open")
    found = task(*runs({"calm": (0.01, 0.02)}), ("half", partial), ("broken", failed))
    (entry,) = found.entries
    assert found.by_seed(lambda run: run.gap)[entry.label].to_dict() == {"1": 0.01, "2": 0.02}
    lines = {line.name: line for line in run_lines(found)}
    assert (lines["half"].status, lines["half"].gap, lines["half"].note) == (
        "partial",
        "0.900",
        "request r is open",
    )
    assert (lines["broken"].status, lines["broken"].gap) == ("failed", "–")
    remarks = " ".join(judge(found).remarks)
    assert "half did not fulfil every request" in remarks and "broken ended early" in remarks
    alone = judge(task(("broken", failed)))
    assert alone.sentence == "No complete run of a method has a gap: there is nothing to rank."


# ---- tables ------------------------------------------------------------------------------------------------


def test_tables_pool_and_leave_out_what_nobody_has() -> None:
    records = runs({"l2ul": (0.05, 0.06), "none": (0.2, 0.2), "calm": (0.01, 0.02), "scrub": (0.3, 0.3)})
    for _, results in records[:2]:
        results["attacks"] = {
            "ulira": {"stages": {"recovered": {"auc": 0.7, "tpr_at": {"0.01": {"value": 0.05}}}}}
        }
        results["fairness"] = {"change": {"recovered": {"mean": -0.02, "worst": -0.12, "worst_client": 3}}}
        results["relearn"] = {"recovered": {"steps": 50.0}, "retrained": {"steps": 200.0}}
    found = task(*records)
    assert [e.label for e in ordered_entries(found)] == ["calm", "l2ul", "scrub", "none"]
    gaps = gap_table(found, judge(found))
    assert [(row.head, row.note) for row in gaps.rows] == [
        ("calm", "best"),
        ("l2ul", ""),
        ("scrub", "privileged baseline"),
        ("none", "control"),
        ("noise floor", "between retrained seeds"),
    ]
    assert [cell.text for cell in gaps.rows[0].cells[:2]] == ["2", "0.015 ± 0.064"]
    privacy = pooled_table(found, privacy_measures())
    assert heads(privacy) == ("population AUC", "U-LiRA AUC", "U-LiRA TPR at 1 % FPR")
    assert [row.cells[2].text for row in privacy.rows] == ["–", "0.050 ± 0.000", "–", "–"]
    others = pooled_table(found, other_measures())
    assert heads(others) == ("worst speaker's change", "mean speaker's change", "relearn steps")
    assert others.rows[1].cells[0].text == "-0.120 ± 0.000"
    assert (others.rows[1].cells[2].text, others.rows[1].cells[2].note) == ("50.0 ± 0.0", "retrained 200.0")
    costs = pooled_table(found, cost_measures())
    assert (
        costs.rows[0].cells[0].text == "11.6 s ± 0 s" and costs.rows[0].cells[0].note == "retraining 2.9 min"
    )
    assert costs.rows[0].cells[1].text.startswith("6.8%")  # 11.6 of 171 s
    models = models_table(found)
    assert [row.note for row in models.rows[-2:]] == ["original", "retrained"]
    assert [column.text for column in models.columns[1:7]] == [
        "test UAR",
        "test WA",
        "test macro F1",
        "unseen-speaker UAR",
        "unseen-speaker WA",
        "unseen-speaker macro F1",
    ]
    assert models.rows[-1].cells[7].text == "0.554 ± 0.000"


def test_only_settings_that_differ_are_listed() -> None:
    one, two = record("calm", 1, 0.01), record("l2ul", 2, 0.02)
    assert settings_table([run("a", one), run("b", two)]) == [
        ("seed", [("1", "a"), ("2", "b")]),
        ("unlearning.method", [("calm", "a"), ("l2ul", "b")]),
    ]


# ---- the page ----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Counts what opens and closes, and collects ids and the targets of links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_shows_every_run() -> None:
    hostile = "<script>alert(1)</script>"
    records = dict(runs({"calm": (0.01, 0.02), "destroy": (0.5, 0.6)}))
    records[hostile] = record("l2ul", 1, 0.1, corpus__name=hostile)
    page = page_of(records)
    tags = Tags(page)
    ids = [attrs["id"] for _, attrs in tags.names if "id" in attrs]
    assert tags.open == [] and len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a in tags.names if (a.get("href") or "").startswith("#")}  # type: ignore[index]
    assert targets <= set(ids)
    assert not {"script", "link", "img", "iframe"} & {name for name, _ in tags.names}
    assert page == page_of(records), "the same results, the same bytes"
    for name in records:
        assert name.replace("<", "&lt;").replace(">", "&gt;") in page
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawn) == 4, "wide and narrow, of each of two tasks"
    assert all(len(list(ElementTree.fromstring(svg).iter())) > 10 for svg in drawn)
    assert "0.600 →" in page, "random weights beyond the axis are written, not drawn"


def test_holes_are_survived() -> None:
    for hole in ({}, {"gap": None, "models": None}, dict.fromkeys(EXAMPLE), {k: {} for k in EXAMPLE}):
        page = page_of({"whole": EXAMPLE, "hole": hole})
        assert "None" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL) and "nan" not in page


# ---- the command -------------------------------------------------------------------------------------------


def save(folder: Path, results: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / name, record("calm", n, 0.01)) for n, name in enumerate(("a", "b"), start=1)]


def test_several_runs_become_one_page_here_or_where_it_is_wanted(
    tmp_path: Path, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, expected = call("report", *two)
    assert code == 0 and f"Comparison of 2 runs: {tmp_path / 'comparison.html'}" in expected
    assert not (two[0] / "report.html").exists()
    code, expected = call("report", *two, "--out", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "comparison.html").read_bytes()


def test_one_run_keeps_its_own_page(two: list[Path], tmp_path: Path) -> None:
    assert call("report", two[0])[0] == 0 and (two[0] / "report.html").exists()
    assert call("report", two[0], "--out", tmp_path / "own.html")[0] == 0
    assert (tmp_path / "own.html").read_bytes() == (two[0] / "report.html").read_bytes()


def test_bad_folders_are_one_line_each(tmp_path: Path, two: list[Path]) -> None:
    broken = save(tmp_path / "broken", {})
    (broken / "results.json").write_bytes(b'{"schema": "\xff')
    again = Path(os.path.relpath(two[0]))
    code, expected = call("report", two[0], again, tmp_path / "nobody", broken, "--out", tmp_path / "p.html")
    lines = expected.strip().splitlines()
    assert code == 2 and len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "is named twice" in lines[0] and "nobody" in lines[1] and "broken" in lines[2]
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize("page", ["corpus/comparison.html", "corpus/deep/x.html", "nowhere/x.html", "corpus"])
def test_a_page_never_goes_into_a_corpus_nor_nowhere(tmp_path: Path, page: str) -> None:
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    corpus = {"name": "ravdess", "path": str(tmp_path / "corpus")}
    folders = [save(tmp_path / n, record("calm", 1, 0.01, config__corpus=corpus)) for n in ("a", "b")]
    for named in (folders, folders[:1]):
        code, expected = call("report", *named, "--out", tmp_path / page)
        assert code == 2 and expected.count("\n") == 1 and "--out" in expected
    assert list((tmp_path / "corpus").rglob("*.html")) == []


@pytest.mark.parametrize("several", [False, True])
def test_a_page_never_takes_the_place_of_results(tmp_path: Path, two: list[Path], several: bool) -> None:
    before = (two[0] / "results.json").read_bytes()
    code, expected = call("report", *two[: 1 + several], "--out", two[0] / "results.json")
    assert code == 2 and "is not named as a page" in expected and len(expected.strip().splitlines()) == 1
    assert (two[0] / "results.json").read_bytes() == before


def test_runs_of_one_name_are_distinguished_by_their_parents() -> None:
    assert names_of([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert names_of([Path("/x/run"), Path("/y/run")]) == ["x/run", "y/run"]


# ---- runs that say nothing about their method ------------------------------------------------------------


def test_runs_that_say_nothing_are_counted_marked_and_named() -> None:
    silent = record("calm", 1, 0.05)
    silent["models"]["original"]["retain"]["accuracy"] = 0.48
    runs = {
        "a": silent,
        "b": record("calm", 2, 0.06),
        "c": record("pga", 1, 0.09),
        "d": record("pga", 2, 0.1),
    }
    only = task(*runs.items())
    verdict = judge(only)
    assert verdict.tone == "good", "one of its two runs says something"
    assert "1 of 4 runs says nothing about the method (‡), and the means include them: not learned in a." in (
        verdict.remarks
    )
    table = gap_table(only, verdict)
    assert [row.note for row in table.rows][:2] == ["best, ‡ 1 of 2 runs", ""]
    assert table.caption.startswith("‡: runs that say nothing")
    line = next(line for line in run_lines(only) if line.name == "a")
    assert line.gap == "0.050 ‡" and line.note.startswith(
        "‡ says nothing about the method: The original has not learned (it recognises 48 %"
    )
    assert all("‡" not in line.gap + line.note for line in run_lines(only) if line.name != "a")
    page = page_of(runs)
    assert "‡ 1 of 2 runs" in page and "the list of runs says why" in page
    good = task(*((name, run) for name, run in runs.items() if name != "a"))
    assert gap_table(good, judge(good)).caption == ""


def test_a_best_whose_runs_all_say_nothing_is_no_finding() -> None:
    silent = [record("calm", seed, 0.05) for seed in (1, 2)]
    for run in silent:
        run["models"]["original"]["retain"]["accuracy"] = 0.48
    verdict = judge(task(*((f"a{n}", run) for n, run in enumerate(silent))))
    assert verdict.tone == "unknown"
    assert verdict.sentence.startswith(
        "The runs of calm say nothing about it. The original has not learned (it recognises 48 % of its own "
    )
    assert " At face value: Over 2 seeds, calm has a mean gap" in verdict.sentence
