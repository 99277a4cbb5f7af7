"""A run that was interrupted, in whatever way, is resumed and ends as if it had not been."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from killed_runs import Death, assert_same, lines
from rich.console import Console
from small_run import SCHEDULE, SMALL, prepared, resumed, run_small, small_config, weights_of, without_times

from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.errors import BadInput, Interrupted, RunFailed
from fedunlearn.experiment import checkpoint as resume_room
from fedunlearn.experiment.checkpoint import RunCheckpoints, from_checkpoint, to_checkpoint
from fedunlearn.experiment.preparation import DecodedCorpus, decode_corpus, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.record import SavedRun
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.models.contract import trained_names
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.clients import Clients
from fedunlearn.server.state import ServerStep
from fedunlearn.vault.vault import Vault

ROOT = Path(__file__).resolve().parents[2]
EVENTFUL: dict[str, Any] = {
    "deletions__schedule": [{"client": 4, "what": "some", "count": 3, "round": 1}, *SCHEDULE],
    "evaluation__retrained_seeds": 2,
    "federation__checkpoint_every": 1,
    "recovery__reversion": "removed",
}
"""one request in the middle of learning, so that the original is trained beside it; three afterwards"""


def eventful(**overrides: Any) -> Config:
    return small_config(**(EVENTFUL | overrides))


@pytest.fixture(scope="module")
def decoded() -> DecodedCorpus:
    return decode_corpus(resolve(eventful()), Progress(Console(quiet=True)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """What the uninterrupted run ends with: results and checksums of the weights."""
    folder = tmp_path_factory.mktemp("whole")
    return run_small(folder / "run", eventful(), cache=folder / "cache"), weights_of(folder / "run")


def dying(monkeypatch: pytest.MonkeyPatch, when: Callable[[str, int, Sequence[str]], bool]) -> list[str]:
    """The server dies when the clients have answered a message, and nobody has read the answers.

    Args:
        when: (kind of message, how many exchanges there were before, all their kinds) -> whether it dies now.

    Returns:
        kinds of all messages so far, "retrain" for those of a retrained model; grows.
    """
    ask, kinds = Clients.ask, list[str]()

    def ask_counted(self: Clients, kind: str, *rest: Any, **more: Any) -> Any:
        answers = ask(self, kind, *rest, **more)
        kinds.append("retrain" if rest[2].phase == "retrain" else kind)
        if when(kinds[-1], len(kinds) - 1, kinds):
            raise Death
        return answers

    monkeypatch.setattr(Clients, "ask", ask_counted)
    return kinds


# ---- left at any point -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 1, 2])
def test_whatever_the_devices_had_answered_when_the_server_died(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoded: DecodedCorpus,
    whole: tuple[dict[str, Any], dict[str, str]],
    share: int,
) -> None:
    """It dies once at every exchange of the run, in turn: one death, then on to the next."""
    config, out = eventful(), tmp_path / "run"
    deaths = 0
    done = False
    while not done:
        lasts = share + 3 * deaths
        with monkeypatch.context() as patched:
            seen = dying(patched, lambda _, number, __, lasts=lasts: number == 1 + lasts % 12)  # type: ignore[misc]
            try:
                results = resumed(out, config, tmp_path / "cache", decoded=decoded)
                done = True
            except Death:
                deaths += 1
        assert deaths < 200, seen
    assert deaths >= 7
    assert_same(out, results, whole)


def _once_more(kind: str, least: int, sent: str, number: int, seen: Sequence[str]) -> bool:
    return sent == kind and seen.count(kind) > least


@pytest.mark.parametrize(
    "kind", ["query.purge", "train.unlearn", pytest.param("query.deletions", marks=pytest.mark.slow)]
)
def test_a_death_at_every_message_of_a_request(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoded: DecodedCorpus,
    whole: tuple[dict[str, Any], dict[str, str]],
    kind: str,
) -> None:
    """The devices have purged (or unlearned, or reported requests), and the server never learns of it."""
    config, out, died = eventful(), tmp_path / "run", 0
    while True:
        with monkeypatch.context() as patched:
            dying(patched, partial(_once_more, kind, died % 2))
            try:
                results = resumed(out, config, tmp_path / "cache", decoded=decoded)
                break
            except Death:
                died += 1
        assert died < 60
    assert died >= 3
    assert_same(out, results, whole)


def killed_in_a_loop(folder: Path, decoded: DecodedCorpus, whole: Any, kills: int) -> None:
    """A child plays the run and is killed -9 at a random moment, again and again, until it has finished."""
    torch.set_num_threads(1)
    config, dice, killed, number = eventful(), random.Random(5), 0, 0
    while killed < kills:
        out, number = folder / f"run-{number}", number + 1
        shutil.rmtree(folder / "cache", ignore_errors=True)
        status, longest = None, 0.6
        while status is None:
            promised = _promised(out)
            child = os.fork()
            if child == 0:
                try:
                    if out.exists() and not (out / "config.toml").exists():
                        shutil.rmtree(out)  # killed before it had even written what it is
                    resumed(out, config, folder / "cache", decoded=decoded)
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr)
                    os._exit(1)
            deadline = time.monotonic() + dice.uniform(0.02, longest)
            longest *= 1.05  # on a slow machine, too, some life is long enough for the longest step
            while status is None and time.monotonic() < deadline:
                done, code = os.waitpid(child, os.WNOHANG)
                status = code if done else None
                time.sleep(0.002)
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
            if out.exists() and (out / "ledger.sqlite").exists():
                rows = _rows(out)
                assert rows[: len(promised)] == promised, "a row of the ledger is lost or changed"
                assert len(set(rows)) == len(rows), "a state was recorded twice"
        assert status == 0
        assert_same(out, json.loads((out / "results.json").read_text()), whole)


def _rows(out: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as connection:
        try:
            found = connection.execute("SELECT request, state FROM entries ORDER BY position").fetchall()
        except sqlite3.OperationalError:  # killed before its table was made
            found = []
    connection.close()
    return [(str(request), str(state)) for request, state in found]


def _promised(out: Path) -> list[tuple[str, str]]:
    return _rows(out) if (out / "ledger.sqlite").exists() else []


def test_killed_at_random_moments(tmp_path: Path, decoded: DecodedCorpus, whole: Any) -> None:
    killed_in_a_loop(tmp_path, decoded, whole, kills=6)


@pytest.mark.slow
def test_killed_at_a_hundred_random_moments(tmp_path: Path, decoded: DecodedCorpus, whole: Any) -> None:
    killed_in_a_loop(tmp_path, decoded, whole, kills=110)


def test_a_full_disk_fails_the_run_and_room_lets_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: DecodedCorpus, whole: Any
) -> None:
    config, out = eventful(), tmp_path / "run"
    written = [0]
    save = resume_room.save_checkpoint

    def full(*arguments: Any) -> None:
        written[0] += 1
        if written[0] == 7:
            raise OSError(28, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(resume_room, "save_checkpoint", full)
        with pytest.raises(RunFailed, match="No space left on device"):
            resumed(out, config, tmp_path / "cache", decoded=decoded)
    assert_same(out, resumed(out, config, tmp_path / "cache", decoded=decoded), whole)


def test_the_last_round_of_a_retraining_is_all_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: DecodedCorpus, whole: Any
) -> None:
    """Died in the second round of the first retrained model: that round is trained again, no other."""
    config, out = eventful(recovery__reversion="removed"), tmp_path / "run"
    with monkeypatch.context() as patched:
        dying(patched, lambda kind, _, seen: kind == "retrain" and seen.count("retrain") == 2)
        with pytest.raises(Death):
            resumed(out, config, tmp_path / "cache", decoded=decoded)
    seen = dying(monkeypatch, lambda *_: False)
    assert_same(out, resumed(out, config, tmp_path / "cache", decoded=decoded), whole)
    assert seen.count("retrain") == 2 + 3  # of the first retrained model, of the second


# ---- checkpoints -----------------------------------------------------------------------------------------


def left_in_the_middle(out: Path, config: Config, cache: Path, decoded: DecodedCorpus) -> None:
    """A run whose server dies when it receives the first deletion after learning."""
    with pytest.MonkeyPatch.context() as patched:
        dying(patched, lambda kind, _, seen: kind == "train.unlearn" and seen.count(kind) == 2)
        with pytest.raises(Death):
            resumed(out, config, cache, decoded=decoded)


def checkpoints_of(out: Path) -> list[Path]:
    return sorted((out / "checkpoints" / "standing").glob("*.safetensors"))


def test_a_checkpoint_comes_back_from_its_file_as_it_was(tmp_path: Path, decoded: DecodedCorpus) -> None:
    config = eventful()
    left_in_the_middle(tmp_path / "run", config, tmp_path / "cache", decoded)
    experiment = prepared(tmp_path / "other", config)
    checkpoints = RunCheckpoints(
        tmp_path / "run" / "checkpoints" / "standing",
        resolve(config),
        experiment.judge.content_of([]),
        tmp_path / "sealed",
    )
    saved, damaged = checkpoints.latest(trained_names(experiment.template))
    assert saved is not None and not damaged
    state = saved.state
    assert state.step in ServerStep and state.history.initial and saved.record.original is not None
    tensors, about = to_checkpoint(saved)
    again = from_checkpoint(config, state.history.trained, tensors, json.loads(json.dumps(about)))
    tensors_again, about_again = to_checkpoint(again)
    assert about_again == json.loads(json.dumps(about))
    assert tensors.keys() == tensors_again.keys()
    assert all(torch.equal(tensors[k], tensors_again[k]) for k in tensors)
    experiment.close()


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("weights", "a flipped bit"),
        ("manifest", "emptied"),
        *(
            pytest.param(part, how, marks=pytest.mark.slow)
            for part, how in (
                ("weights", "a cut tail"),
                ("weights", "emptied"),
                ("manifest", "a flipped bit"),
                ("manifest", "a cut tail"),
            )
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path,
    decoded: DecodedCorpus,
    whole: Any,
    part: str,
    how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, out = eventful(), tmp_path / "run"
    left_in_the_middle(out, config, tmp_path / "cache", decoded)
    file = checkpoints_of(out)[-1]
    file = file if part == "weights" else file.with_name(f"{file.name}.json")
    content = bytearray(file.read_bytes())
    if how == "a flipped bit":
        content[len(content) // 2] ^= 1
    file.write_bytes(b"" if how == "emptied" else bytes(content[: len(content) - (how == "a cut tail")]))
    assert_same(out, resumed(out, config, tmp_path / "cache", decoded=decoded), whole)


def test_a_damaged_checkpoint_is_named_and_two_are_the_end(tmp_path: Path, decoded: DecodedCorpus) -> None:
    config, out = eventful(), tmp_path / "run"
    left_in_the_middle(out, config, tmp_path / "cache", decoded)
    older, newest = checkpoints_of(out)
    experiment = prepared(tmp_path / "other", config)
    checkpoints = RunCheckpoints(
        older.parent, resolve(config), experiment.judge.content_of([]), tmp_path / "sealed"
    )
    names = trained_names(experiment.template)
    experiment.close()
    newest.write_bytes(newest.read_bytes()[:-1])
    saved, damaged = checkpoints.latest(names)
    assert saved is not None and len(damaged) == 1
    assert newest.name in damaged[0] and "the one before it is used" in damaged[0]
    older.write_bytes(b"")
    with pytest.raises(BadInput, match="no checkpoint is whole"):
        checkpoints.latest(names)


def test_two_checkpoints_are_kept_and_both_are_beyond_the_purge(tmp_path: Path) -> None:
    """From neither of the files that stay can one come back to where somebody's step was still remembered."""
    config = eventful()
    run_small(tmp_path / "run", config)
    files = checkpoints_of(tmp_path / "run")
    assert len(files) == 2
    for file in files:
        saved = json.loads(file.with_name(f"{file.name}.json").read_text())["state"]
        assert saved["step"] == "over"
        assert {r["state"] for r in saved["requests"]} == {"verified"}
    assert len(list((tmp_path / "run" / "checkpoints" / "standing").iterdir())) == 4


