"""The same work many times over, in processes of its own: prompt to stop, and never left behind."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from fedunlearn.cpus import usable_cpus
from fedunlearn.errors import RunFailed

AnyTask = TypeVar("AnyTask")
Made = TypeVar("Made")
Shared = TypeVar("Shared")

_LOOK_SECONDS = 0.2
_SHADOWS_DIED = (
    "a process of the shadow federations died (killed, or out of memory); fewer at a time: lower "
    "evaluation.shadow_workers"
)


def make_all(
    make: Callable[[Shared, AnyTask], Made],
    shared: Shared,
    tasks: Sequence[AnyTask],
    workers: int,
    alive: Callable[[], None],
    choose: Callable[[Sequence[AnyTask], Sequence[AnyTask]], int | None] = lambda waiting, running: 0,
    died: str = _SHADOWS_DIED,
) -> Generator[tuple[AnyTask, Made], None, None]:
    """Make something of each task; yields the tasks in the order in which they are finished.

    Args:
        make: a function of a module, of what all tasks share and a task; plain data and arrays.
        shared: sent once to each process.
        tasks: plain data and arrays.
        workers: processes, 0 = one a CPU; with one, or one task, all is done in this process, and ``make``
            alone can look whether it is wanted still.
        alive: called several times a second; raises where the work is not wanted any more.
        choose: takes the tasks that wait and those that are being done; which of the first may begin now, or
            None. Not asked in one process; where nothing is being done, None is the first.
        died: why the work failed, where a process died.

    Raises:
        RunFailed: a process died. And whatever ``make`` or ``alive`` raises. No process is left then.
    """
    workers = min(workers or usable_cpus(), len(tasks))
    if workers <= 1:
        for task in tasks:
            alive()
            yield task, make(shared, task)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (make, shared))
    try:
        waiting, open_ = list(tasks), dict[Future[Any], AnyTask]()
        while waiting or open_:
            alive()
            while waiting and len(open_) < workers:
                chosen = choose(waiting, list(open_.values()))
                if chosen is None and open_:
                    break
                task = waiting.pop(chosen or 0)
                with _ctrl_c_waits():
                    open_[pool.submit(_make, task)] = task
            done, _ = wait(open_, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                yield open_.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunFailed(died) from error
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        pool.shutdown(cancel_futures=True)


_shared: tuple[Callable[[Any, Any], Any], Any] | None = None
"""of a worker process: what to do, and what all tasks share"""


def _begin(make: Callable[[Any, Any], Any], shared: Any) -> None:
    global _shared
    torch.set_num_threads(1)
    _shared = make, shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(task: Any) -> Any:
    assert _shared is not None
    make, shared = _shared
    return make(shared, task)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Processes started in here never receive Ctrl-C; the parent receives it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
