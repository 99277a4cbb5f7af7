"""Work in processes: everything is made once, and none outlives its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedunlearn.errors import RunFailed
from fedunlearn.experiment.process_pool import make_all

TESTS = Path(__file__).resolve().parents[1]


def product(shared: int, task: int) -> tuple[int, int]:
    return shared * task, os.getpid()


def failing(shared: int, task: int) -> int:
    if task == 3:
        raise ValueError("three")
    return task


def dying(shared: int, task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return task


def endless(shared: int, task: int) -> int:
    time.sleep(600)
    return task


def never() -> None:
    """Nobody wants it to stop."""


def test_in_this_process() -> None:
    made = list(make_all(product, 10, [1, 2, 3], 1, never))
    assert made == [(n, (10 * n, os.getpid())) for n in (1, 2, 3)]
    assert list(make_all(product, 10, [], 2, never)) == []


def test_one_process_stops_between_tasks() -> None:
    left = [2]

    def alive() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RunFailed("stopped")

    done = []
    with pytest.raises(RunFailed, match="stopped"):
        for task, _ in make_all(product, 1, [1, 2, 3], 1, alive):
            done.append(task)
    assert done == [1, 2]


@pytest.mark.slow
def test_in_two_processes() -> None:
    made = dict(make_all(product, 10, list(range(8)), 2, never))
    assert {task: value for task, (value, _) in made.items()} == {n: 10 * n for n in range(8)}
    assert os.getpid() not in {process for _, process in made.values()}
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "error", "line"),
    [(failing, ValueError, "three"), (dying, RunFailed, "a process of the shadow federations died")],
)
def test_a_failure_ends_all(make: Callable[[int, int], int], error: type[Exception], line: str) -> None:
    start = time.monotonic()
    with pytest.raises(error, match=line):
        list(make_all(make, 1, [1, 2, 3, 4, 5, 6], 2, never))
    assert multiprocessing.active_children() == [] and time.monotonic() - start < 60


SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(TESTS / "experiment")!r})
from test_process_pool import endless, never
from fedunlearn.experiment.process_pool import make_all

if __name__ == "__main__":
    print("begun", flush=True)
    try:
        list(make_all(endless, 1, [1, 2, 3], 2, never))
    except KeyboardInterrupt:
        sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.5, 9.0], ids=["while they start", "while they work"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_none_outlives_its_parent(tmp_path: Path, how: signal.Signals, after: float) -> None:
    """Ctrl-C goes to all of them, as on a terminal; kill -9 to the parent alone. No worker says anything."""
    script = tmp_path / "endless.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(after)
    start = time.monotonic()
    (os.killpg if how is signal.SIGINT else os.kill)(process.pid, how)
    _, output = process.communicate(timeout=60)
    while alive(process.pid) and time.monotonic() - start < 20:
        time.sleep(0.1)
    assert not alive(process.pid), "processes live on"
    assert process.returncode == (3 if how is signal.SIGINT else -how)
    # Python's own tracker of semaphores notes that nobody gave them back to it.
    assert output == "" or (how is signal.SIGKILL and "resource_tracker" in output)
    assert time.monotonic() - start < 15


def alive(session: int) -> list[str]:
    command = ["ps", "-o", "stat=,args=", "-s", str(session)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in found.splitlines() if not line.lstrip().startswith("Z")]


def ended(shared: int, task: int) -> int:
    time.sleep(0.2)
    return task


@pytest.mark.slow
def test_a_task_waits_until_it_may_begin() -> None:
    """An odd task may not begin beside another odd one; with nothing being done, one begins all the same."""
    beside: list[tuple[int, ...]] = []

    def choose(waiting: Sequence[int], running: Sequence[int]) -> int | None:
        odd = any(task % 2 for task in running)
        place = next((n for n, task in enumerate(waiting) if not (odd and task % 2)), None)
        if place is not None:
            beside.append((waiting[place], *running))
        return place

    done = [task for task, _ in make_all(ended, 1, [1, 3, 5, 2, 4], 2, never, choose)]
    assert sorted(done) == [1, 2, 3, 4, 5]
    assert all(sum(task % 2 for task in tasks) <= 1 for tasks in beside)
    assert list(make_all(ended, 1, [1, 2], 2, never, lambda waiting, running: None)) == [(1, 1), (2, 2)]
