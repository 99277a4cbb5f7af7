"""A run that cannot start: the reason is reported, what was made is removed, what was there before stays."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import call, small_file, write_corpus
from small_run import decoded_once, small_config

from fedunlearn import files, folders
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment import preparation
from fedunlearn.folders import make_new_folder, whole_folder
from fedunlearn.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def new(place: Path) -> Path:
    return place / "a" / "b" / "run"


def empty(place: Path) -> Path:
    (place / "mine").mkdir()
    return place / "mine"


def linked(place: Path) -> Path:
    (place / "scratch").mkdir()
    (place / "out").symlink_to(place / "scratch")
    return place / "out"


def linked_above(place: Path) -> Path:
    (place / "scratch").mkdir()
    (place / "above").symlink_to(place / "scratch")
    return place / "above" / "run"


def locked_before(place: Path) -> Path:
    (place / "mine").mkdir()
    (place / "mine" / ".lock").touch()
    return place / "mine"


OUTS = [new, empty, linked, linked_above, locked_before]


def fails(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device", "somewhere")


@pytest.mark.parametrize("make", OUTS)
@pytest.mark.parametrize("stuck", [False, True], ids=["", "and nothing can be removed"])
def test_the_first_error_survives_and_only_what_was_made_goes(
    tmp_path: Path, make: Callable[[Path], Path], stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = make(place)
    before = tree(place)
    corpus = write_corpus(tmp_path / "corpus")
    broken = corpus / "s03-angry-1.wav"
    broken.write_bytes(broken.read_bytes()[:500])
    if stuck:
        monkeypatch.setattr(folders.shutil, "rmtree", fails)
    code, output = call(
        "run", "--config", small_file(tmp_path), "--corpus", "manifest", "--data", corpus, "--out", out
    )
    assert code == 2 and output.startswith("error:") and "s03-angry-1.wav: is truncated" in output, output
    if stuck:
        assert "could not be removed (No space left on device); remove it by hand" in output
    else:
        assert tree(place) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_whatever_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    out = linked(tmp_path)

    def raises(*_: Any) -> None:
        raise error("the first")

    monkeypatch.setattr(preparation, "_fill_vaults", raises)
    config = small_config()
    with pytest.raises(error, match="the first"):
        preparation.prepare(
            config, out, tmp_path / "cache", preparation.Progress(quiet()), decoded_once(config)
        )
    assert out.is_symlink() and tree(tmp_path) == ["out", "scratch"]


def quiet() -> Any:
    from rich.console import Console

    return Console(quiet=True)


def test_the_folder_of_another_process_is_left_alone(tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run")
    other.create()
    (other.path / "config.toml").write_text("precious")
    (tmp_path / "run" / "vaults").rmdir()
    mine = RunFolder(tmp_path / "run")
    mine.check = lambda: None  # type: ignore[method-assign]  # both looked before either made it
    with pytest.raises(BadInput, match="another process plays this run"):
        mine.create()
    assert (other.path / "config.toml").read_text() == "precious" and (other.path / ".lock").exists()


def test_a_run_that_cannot_begin_anew_keeps_what_people_have_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was ever written down of it: --resume begins from nothing, and fails."""
    config, out, name = small_config(), tmp_path / "run", "0123456789abcdef"
    progress = preparation.Progress(quiet())
    preparation.prepare(config, out, tmp_path / "cache", progress, decoded_once(config)).close()
    Inbox(RunFolder(out).vault(2)).file(FiledRequest(name, "all", f"person-{name}"))
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_fill_vaults", fails)
        with pytest.raises(OSError, match="No space left"):
            preparation.prepare(config, out, tmp_path / "cache", progress, decoded_once(config), resume=True)
    RunFolder(out).check_resumable()
    again = preparation.prepare(config, out, tmp_path / "cache", progress, decoded_once(config), resume=True)
    again.close()
    assert [w.id for w in Inbox(RunFolder(out).vault(2)).waiting()] == [name]


# ---- folders ---------------------------------------------------------------------------------------------


def test_folders_of_the_same_name_get_numbers(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "x"
    found = [make_new_folder(wanted)[0].name for _ in range(3)]
    assert found == ["x", "x-2", "x-3"]


@pytest.mark.usefixtures("undrawn")
def test_two_runs_of_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    command = importlib.import_module("fedunlearn.cli.run")

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "datetime", Fixed)
    tried: list[Path] = []

    def prepare(config: Any, out: Path, *_: Any, **__: Any) -> None:
        tried.append(out)
        if len(tried) == 3:
            raise BadInput("wrong")
        raise RunFailed("stopped here") if len(tried) > 3 else SystemExit(0)

    monkeypatch.setattr(preparation, "prepare", prepare)
    call("run", "--config", small_file(tmp_path))
    assert call("run", "--config", small_file(tmp_path))[0] == 0
    assert tried[0] == tried[1] and not (tmp_path / "runs").exists()  # the first was taken away again
    (tmp_path / "runs" / tried[0].name).mkdir(parents=True)
    assert call("run", "--config", small_file(tmp_path))[0] == 2
    assert tried[2].name == f"{tried[0].name}-2" and not tried[2].exists()


