"""The comparison of methods as a command: its cells, what they share, its resumption, its failures."""

import csv
import importlib
import inspect
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import soundfile
from rich.console import Console
from small_run import SMALL, run_small, small_config, without_times

from fedunlearn import config as configuration
from fedunlearn.cli.compare import DEFAULT_METHODS, compare
from fedunlearn.config import Config
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.reference_cache import Learned, ReferenceCache
from fedunlearn.files import HAS_LOCKS, lock_file
from fedunlearn.results_schema import Attackers, GuardIntervention, Results
from fedunlearn.study import runner as runner
from fedunlearn.study.grid import Axes, StudyCell, Variant, cells_of, loader_of, parse_folds, requesters_of
from fedunlearn.study.rows import COLUMNS
from fedunlearn.study.rows import rows_of as study_rows
from fedunlearn.study.runner import StudyRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which test_comparison.py draws."""
    monkeypatch.setattr("fedunlearn.report.study.figures.write_figures", lambda rows, folder: [])


def call(out: Path, *arguments: str) -> tuple[int, str]:
    settings = [
        part
        for key, value in SMALL.items()
        # A comparison sees to its noise floor itself.
        if key not in {"seed", "deletions.schedule", "federation.engine", "evaluation.retrained_seeds"}
        for part in ("--set", f"{key}={value}")
    ]
    settings += ["--set", "evaluation.search=false", "--set", "evaluation.relearn_steps=0"]
    return command_line.call("compare", *settings, "--engine", "inline", "--out", out, *arguments)


def read(out: Path) -> list[dict[str, str]]:
    with (out / "compare.csv").open() as file:
        return list(csv.DictReader(file))


CHOSEN = (
    "--methods",
    "default,none",
    "--variant",
    "relabel only=l2ul:attack.per_utterance=0,elasticity=0",
    "--sizes",
    "4",
    "--requesters",
    "1,2",
    "--seeds",
    "0",
    "--aggregations",
    "sum,mean",
    "--recoveries",
    "gentle,none",
)
CELLS = 3 * 2 * 2 * 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A comparison, the reference keys that were trained for it, and its output."""
    out, kept = tmp_path_factory.mktemp("compare"), []
    keep = ReferenceCache.keep
    with pytest.MonkeyPatch.context() as patch:

        def noted(self: ReferenceCache, key: str, learned: Learned) -> None:
            kept.append(key)
            keep(self, key, learned)

        patch.setattr(ReferenceCache, "keep", noted)
        code, output = call(out, *CHOSEN)
    assert code == 0, output
    return out, kept, output


def test_a_comparison_from_cells_to_tables(finished: tuple[Path, list[str], str]) -> None:
    out, _, output = finished
    rows = read(out)
    assert tuple(rows[0]) == COLUMNS
    assert COLUMNS[:17] == (
        "method",
        "sees",
        "model",
        "corpus",
        "forget_size",
        "requesters",
        "aggregation",
        "recovery",
        "seed",
        "stage",
        "forget",
        "retain",
        "test",
        "unseen",
        "membership",
        "gap",
        "client_seconds",
    )
    assert len(rows) == CELLS * 4
    assert {r["method"] for r in rows} == {"calm", "none", "relabel only"}
    assert {r["sees"] for r in rows} == {"forget"}
    assert {(r["aggregation"], r["recovery"]) for r in rows} == {
        (a, r) for a in ("sum", "mean") for r in ("gentle", "none")
    }
    mine = next(r for r in rows if r["method"] == "relabel only")
    assert (mine["algorithm"], mine["settings"]) == ("l2ul", "attack.per_utterance=0, elasticity=0")
    names = ("compare.md", "compare.tex", "forget-retain.pdf", "gap-by-method.png", "gap-by-size.svg")
    for name in (*names, "aggregation-recovery.png"):
        assert (out / name).stat().st_size > 0
    assert not (out / "running").exists()
    assert "Comparing" not in output and "%" not in output.split("### ")[0], "no bars where nobody watches"
    for name in ("recovery gentle", "recovery none", "relabel only"):
        assert name in output