# ---- another experiment ----------------------------------------------------------------------------------


def test_a_checkpoint_of_another_experiment_is_refused_with_both_values(
    tmp_path: Path, decoded: DecodedCorpus
) -> None:
    config, out = eventful(), tmp_path / "run"
    left_in_the_middle(out, config, tmp_path / "cache", decoded)
    for change, line in (
        ({"seed": 4}, "was made with seed = 3, this run has 4"),
        ({"training__local__lr": 0.25}, "was made with training.local.lr = 0.05, this run has 0.25"),
        ({"unlearning__method": "none"}, "unlearning.method = 'calm', this run has 'none'"),
    ):
        other: Config = eventful(**change)  # type: ignore[arg-type]
        RunFolder(out).config.write_text(resolve(config).to_toml())
        with pytest.raises(BadInput) as refused:
            resumed(out, other, tmp_path / "cache")
        assert any(line in problem for problem in refused.value.problems)
        assert all(f"--resume: {out} was made" in problem for problem in refused.value.problems)
        # Where somebody has edited the run's own config, its checkpoints know better.
        RunFolder(out).config.write_text(resolve(other).to_toml())
        with pytest.raises(BadInput) as refused:
            resumed(out, other, tmp_path / "cache")
        assert any(line in problem for problem in refused.value.problems)
        assert all("standing" in problem for problem in refused.value.problems)


