"""What a run leaves behind is written whole or not at all."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.run_folder import RunFolder


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    for content in ("é\r\n", b"\xff\x00"):
        write_atomically(tmp_path / "f", content)
        expected = content.encode() if isinstance(content, str) else content
        assert (tmp_path / "f").read_bytes() == expected
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_atomically(tmp_path / "f", "old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises(OSError, match="no space left"):
            write_atomically(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    write_atomically(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"


def test_content_is_on_disk_before_the_rename_and_the_rename_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, replace = os.fsync, Path.replace

    def flushing(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/dev/fd/{handle}") else "file")  # noqa: PTH112
        flush(handle)

    def renaming(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr("os.fsync", flushing)
    monkeypatch.setattr("pathlib.Path.replace", renaming)
    write_atomically(tmp_path / "f", "x")
    assert steps == ["file", "rename", "folder"]


def _write_often(path: Path, letter: str) -> None:
    for _ in range(40):
        write_atomically(path, letter * 5000)


def test_two_processes_may_write_one_file_at_a_time(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write_often, args=(tmp_path / "f", letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "f").read_text() in ("a" * 5000, "b" * 5000)
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


def test_a_new_run_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "b")
    run.create()
    assert run.checkpoints.is_dir() and run.vaults.is_dir()
    assert run.vault(7) == run.vaults / "client-0007"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    RunFolder(tmp_path / "out").create()


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(BadInput, match=f"--out {tmp_path}: is not an empty folder"):
        RunFolder(tmp_path).create()
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_file_in_the_way_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is not an empty folder"):
        RunFolder(tmp_path / "file").create()
    with pytest.raises(BadInput, match="cannot be written"):
        RunFolder(tmp_path / "file" / "deeper").create()


def test_metrics_are_one_line_a_row(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_metrics({"round": 1, "loss": 0.5})
    run.append_metrics({"round": 2, "loss": None})
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert rows == [{"round": 1, "loss": 0.5}, {"round": 2, "loss": None}]


def test_results_with_a_number_that_is_none_are_refused_and_the_old_ones_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_results({"uar": 0.25})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            run.write_results({"uar": bad})
    assert json.loads(run.results.read_text()) == {"uar": 0.25}
