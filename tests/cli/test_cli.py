"""The command as a user runs it: exit codes that tell the truth, one clear line for each mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import call, small_file, write_corpus
from small_run import prepared

from fedunlearn import __main__ as entry
from fedunlearn.cli import app
from fedunlearn.results_schema import Results
from fedunlearn.unlearning import METHODS, PRIVILEGED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A run of the script in a process of its own: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = ["--config", small_file(folder), "--out", folder / "run"]
    command = [sys.executable, str(ROOT / "simulations" / "run.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=folder, check=False)
    return folder / "run", done


def test_a_run_ends_with_a_table_a_page_and_exit_code_0(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    run, done = finished
    assert done.returncode == 0, done.stderr
    for word in ("original", "unlearned", "recovered", "retrained", "forget accuracy", "mean gap"):
        assert word in done.stdout
    assert f"Report: {run / 'report.html'}" in done.stdout
    page = (run / "report.html").read_text()
    assert "<svg" in page and "3 deletion requests" in page
    (run / "report.html").unlink()
    code, _ = call("report", run)
    assert code == 0 and (run / "report.html").read_text() == page


def test_the_script_is_quiet_when_nobody_watches(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    """Not on a terminal: no bars, no control characters; the table and the report's place remain."""
    _, done = finished
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "\x1b" not in done.stderr
    assert "\x1b" not in done.stdout and "Report:" in done.stdout


def bad(tmp_path: Path, *arguments: str | Path) -> str:
    """Exit code 2, and nothing was started."""
    out = tmp_path / "never"
    code, output = call("run", *arguments, "--out", out)
    assert code == 2, output
    assert not out.exists()
    assert "Traceback" not in output
    return output


@pytest.mark.usefixtures("undrawn")
def test_a_privileged_baseline_is_named_as_one(tmp_path: Path) -> None:
    """In the closing table, in the results and on the page; a method of the forget set alone is not."""
    shown, config = {}, small_file(tmp_path)
    for method in ("retrained", "none"):
        out = tmp_path / method
        code, shown[method] = call("run", "--config", config, "--method", method, "--out", out)
        assert code == 0, shown[method]
        results = json.loads((out / "results.json").read_text())
        assert results["unlearning"]["sees"] == {"retrained": "retain", "none": "forget"}[method]
        page = (out / "report.html").read_text()
        assert ("a privileged baseline: it sees the retain sets" in page) == (method == "retrained")
    assert "privileged baseline: retrained sees the retain sets" in " ".join(shown["retrained"].split())
    assert "privileged baseline" not in shown["none"]


def test_the_help_and_the_readme_name_every_method_by_what_it_sees() -> None:
    command: Any = typer.main.get_command(app)
    (option,) = [p for p in command.commands["run"].params if p.name == "method"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What do the numbers mean")[0]
    for text in (option.help, " ".join(readme.split())):
        more_than_it = "See more than the forget set, privileged baselines: "
        forget_alone, more = re.split(more_than_it, text)
        for known, place in ((METHODS, forget_alone), (PRIVILEGED, more)):
            named = set(re.findall(r"[a-z0-9-]+", place))
            assert known.keys() <= named, known.keys() - named


def test_every_mistake_in_a_config_is_reported_at_once(tmp_path: Path) -> None:
    file = small_file(tmp_path, training__rounds=0, training__roundz=3, seed=True, model__dropout=1.5)
    output = bad(tmp_path, "--config", file)
    for key in ("training.rounds", "training.roundz", "seed", "model.dropout"):
        assert re.search(rf"error: {file}: {re.escape(key)} ", output), (key, output)
    assert len(output.strip().splitlines()) == 4


def test_mistakes_of_every_kind_are_reported_together(tmp_path: Path) -> None:
    """Of settings, data and output in one go; and of method, corpus and output once settings are sound."""
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    code, output = call("run", "--set", "training.roundz=3", "--data", "/nowhere", "--out", out)
    assert code == 2 and len(output.strip().splitlines()) == 3
    assert "training.roundz" in output and "/nowhere: no such" in output and "cannot be written" in output
    code, output = call("run", "--method", "magic", "--corpus", "emodb", "--data", "/nowhere", "--out", out)
    assert code == 2 and len(output.strip().splitlines()) == 3
    assert "magic" in output and "/nowhere: no such" in output and "cannot be written" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--set", "training.rounds"], "write it as key.sub=value"),
        (["--set", "trainin.rounds=3"], "trainin is not a setting"),
        (["--method", "magic"], 'there is no "magic"; known: amun-forget, boundary-shrink, calm, delete,'),
        (["--model", "transformer"], "model.name"),
        (["--engine", "spark"], "federation.engine"),
        (["--corpus", "ravdess"], "--data"),
        (["--corpus", "ravdess", "--data", "/nowhere/at/all"], "/nowhere/at/all: no such"),
        (["--corpus", "timit"], "timit"),
        (["--data", "."], "generated speech reads no data"),
        (["--clients", "0"], "partition.clients"),
        (
            ["--clients", "3", "--set", "deletions.schedule=[{client=3,round=1}]"],
            "schedule.0.client is 3, but the clients are 0 to 2: name another",
        ),
        (
            ["--set", "corpus.speakers=10", "--clients", "20"],
            "partition.clients is 20, but synthetic leaves 10 client speakers (10 less 0 unseen)",
        ),
        (
            ["--set", "attackers.clients=[20]"],
            "attackers.clients: there is no client 20 (0 to 19 are there)",
        ),
        (["--rounds", "5", "--set", "deletions.schedule=[{client=0,round=9}]"], "use after_learning"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, arguments: list[str], expected: str) -> None:
    output = bad(tmp_path, *arguments)
    assert expected in output
    assert len(output.strip().splitlines()) == 1


def test_more_clients_than_speakers_in_a_folder(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    output = bad(tmp_path, "--corpus", "manifest", "--data", folder, "--clients", "9")
    assert "partition.clients is 9, but manifest leaves" in output


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "file" / "run")
    assert code == 2 and "cannot be written" in output
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("precious")
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "used")
    assert code == 2 and "is not an empty folder" in output
    assert (tmp_path / "used" / "mine.txt").read_text() == "precious"


