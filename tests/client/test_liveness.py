"""Whose process died in the middle: an exception takes the mark away, a death leaves it."""

import os
from pathlib import Path

import pytest

from fedunlearn.client.liveness import reset_liveness, serving
from fedunlearn.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    reset_liveness(folder, 3)
    return folder


def test_nobody_has_died(run: RunFolder) -> None:
    for _ in range(2):
        with serving(run, 1) as died:
            assert not died
            assert run.liveness.read_bytes() == b"\0\1\0", "every process of the run sees it"
    assert run.liveness.read_bytes() == bytes(3)


def test_an_exception_is_no_death(run: RunFolder) -> None:
    with pytest.raises(KeyError), serving(run, 2):
        raise KeyError
    with serving(run, 2) as died:
        assert not died


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_dies_leaves_its_mark_once(run: RunFolder) -> None:
    child = os.fork()
    if not child:
        with serving(run, 0):
            os._exit(1)
    os.waitpid(child, 0)
    with serving(run, 1) as died:
        assert not died
    with serving(run, 0) as died:
        assert died
    with serving(run, 0) as died:
        assert not died


def test_a_new_run_in_the_same_place_has_marks_of_its_own(run: RunFolder) -> None:
    with serving(run, 0):
        pass
    run.liveness.unlink()
    reset_liveness(run, 5)
    with serving(run, 4) as died:
        assert not died and run.liveness.read_bytes() == b"\0\0\0\0\1"