def test_a_run_of_which_nothing_was_learned_keeps_its_settings_too(tmp_path: Path) -> None:
    prepared(tmp_path / "run").close()
    with pytest.raises(BadInput, match="was made with seed = 3, this run has 4"):
        resumed(tmp_path / "run", small_config(seed=4), tmp_path / "cache")
    assert Vault(RunFolder(tmp_path / "run").vault(0)).entries


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """A finished run: its folder, its cache and its ledger."""
    folder = tmp_path_factory.mktemp("ended")
    run_small(folder / "run", cache=folder / "cache")
    return folder / "run", folder / "cache", RunFolder(folder / "run").ledger.read_bytes()


@pytest.mark.parametrize("how", ["dropped", "changed", "cut", "junk", "gone"])
def test_a_ledger_that_lost_rows_is_not_gone_on_with(ended: tuple[Path, Path, bytes], how: str) -> None:
    """Rows written after the loss would be chained to what is left, and hide it."""
    out, cache, content = ended
    ledger = RunFolder(out).ledger
    for left in out.glob(f"{ledger.name}*"):
        left.unlink()
    ledger.write_bytes(content)
    statement = {
        "dropped": "DELETE FROM entries WHERE position = 2",
        "changed": "UPDATE entries SET round = 99 WHERE position = 2",
        "cut": "DELETE FROM entries WHERE position = (SELECT MAX(position) FROM entries)",
    }.get(how)
    if statement:
        with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
            for trigger in ("rows_stay", "rows_remain"):
                other.execute(f"DROP TRIGGER {trigger}")
            other.execute(statement)
    elif how == "junk":
        ledger.write_bytes(b"junk")
    else:
        ledger.unlink()
    before = ledger.read_bytes() if ledger.exists() else None
    with pytest.raises(BadInput, match="put it back as the run left it"):
        resumed(out, small_config(), cache)
    assert (ledger.read_bytes() if ledger.exists() else None) == before