def test_recovery_reversion_and_gaps_are_those_of_the_cells(finished: tuple[Path, list[str], str]) -> None:
    rows = read(finished[0])
    for row in rows:
        assert (row["recovery_rounds"] == "0") == (row["recovery"] == "none")
        if row["stage"] != "recovered":
            assert row["reversion"] == ""
            continue
        before = next(
            r for r in rows if r["stage"] == "unlearned" and all(r[k] == row[k] for k in COLUMNS[:9])
        )
        assert float(row["reversion"]) == pytest.approx(float(row["forget"]) - float(before["forget"]))
        assert row["recovery"] != "none" or row["reversion"] == "0.0"
        parts = [float(row[f"gap_{m}"]) for m in ("forget", "retain", "test", "membership")]
        assert float(row["gap"]) == pytest.approx(sum(parts) / 4)
        retrained = next(
            r for r in rows if r["stage"] == "retrained" and all(r[k] == row[k] for k in COLUMNS[:9])
        )
        # The mean distance to two seeds is within half their own distance of that to the first.
        first = abs(float(row["forget"]) - float(retrained["forget"]))
        assert parts[0] == pytest.approx(first, abs=float(retrained["gap_forget"]) / 2 + 1e-12)
        assert retrained["gap"] == row["noise_floor"] != ""


def test_one_original_a_seed_and_references_once_a_forget_set(finished: tuple[Path, list[str], str]) -> None:
    """Over methods, aggregations and recoveries: 1 original, 2 retrained seeds of each of 2 forget sets."""
    out, kept, _ = finished
    assert len(kept) == len(set(kept)) == 1 + 2 * 2
    found = [json.loads(file.read_text())["references"] for file in (out / "cells").glob("*.json")]
    assert len(found) == CELLS
    originals = {r["original"] for r in found}
    assert len(originals) == 1 and {r["original"] for r in read(out)} == originals
    assert len({r["retrained-0"] for r in found}) == len({r["retrained-1"] for r in found}) == 2
    assert {key for r in found for key in r.values()} == set(kept)


def test_doing_nothing_is_the_original_whatever_the_aggregation(
    finished: tuple[Path, list[str], str],
) -> None:
    rows = [r for r in read(finished[0]) if r["requesters"] == "2"]
    before = {(r["forget"], r["retain"], r["gap"]) for r in rows if r["stage"] == "original"}
    still = {
        (r["forget"], r["retain"], r["gap"])
        for r in rows
        if r["method"] == "none" and r["stage"] == "unlearned"
    }
    assert len(before) == 1 and still == before
    after = {r["forget"] for r in rows if r["method"] == "l2ul" and r["stage"] == "unlearned"}
    assert after != {next(iter(before))[0]}