@pytest.mark.usefixtures("undrawn")
def test_an_unreadable_file_stops_the_run_unless_it_may_be_skipped(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    broken = folder / "s03-angry-1.wav"
    broken.write_bytes(broken.read_bytes()[:500])
    arguments = ["--config", small_file(tmp_path), "--corpus", "manifest", "--data", folder]
    output = bad(tmp_path, *arguments)
    assert "s03-angry-1.wav" in output and "truncated" in output
    code, output = call("run", *arguments, "--skip-bad", "--out", tmp_path / "run")
    assert code == 0, output
    assert "warning:" in output and "s03-angry-1.wav" in output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["corpus"]["utterances"] == 8 * 3 * 4 - 1


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_exits_with_3_and_leaves_a_page_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedunlearn.client.app import HANDLERS

    def full(device: Any, content: Any) -> Any:
        raise OSError(28, "No space left on device", "/home/somebody/speech.wav")

    monkeypatch.setitem(HANDLERS, "train.default", full)
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run")
    assert code == 3
    assert "failed: round 1 (learn): 0 of 6 clients answered properly" in output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "failed" and "No space left on device" in results["failure"]
    assert "No space left on device" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_unfulfilled_request_exits_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedunlearn.client.app import HANDLERS, unlearn_locally

    def sometimes(device: Any, content: Any) -> Any:
        if device.client == 2:
            raise OSError("the battery is empty")
        return unlearn_locally(device, content)

    monkeypatch.setitem(HANDLERS, "train.unlearn", sometimes)
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run")
    assert code == 3
    assert "partial:" in output and "of client 2 is accepted, not verified" in output
    assert (tmp_path / "run" / "report.html").exists()


def test_the_corpus_folder_takes_no_output(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    before = sorted(folder.rglob("*"))
    arguments = ["--config", small_file(tmp_path), "--corpus", "manifest", "--data", folder]
    code, output = call("run", *arguments, "--out", folder / "run")
    assert code == 2 and output.count("lies inside the corpus") == 1
    code, output = call("run", *arguments, "--out", tmp_path / "run", "--cache", folder / "references")
    assert code == 2 and output.count("lies inside the corpus") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    output = bad(tmp_path, "--config", small_file(tmp_path), "--cache", tmp_path / "file")
    assert "--cache" in output and "cannot be written" in output


def test_deletions_that_would_find_nothing_left(tmp_path: Path) -> None:
    schedule = [
        {"client": 1, "what": "all", "after_learning": 0},
        {"client": 1, "what": "emotion", "emotion": "angry", "after_learning": 2},
        {"client": 2, "what": "some", "count": 10, "after_learning": 1},
        {"client": 2, "what": "some", "count": 10, "after_learning": 0},
    ]
    output = bad(tmp_path, "--config", small_file(tmp_path, deletions__schedule=schedule))
    assert "deletions.schedule.1: client 1 has taken everything back before" in output
    assert re.search(r"schedule\.2\.count is 10, but client 2 has \d left by then", output)
    assert len(output.strip().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_terminated_says_so(tmp_path: Path, stop: str) -> None:
    arguments = ["--config", small_file(tmp_path, training__rounds=3000), "--out", tmp_path / "run"]
    command = [sys.executable, str(ROOT / "simulations" / "run.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(getattr(signal, stop))
    _, output = process.communicate(timeout=60)
    assert process.returncode == 3
    failed, hint = output.strip().splitlines()
    assert failed == "failed: the run was interrupted"
    assert hint == f"to go on: python simulations/run.py --resume --out {tmp_path / 'run'}"
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "partial"


@pytest.mark.parametrize("folder", ["none", "made"])
def test_ctrl_c_before_the_first_round_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    from fedunlearn.experiment import preparation

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    name = "resolve" if folder == "none" else "_fill_vaults"
    monkeypatch.setattr(preparation, name, interrupted)
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run")
    assert code == 3 and not (tmp_path / "run").exists()
    assert output.strip() == "failed: the run was interrupted before the first round; nothing is left of it"


def test_ctrl_c_while_modules_are_read_is_one_line(capsys: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        entry.start(interrupted)
    assert ended.value.code == 3 and capsys.readouterr().err == "failed: interrupted\n"


def test_a_misspelt_setting_of_a_resumed_run_is_all_that_is_reported(tmp_path: Path) -> None:
    prepared(tmp_path / "run").close()
    code, output = call("run", "--resume", "--out", tmp_path / "run", "--set", "nonsense=1")
    assert code == 2 and len(output.strip().splitlines()) == 1 and "nonsense" in output


def test_report_of_a_folder_without_results(tmp_path: Path) -> None:
    code, output = call("report", tmp_path)
    assert code == 2 and "give a folder that a run made" in output
    (tmp_path / "results.json").write_text("[]")
    code, output = call("report", tmp_path)
    assert code == 2 and "is not a results.json of fedunlearn" in output


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_all_that_lies_in_a_folder(
    tmp_path: Path, finished: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    """As a shell expands runs/*: what else of ours lies there is left out with a word, strangers are not."""
    runs = tmp_path / "runs"
    for name in ("run", "other"):
        shutil.copytree(finished[0], runs / name)
    shutil.copytree(finished[0].parent / "references", runs / "references")
    assert any((runs / "references").glob("*.safetensors"))
    (runs / "compare" / "cells").mkdir(parents=True)
    (runs / "benchmark.json").write_text("{}")
    page = runs / "all.html"
    for _ in range(2):  # the second time the page lies there, too
        code, output = call("report", *sorted(runs.iterdir()), "--out", page)
        assert code == 0 and page.exists(), output
        assert "references: holds trained references, not a run; left out" in output
        assert "compare: holds a study of many runs, not a run; left out" in output
        assert "Comparison of 2 runs" in output
    (runs / "holiday").mkdir()
    code, output = call("report", *sorted(runs.iterdir()), "--out", page)
    assert code == 2 and "holiday" in output and "give a folder that a run made" in output
    assert len(output.strip().splitlines()) == 1
    code, output = call("report", runs / "references", runs / "compare", "--out", page)
    assert code == 2 and "references: holds trained references" in output


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_stop_a_run_are_restored_and_an_ignored_one_stays_ignored(name: str) -> None:
    from fedunlearn.cli.exit_codes import stopped_as_interrupt

    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopped_as_interrupt():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    try:
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with stopped_as_interrupt():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_broken_torch_pair_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    versions = {"torch": "2.13.0+cpu", "torchaudio": "2.11.0"}
    monkeypatch.setattr(entry, "version", versions.__getitem__)
    with pytest.raises(SystemExit) as stopped:
        entry.start(lambda: pytest.fail("the command was started"))
    assert stopped.value.code == 2
    output = capsys.readouterr().err
    assert output.startswith("error: torch 2.13.0+cpu and torchaudio 2.11.0 do not fit together")
    assert output.count("\n") == 1


def test_a_python_that_is_too_old_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry.sys, "version_info", (3, 10, 4, "final", 0))
    assert entry.environment_problem() == "fedunlearn needs Python 3.11 or newer; this is Python 3.10"


def test_this_environment_is_sound() -> None:
    assert entry.environment_problem() is None


@pytest.mark.usefixtures("undrawn")
def test_a_run_whose_original_has_not_learned_is_told_so_and_exits_with_0(tmp_path: Path) -> None:
    """One round at a rate at which nothing is learned: page, table, results and a warning say so."""
    config = small_file(tmp_path, training__rounds=1, training__local__lr=1e-6)
    code, output = call("run", "--config", config, "--out", tmp_path / "run")
    told = "This run says nothing about calm: the original has not learned (test UAR "
    assert code == 0 and f"warning: {told}" in output
    assert output.count("says nothing about calm") == 2, "below the table and as a warning"
    assert f'<h1 class="unknown">{told}' in (tmp_path / "run" / "report.html").read_text()
    first = Results.read(tmp_path / "run").caveats[0]
    assert first.kind == "not learned" and first.decisive