def test_the_machinery_may_change(tmp_path: Path, decoded: DecodedCorpus, whole: Any) -> None:
    config, out = eventful(), tmp_path / "run"
    left_in_the_middle(out, config, tmp_path / "cache", decoded)
    other = eventful(federation__checkpoint_every=3, federation__timeout=99.0)
    assert_same(out, resumed(out, other, tmp_path / "cache", decoded=decoded), whole)


def test_nobody_else_plays_a_run_that_is_played(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "run", small_config())
    with pytest.raises(BadInput, match="another process plays this run"):
        prepared_again(tmp_path / "run")
    experiment.close()
    prepared_again(tmp_path / "run").close()


def prepared_again(out: Path) -> Any:
    from fedunlearn.experiment.preparation import prepare

    return prepare(small_config(), out, out.parent / "cache", Progress(Console(quiet=True)), resume=True)


# ---- from the command line -------------------------------------------------------------------------------


def arguments_of(out: Path, engine: str, **more: Any) -> list[str]:
    settings = SMALL | {"deletions.schedule": None, "federation.engine": engine, **more}
    sets = [f"--set={k}={json.dumps(v)}" for k, v in settings.items() if v is not None]
    schedule = '[{client=1,what="all",after_learning=0},{client=2,what="some",count=4,after_learning=1}]'
    return ["--out", str(out), *sets, f"--set=deletions.schedule={schedule}"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "simulations" / "run.py"), *arguments]