@pytest.mark.usefixtures("without_figures")
def test_a_finished_cell_is_never_computed_again_and_another_experiment_is(
    finished: tuple[Path, list[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished[0]

    def never(experiment: Experiment) -> None:
        experiment.close()
        raise RunFailed("computed again")

    monkeypatch.setattr(runner, "play", never)
    before = (out / "compare.csv").read_text()
    code, output = call(out, *CHOSEN)
    assert code == 0, output
    assert (out / "compare.csv").read_text() == before
    one = ("--methods", "none", *CHOSEN[4:6], "--requesters", "1", *CHOSEN[8:10])
    assert call(out, *one)[0] == 0
    for other in ("recovery.rounds=3", "unlearning.l2ul.lr=0.5"):
        code, output = call(out, *one, "--set", other)
        assert code == 3 and "computed again" in output


def failing(monkeypatch: pytest.MonkeyPatch, fail: Callable[[StudyCell], None]) -> list[str]:
    """Make ``fail`` run before each cell; gives the names of the cells that were begun."""
    begun: list[str] = []
    real = StudyRunner.play

    def play(self: StudyRunner, cell: StudyCell) -> None:
        begun.append(cell.name)
        fail(cell)
        real(self, cell)

    monkeypatch.setattr(StudyRunner, "play", play)
    return begun


SHORT = ("--methods", "none,destroy", "--sizes", "3", "--requesters", "1", "--seeds", "0")


@pytest.mark.usefixtures("without_figures")
def test_a_cell_that_fails_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cell: StudyCell) -> None:
        if cell.variant.name == "none":
            raise RunFailed("the [third] round lost its quorum")

    begun = failing(monkeypatch, fail)
    code, output = call(tmp_path, *SHORT)
    assert code == 3 and len(begun) == 2
    assert f"failed: {begun[0]}: the [third] round lost its quorum" in output.replace("\n", " ")
    assert {r["method"] for r in read(tmp_path)} == {"destroy"}


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    "interruption",
    [KeyboardInterrupt(), pytest.param(Interrupted("the run was interrupted"), marks=pytest.mark.slow)],
)
def test_an_interruption_leaves_finished_cells_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def fail(cell: StudyCell) -> None:
        if cell.variant.name == "destroy":
            raise interruption

    with monkeypatch.context() as patch:
        failing(patch, fail)
        code, output = call(tmp_path, *SHORT)
    assert code == 3
    assert "interrupted; 1 of 2 cells are in" in output and "give the same command again" in output
    assert len(list((tmp_path / "cells").iterdir())) == 1
    assert not (tmp_path / "running").exists()
    begun = failing(monkeypatch, lambda cell: None)
    assert call(tmp_path, *SHORT)[0] == 0
    assert len(begun) == 1 and "destroy" in begun[0]


def test_an_interrupted_run_leaves_no_speech_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a cell, after its vaults were filled."""

    def stop(*_: Any) -> None:
        assert list((tmp_path / "running").rglob("run/**/*.i16"))
        raise KeyboardInterrupt

    monkeypatch.setattr("fedunlearn.experiment.experiment.Experiment.conduct", stop)
    code, output = call(tmp_path, *SHORT)
    assert code == 3 and "interrupted; 0 of 2 cells" in output
    assert list(tmp_path.rglob("*.i16")) == []


@pytest.mark.usefixtures("without_figures")
def test_on_a_terminal_there_are_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        importlib.import_module("fedunlearn.cli.progress_bars"),
        "errors",
        Console(file=screen, force_terminal=True, width=160),
    )
    assert call(tmp_path, *SHORT[:1], "none", *SHORT[2:])[0] == 0
    assert "none-1x3-sum-gentle-seed0" in screen.getvalue() and "1/1" in screen.getvalue()


@pytest.mark.slow
def test_windows_are_waited_and_drawn_against_the_gap(tmp_path: Path) -> None:
    """Two ask, one a round after the other. Window 0: both are served at once. Window 2: the first waits 2
    rounds and the second, served with it, 1.
    """
    chosen = ("--methods", "none", "--sizes", "4", "--requesters", "2", "--seeds", "0")
    code, output = call(tmp_path, *chosen, "--windows", "0,2", "--apart", "1")
    assert code == 0, output
    rows = [r for r in read(tmp_path) if r["stage"] == "recovered"]
    assert [(r["window"], r["rounds_waited_mean"]) for r in rows] == [("0", "0.0"), ("2", "1.5")]
    assert len({r["noise_floor"] for r in rows}) == 1, "the same references"
    assert (tmp_path / "waiting-gap.png").stat().st_size > 0
    assert "2 x 4, window 2" in output


def test_what_a_method_sees_stands_in_the_table(tmp_path: Path) -> None:
    chosen = ("--methods", "fed-eraser,fine-tune", "--sizes", "4", "--requesters", "1", "--seeds", "0")
    code, output = call(tmp_path, *chosen)
    assert code == 0, output
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    sees = {(r["method"], r["sees"]) for r in rows}
    assert sees == {("fed-eraser", "history"), ("fine-tune", "retain")}
    assert all(float(r["client_seconds"]) > 0 for r in rows if r["stage"] == "unlearned")


def write_ravdess(folder: Path) -> Path:
    """All 24 actors, three emotions twice each, every file its own noise."""
    for actor in range(1, 25):
        for emotion in (3, 4, 5):
            for take in (1, 2):
                path = folder / f"Actor_{actor:02d}" / f"03-01-0{emotion}-01-01-0{take}-{actor:02d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng([actor, emotion, take]).integers(-9000, 9000, 3200)
                soundfile.write(path, noise.astype(np.int16), 16000)
    return folder


def test_folds_are_cells_and_means_are_over_them(tmp_path: Path) -> None:
    data, out = write_ravdess(tmp_path / "ravdess"), tmp_path / "out"
    chosen = ("--methods", "none", "--sizes", "2", "--requesters", "1", "--seeds", "0", "--data", str(data))
    chosen += ("--set", "corpus.name=ravdess", "--set", "partition.clients=5", "--set", "training.rounds=1")
    code, output = call(out, *chosen, "--folds", "2,6")
    assert code == 0, output
    names = sorted(file.name for file in (out / "cells").glob("*.json"))
    assert [name.rpartition("-")[0] for name in names] == [
        "none-1x2-sum-gentle-fold2-seed0",
        "none-1x2-sum-gentle-fold6-seed0",
    ]
    for name in names:
        assert json.loads((out / "cells" / name).read_text())["corpus"]["unseen_speakers"] == 4
    rows = [r for r in read(out) if r["stage"] == "recovered"]
    assert [r["fold"] for r in rows] == ["2", "6"]
    assert len({r["original"] for r in rows}) == 2, "another fold is another federation"
    page = (out / "compare.md").read_text()
    assert "Mean over 2 folds ± half the 95 % interval" in page
    line = next(part for part in page.split("Recognition:")[1].splitlines() if "none" in part)
    for column in ("test_uar", "test", "test_macro_f1", "unseen", "unseen_wa", "unseen_macro_f1"):
        mean = sum(float(r[column]) for r in rows) / 2
        assert f" {mean:.3f} ±" in line, column
    code, output = call(out, *chosen, "--folds", "7")
    assert code == 2 and "--folds 7: must be at least 1 and at most 6" in output


def test_all_folds_are_crossed_with_seeds() -> None:
    base = small_config(corpus__name="ravdess", corpus__path="somewhere")
    axes = Axes([Variant("none", "none")], [4], [1], [0, 1], folds=parse_folds("all", base))
    cells = cells_of(loader_of(base), axes)
    assert [(cell.fold, cell.seed) for cell in cells] == [(f, s) for f in range(1, 7) for s in (0, 1)]
    assert all(cell.experiment.partition.fold == cell.fold for cell in cells)
    assert parse_folds("", base) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--folds", "1"], "no folds are published for synthetic"),
        (["--sizes", "ten"], "--sizes ten: write whole numbers"),
        (["--requesters", "0"], "--requesters 0: must be at least 1"),
        (["--requesters", "7"], "--requesters 7: there are 6 clients"),
        (["--methods", "magic"], 'there is no "magic"'),
        (["--methods", ""], "name at least one method"),
        (["--variant", "calm=l2ul"], "calm comes twice"),
        (["--variant", "x=l2ul:elasticiti=0"], "--variant x: unlearning.l2ul.elasticiti is not a setting"),
        (["--variant", "x=l2ul:elasticity=-1"], "--variant x: unlearning.l2ul.elasticity"),
        (["--variant", "x=none:elasticity=0"], "--variant x: unlearning.none is not a setting"),
        (["--variant", "x"], "--variant x: write it as NAME=METHOD:KEY=VALUE"),
        (["--variant", "a/b=l2ul"], "--variant a/b=l2ul: write it as NAME"),
        (["--variant", "x=l2ul:lr"], "settings are KEY=VALUE"),
        (["--aggregations", "sum,pile"], "--aggregations pile: unlearning.aggregation"),
        (["--recoveries", "soft"], "--recoveries soft: is not one of none, gentle"),
        (["--recoveries", "gentle", "--set", "recovery.rounds=0"], "the experiment has no recovery rounds"),
        (["--sizes", "4,9999"], "--sizes 9999: client"),
        (["--windows", "0,x"], "--windows 0,x: write whole numbers"),
        (["--windows", "-1"], "--windows -1: must be at least 0"),
        (["--requesters", "2", "--windows", "0,2"], "all ask at once"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, output = call(tmp_path / "out", *arguments)
    assert code == 2 and expected in output.replace("\n", " ")
    assert list(tmp_path.rglob("*.json")) == []


def test_a_size_that_no_client_holds_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    """18 utterances a speaker, 14 of them for training, 6 speakers: with 3 clients each has two."""
    sizes = ("--sizes", "20,43", "--seeds", "0,1", "--requesters")
    code, output = call(tmp_path / "out", *sizes, "1,2")
    lines = [line for line in output.splitlines() if line]
    assert code == 2 and len(lines) == 2
    assert lines[0].endswith(
        "trains on 14 utterances only; take at most 14, or let fewer clients hold more each: "
        "--set partition.clients=3"
    )
    assert lines[1].startswith("error: --sizes 43") and lines[1].endswith("take at most 14")
    _, output = call(tmp_path / "out", *sizes, "1,4")
    assert "partition.clients" not in output, "3 clients cannot be 4 requesters"


def test_whole_clients_are_deleted_as_long_as_two_are_left(tmp_path: Path, without_figures: None) -> None:
    chosen = ("--methods", "none", "--sizes", "all", "--seeds", "0")
    code, output = call(tmp_path / "out", *chosen, "--requesters", "1,5")
    assert code == 2 and "--sizes all: 5 of 6 clients would delete everything" in output.replace("\n", " ")
    assert "take at most 4 requesters" in output.replace("\n", " ")
    code, output = call(tmp_path / "out", *chosen, "--requesters", "1")
    assert code == 0 and "| whole client |" in output
    assert {row["forget_size"] for row in read(tmp_path / "out")} == {"all"}
    (cell,) = (tmp_path / "out" / "cells").glob("none-1xall-*.json")
    assert json.loads(cell.read_text())["requests"][0]["what"] == "all"


def test_the_papers_variant_stands_in_every_default_comparison() -> None:
    assert inspect.signature(compare).parameters["methods"].default is None
    assert DEFAULT_METHODS == "default,l2ul,none,destroy" and Config().study.methods == ()


def test_honest_updates_that_the_guard_touched_are_counted_once_each() -> None:
    """Client 1 is malicious; that of client 2 was first shortened and then scaled back."""
    config = small_config()
    (cell,) = cells_of(loader_of(config), Axes([Variant("none", "none")], [4], [1], [0]))
    done = [(2, 5, "clipped"), (2, 5, "scaled back"), (2, 9, "clipped"), (1, 5, "refused")]
    touched = [
        GuardIntervention(client=client, round=round_, what=what, factor=0.5) for client, round_, what in done
    ]
    results = Results(guard=touched, attackers=Attackers(clients=[1]))
    assert {row.guarded for row in study_rows(cell, results)} == {2}


def found_by(runner: StudyRunner, cell: StudyCell) -> str:
    runner.play(cell)
    results = runner.results(cell)
    assert results is not None
    return without_times(results.to_json())


def test_a_cell_finds_the_same_whatever_was_played_before_it(tmp_path: Path) -> None:
    """Vaults that were left untouched serve the next cell, the purged ones do not; no device remembers."""
    variants = [Variant("l2ul", "l2ul"), Variant("gentle", "l2ul", (("lr", 1e-3),)), Variant("none", "none")]
    axes = Axes(variants, sizes=[3], requesters=[2], seeds=[0], recoveries=["ordinary"])
    cells = cells_of(lambda overrides: configuration.load(None, SMALL | dict(overrides)), axes)
    with StudyRunner(tmp_path / "many") as runner:
        together = [found_by(runner, cell) for cell in cells]
        moved = {p.parent.name: p.stat().st_ino for p in (tmp_path / "many").rglob("index.json")}
        runner.play(cells[0])
        again = {p.parent.name: p.stat().st_ino for p in (tmp_path / "many").rglob("index.json")}
        same = {client for client in moved if moved[client] == again[client]}
        requesters = {f"client-{c:04d}" for c in requesters_of(6, 2, 0)}
        assert len(moved) == 6 and same == set(moved) - requesters
    assert not (tmp_path / "many" / "running").exists()
    for cell, found in zip(cells, together, strict=True):
        with StudyRunner(tmp_path / cell.variant.name) as fresh:
            assert found_by(fresh, cell) == found
    assert len(set(together)) == 3


def test_leaving_an_unused_runner_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    with StudyRunner(tmp_path):
        pass
    assert (tmp_path / "running").exists()


@pytest.mark.skipif(not HAS_LOCKS, reason="no file locks on this operating system")
def test_processes_share_a_folder_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    working, killed = tmp_path / "running" / "alive", tmp_path / "running" / "killed"
    for folder in (working, killed):
        (folder / "vaults").mkdir(parents=True)
    cells = cells_of(
        lambda overrides: configuration.load(None, SMALL | dict(overrides)),
        Axes([Variant("none", "none")], sizes=[3], requesters=[1], seeds=[0]),
    )
    handle = os.open(working, os.O_RDONLY)
    try:
        lock_file(handle)
        with StudyRunner(tmp_path) as runner:
            runner.play(cells[0])
    finally:
        os.close(handle)
    assert runner.results(cells[0]) is not None
    assert [folder.name for folder in (tmp_path / "running").iterdir()] == ["alive"]


def test_taking_back_as_many_as_a_client_has_is_taking_back_all(tmp_path: Path) -> None:
    results = []
    (client,) = requesters_of(6, 1, 3)
    for name, event in (("some", {"what": "some", "count": 14}), ("all", {"what": "all"})):
        config = small_config(deletions__schedule=[{"client": client, "after_learning": 0, **event}])
        found = run_small(tmp_path / name, config, cache=tmp_path / "references")
        for request in found["requests"]:
            assert request.pop("what") == name
        del found["config"]["deletions"]
        results.append(without_times(found))
    assert results[0] == results[1]


def test_fewer_requesters_are_among_the_more() -> None:
    for seed in range(5):
        few, many = requesters_of(20, 4, seed), requesters_of(20, 10, seed)
        assert set(few) < set(many) and many == sorted(set(many))
    assert requesters_of(20, 4, 0) != requesters_of(20, 4, 1)