@pytest.mark.parametrize("make", [new, empty, linked, linked_above])
def test_a_whole_folder_or_nothing(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    out = make(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(RuntimeError, match="first"), whole_folder(out) as unfinished:
        (unfinished / "part").mkdir()
        (unfinished / "part" / "file").touch()
        raise RuntimeError("first")
    assert tree(tmp_path) == before
    with whole_folder(out) as unfinished:
        (unfinished / "file").touch()
    assert [p.name for p in out.iterdir()] == ["file"] and out.is_symlink() == (make is linked)


# ---- file systems without locks --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [37, 38, 95, 22])
def test_a_file_system_without_locks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    code_, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run")
    assert code_ == 2 and "its file system has no locks" in output and len(output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


# ---- inputs that cannot be read --------------------------------------------------------------------------

LONG = "x" * 300
UNREADABLE: list[tuple[list[str], str]] = [
    (["--data", LONG, "--corpus", "ravdess"], "File name too long"),
    (["--data", LONG, "--corpus", "manifest"], "File name too long"),
    (["--data", f"{LONG}/y", "--set", "training.roundz=1"], "File name too long"),
    (["--data", "~nobody-has-this-name/x", "--corpus", "ravdess"], "~nobody"),
    (["--data", "circle", "--corpus", "ravdess"], "circle"),
    (["--data", "file", "--corpus", "ravdess"], "is not a folder"),
    (["--config", LONG], "File name too long"),
    (["--config", "."], "Is a directory"),
    (["--config", "circle"], "circle"),
    (["--cache", LONG], "File name too long"),
    (["--cache", "circle/x"], "circle"),
    (["--out", LONG], "File name too long"),
    (["--out", "circle"], "circle"),
    (["--model", LONG], "model.name"),
    (["--set", f"availability.trace={LONG}"], "File name too long"),
    (["--set", "availability.trace=."], "Is a directory"),
    (["--set", 'corpus.path="a\\u0000b"', "--corpus", "ravdess"], "a\\x00b"),
    (["--set", 'availability.trace="a\\u0000b"'], "a\\x00b"),
    (["--resume", "--out", LONG], "File name too long"),
    (["--data", "bytes-\udcff", "--corpus", "ravdess"], "must be UTF-8"),
    (["--data", "closed/x", "--corpus", "ravdess"], "Permission denied"),
]


@pytest.mark.parametrize(("arguments", "expected"), UNREADABLE)
def test_an_input_that_cannot_be_read_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    Path("file").touch()
    if "closed" in arguments[1]:
        if os.geteuid() == 0:
            pytest.skip("nothing is closed to root")
        Path("closed").mkdir(mode=0)
    code, output = call("run", *arguments)
    assert code == 2 and expected in output and "disk full" not in output, output
    assert not Path("runs").exists() and "Traceback" not in output


@pytest.mark.parametrize("command", ["report", "export", "requests", "ledger"])
def test_other_commands_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    for place in (LONG, "circle", "nowhere"):
        arguments = {
            "report": ["report", place],
            "export": ["export", place, "--out", "model"],
            "requests": ["requests", "--run", place],
            "ledger": ["ledger", "show", place],
        }[command]
        code, output = call(*arguments)
        assert code == 2 and len(output.strip().splitlines()) == 1, (place, output)
    assert call("report", LONG, "circle")[0] == 2


@pytest.mark.parametrize(
    ("encoding", "mark", "code"),
    [("utf-8-sig", "", 0), ("utf-16", "UTF-16", 2), ("utf-32", "UTF-32", 2), ("latin-1", "UTF-8", 2)],
)
def test_text_files_of_other_editors(tmp_path: Path, encoding: str, mark: str, code: int) -> None:
    from fedunlearn import config as configuration
    from fedunlearn.corpora import manifest
    from fedunlearn.server.availability import read_trace

    corpus = write_corpus(tmp_path / "corpus")
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,until,é\n0,1,2,é\n", encoding=encoding)
    table = corpus / "manifest.csv"
    table.write_text(table.read_text() + "\n,,é", encoding=encoding)
    settings = tmp_path / "c.toml"
    settings.write_text("seed = 4 # é\n", encoding=encoding)
    readers: list[tuple[Callable[[], Any], str]] = [
        (lambda: configuration.load(settings), "c.toml"),
        (lambda: read_trace(trace, 2), "trace.csv"),
    ]
    for read, name in readers:
        if code == 0:
            read()
        else:
            with pytest.raises(BadInput, match=f"{name}.*{mark}"):
                read()
    with pytest.raises(BadInput, match=mark or "must not be empty"):  # the last row of it
        manifest.read(corpus)


@pytest.mark.usefixtures("undrawn")
def test_a_config_with_a_mark_runs(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    code, output = call("run", "--config", file, "--set", "training.rounds=0", "--out", tmp_path / "run")
    assert code == 2 and "training.rounds" in output and "TOML" not in output


@pytest.mark.skipif(sys.platform != "linux", reason="needs mount namespaces")
@pytest.mark.slow
def test_a_mount_point_as_out_stays(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    broken = corpus / "s03-angry-1.wav"
    broken.write_bytes(broken.read_bytes()[:500])
    (tmp_path / "disk").mkdir()
    run = (
        f"mount -t tmpfs none disk && {sys.executable} -m fedunlearn run --config {small_file(tmp_path)} "
        f"--corpus manifest --data {corpus} --out disk; echo code $?; find disk"
    )
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", run],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if "code" not in done.stdout:
        pytest.skip("mount namespaces are not allowed here")
    assert done.stdout.splitlines()[-2:] == ["code 2", "disk"], (done.stdout, done.stderr)
    assert "is truncated" in done.stderr