def stopped(out: Path, engine: str, how: signal.Signals, rounds: int) -> tuple[int, str]:
    """Play a run until some rounds are done, then send its process a signal: exit code and output."""
    process = subprocess.Popen(
        command(*arguments_of(out, engine, **{"training.rounds": rounds})),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Tests that run in the background are set to ignore Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 8) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    _, output = process.communicate(timeout=90)
    # After kill -9 nobody ends Ray's agents but they themselves, in a minute or so.
    deadline = time.monotonic() + (150 if how is signal.SIGKILL else 30)
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _alive(process.pid), "processes of the run live on"
    return process.returncode, output


def _alive(session: int) -> list[str]:
    """Processes of a session that are still there, zombies aside."""
    found = subprocess.run(
        ["ps", "-o", "stat=,comm=", "-s", str(session)], capture_output=True, text=True, check=False
    ).stdout
    return [line for line in found.splitlines() if not line.lstrip().startswith("Z")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_a_run_on_ray_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C and kill -9: no process stays, results are marked, and --resume ends as the run in one piece."""
    code, output = stopped(tmp_path / "ray", "ray", how, rounds=60)
    if how is signal.SIGINT:
        assert code == 3 and "to go on" in output
        assert json.loads((tmp_path / "ray" / "results.json").read_text())["status"] == "partial"
    resumption = command("--resume", "--out", str(tmp_path / "ray"))
    assert subprocess.run(resumption, check=False, stdout=subprocess.DEVNULL).returncode == 0
    piece = command(
        *arguments_of(tmp_path / "piece", "inline", **{"training.rounds": 60}), "--cache", str(tmp_path / "c")
    )
    assert subprocess.run(piece, check=False, stdout=subprocess.DEVNULL).returncode == 0
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("ray", "piece")]
    assert without_times(results[0]) == without_times(results[1])
    assert weights_of(tmp_path / "ray") == weights_of(tmp_path / "piece")


def test_ctrl_c_marks_results_partial_and_says_how_to_go_on(tmp_path: Path) -> None:
    code, output = stopped(tmp_path / "run", "inline", signal.SIGINT, rounds=3000)
    assert code == 3
    assert output.strip().splitlines()[-1] == (
        f"to go on: python simulations/run.py --resume --out {tmp_path / 'run'}"
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "partial" and "interrupted" in results["failure"]
    assert results["failure"].endswith(f"python simulations/run.py --resume --out {tmp_path / 'run'}")
    assert results["timeline"][0]["test_uar"] > 0, "the page shows how far learning had come"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "--resume --out" in page and "The run ended before they could be compared" in page


def test_options_that_contradict_the_run_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Death), pytest.MonkeyPatch.context() as patched:
        dying(patched, lambda _, number, __: number == 3)
        resumed(tmp_path / "run", small_config(), tmp_path / "cache")
    code, output = call("run", "--resume", "--out", tmp_path / "run", "--seed", "9")
    assert code == 2 and "was made with seed = 3, this run has 9" in output


def test_there_must_be_a_run_to_go_on_with(tmp_path: Path) -> None:
    for arguments, line in (
        (["--resume"], "say which run, as --out DIR"),
        (["--resume", "--out", str(tmp_path / "none")], "holds no run"),
    ):
        code, output = call("run", *arguments)
        assert code == 2 and line in output and len(output.strip().splitlines()) == 1


def test_without_checkpoints_nothing_is_written_between_rounds(tmp_path: Path) -> None:
    run_small(tmp_path / "run", small_config(federation__checkpoint_every=0))
    assert not (tmp_path / "run" / "checkpoints" / "standing").exists()


def test_a_run_stopped_before_anything_was_learned_begins_anew(tmp_path: Path, whole: Any) -> None:
    """Killed while vaults were being filled: what there is goes, and the run is made."""
    out = tmp_path / "run"
    experiment = prepared(out, eventful())
    experiment.close()
    shutil.rmtree(out / "vaults" / "client-0003")
    (out / "vaults" / "client-0005" / "index.json").unlink()
    assert_same(out, resumed(out, eventful(), tmp_path / "cache"), whole)
    assert Vault(out / "vaults" / "client-0003").entries


def test_an_interrupt_is_distinguished_from_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Clients, "ask", interrupted)
    with pytest.raises(Interrupted):
        resumed(tmp_path / "run", small_config(), tmp_path / "cache")


# ---- what the devices have done, and the server must not forget -------------------------------------------


def left_after(out: Path, config: Config, cache: Path, kind: str, times: int = 1) -> None:
    """A run whose server dies when the clients have answered such a message for the so many-th time."""
    with pytest.MonkeyPatch.context() as patched:
        dying(patched, lambda sent, _, seen: sent == kind and seen.count(kind) == times)
        with pytest.raises(Death):
            resumed(out, config, cache)


@pytest.mark.parametrize(
    "change",
    [
        {"deletions__schedule": [{"client": 2, "what": "all", "round": 0}]},
        {
            "training__rounds": 4,
            "partition__recordings": [{"client": 2, "count": 4, "round": 2}],
            "deletions__schedule": [
                {"client": 1, "what": "some", "count": 2, "round": 1},
                {"client": 2, "what": "some", "count": 3, "round": 0},
            ],
            "deletions__window": 2,
        },
    ],
    ids=["before the first round", "while another waits"],
)
def test_what_was_purged_at_once_is_not_forgotten_by_a_server_that_dies(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Nothing is written down between rounds, and the devices have removed it for good."""
    config = small_config(federation__checkpoint_every=1000, **change)
    whole = run_small(tmp_path / "whole", config), weights_of(tmp_path / "whole")
    left_after(tmp_path / "run", config, tmp_path / "cache", "query.purge")
    assert_same(tmp_path / "run", resumed(tmp_path / "run", config, tmp_path / "cache"), whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_run_that_is_taken_up_does_not_find_itself_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died right after its original, and then its retrained model, were kept as references."""
    config = small_config(federation__checkpoint_every=1000)
    whole = run_small(tmp_path / "whole", config), weights_of(tmp_path / "whole")
    keep, out = ReferenceCache.keep, tmp_path / "run"

    def kept(*arguments: Any) -> None:
        keep(*arguments)
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(ReferenceCache, "keep", kept)
        for _ in range(2):
            with pytest.raises(Death):
                resumed(out, config, tmp_path / "cache")
    assert_same(out, resumed(out, config, tmp_path / "cache"), whole)
    assert lines(out) == lines(tmp_path / "whole")


def test_a_cached_original_tells_of_the_same_absences(tmp_path: Path) -> None:
    config = small_config(
        availability__offline=0.3, partition__recordings=[{"client": 4, "count": 4, "round": 2}]
    )
    trained = run_small(tmp_path / "one", config, cache=tmp_path / "cache")
    found = run_small(tmp_path / "two", config, cache=tmp_path / "cache")
    assert trained["times"]["references"]["original"] == "trained"
    assert found["times"]["references"]["original"] == "cached"
    assert found["availability"]["unreachable"] == trained["availability"]["unreachable"] != []
    assert without_times(found) == without_times(trained)


def test_no_checkpoint_holds_a_late_reply_of_a_purged_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ran out, the second reply was applied, the speech purged; the first is on its way."""
    held: list[int] = []
    put = resume_room.RunCheckpoints.put

    def looked(self: Any, saved: SavedRun, head: str) -> None:
        put(self, saved, head)
        for reply in saved.state.late_replies:
            if all(saved.state.requests[key].gone for key, _ in reply.requests):
                held.append(sum(t.numel() for t in reply.update.difference.values()))

    monkeypatch.setattr(resume_room.RunCheckpoints, "put", looked)
    monkeypatch.setattr(
        "fedunlearn.server.availability.Availability.delay",
        lambda _, __, ___, attempt: 5 * (attempt == 1),
    )
    schedule = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    config = small_config(deletions__schedule=schedule, availability__lease=2, federation__checkpoint_every=1)
    results = run_small(tmp_path / "run", config)
    assert [f["kind"] for f in results["faults"]] == ["late"]
    assert results["requests"][0]["attempts"] == 2 and results["requests"][0]["state"] == "verified"
    assert held and not any(held)


def trace(file: Path, client: int, start: int, end: int) -> str:
    file.write_text(f"client,from,until\n{client},{start},{end}\n")
    return str(file)


def test_a_request_on_a_device_that_cannot_be_reached_in_the_last_round_is_served_after_a_resume(
    tmp_path: Path,
) -> None:
    """The run ends after round 4, client 2 is away in rounds 4 and 5: a resumed run waits for it, or
    nothing."""
    config = small_config(
        availability__trace=trace(tmp_path / "trace.csv", 2, 4, 6), deletions__schedule=SCHEDULE[:1]
    )
    out, cache = tmp_path / "run", tmp_path / "cache"
    first = resumed(out, config, cache)
    assert first["status"] == "complete"
    assert without_times(resumed(out, config, cache)) == without_times(first)
    Inbox(Vault(out / "vaults" / "client-0002").folder).file(FiledRequest("ab" * 8, "all", "person"))
    second = resumed(out, config, cache)
    assert [(r["client"], r["state"]) for r in second["requests"]] == [(1, "verified"), (2, "verified")]
    assert without_times(resumed(out, config, cache)) == without_times(second)


def test_a_part_of_a_request_is_served_when_its_deadline_has_passed_and_not_lost_before(
    tmp_path: Path,
) -> None:
    """The person's other device is away for ever; patience is shorter than the deadline."""
    experiment = prepared(tmp_path / "names", small_config(partition__shared_speakers=1))
    speaker, (here, there) = next((s, c) for s, c in experiment.partition.holders.items() if len(c) > 1)
    experiment.close()
    config = small_config(
        partition__shared_speakers=1,
        availability__trace=trace(tmp_path / "trace.csv", there, 1, 1000),
        deletions__patience=1,
        deletions__schedule=[
            {"client": here, "what": "speaker", "speaker": speaker, "after_learning": 0, "deadline": 5}
        ],
    )
    results = run_small(tmp_path / "run", config)
    (request,) = results["requests"]
    assert (request["client"], request["state"], request["overdue"]) == (here, "verified", True)
    assert request["rounds_waited"] == 6  # the first round beyond the deadline


def test_a_device_whose_part_has_gone_before_says_so_and_the_others_wait_no_more(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "names", small_config(partition__shared_speakers=1))
    speaker, (here, there) = next((s, c) for s, c in experiment.partition.holders.items() if len(c) > 1)
    experiment.close()
    schedule = [
        {"client": there, "what": "all", "round": 1},
        {"client": here, "what": "speaker", "speaker": speaker, "round": 2},
    ]
    config = small_config(partition__shared_speakers=1, deletions__schedule=schedule)
    results = run_small(tmp_path / "run", config)
    assert results["status"] == "complete"
    states = {(r["client"], r["state"]) for r in results["requests"]}
    assert states == {(there, "verified"), (here, "verified"), (there, "refused")}


def test_what_a_killed_writer_left_beside_the_checkpoints_goes(
    tmp_path: Path, decoded: DecodedCorpus
) -> None:
    """Half a file may hold what somebody has taken back since; and it is no checkpoint to resume from."""
    config, out = eventful(), tmp_path / "run"
    left_in_the_middle(out, config, tmp_path / "cache", decoded)
    folder = out / "checkpoints" / "standing"
    left = [".00000099.safetensors.1.tmp", "00000099.safetensors", "00000001.safetensors.json"]
    for name in left:
        (folder / name).write_bytes(b"half")
    resumed(out, config, tmp_path / "cache", decoded=decoded)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4 and not {*left} & {*names}


def test_a_partial_run_that_dies_while_it_is_compared_ends_as_it_would_have(tmp_path: Path) -> None:
    """Client 5 is never decoded. The run that was cut off waits no longer; a finished one is tried anew."""
    config = small_config(
        availability__trace=trace(tmp_path / "trace.csv", 5, 1, 1000), deletions__schedule=SCHEDULE[:1]
    )
    whole = run_small(tmp_path / "whole", config), weights_of(tmp_path / "whole")
    assert whole[0]["status"] == "partial"
    out, cache = tmp_path / "run", tmp_path / "cache"
    left_after(out, config, cache, "retrain")
    left_after(out, config, cache, "query.deletions")
    assert_same(out, resumed(out, config, cache), whole)
    timeline_round = [row["round"] for row in whole[0]["timeline"]][-1]
    anew = resumed(out, config, cache)
    assert anew["availability"]["unreachable"][-1][0] > timeline_round
