"""Processes that end with the process that started them, whatever ends it.

Every process gets a variable with the deployment's mark into its environment, which its children inherit,
also those that Flower starts in sessions of their own. A watcher, which is started first, waits until this
process has closed its pipe or is dead; then it ends everything with the mark and removes the temporary
folder. So a kill -9 leaves nothing behind, either.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from fedunlearn.deployment.memory import remove_groups
from fedunlearn.deployment.network import remove_hosts

_VARIABLE, _PART = "FEDUNLEARN_DEPLOYMENT", "FEDUNLEARN_PART"
_TERM_SECONDS, _KILL_SECONDS = 5.0, 5.0
_WATCHER = "from fedunlearn.deployment.processes import watch; watch()"


class ProcessSet:
    """The processes of one deployment, and its temporary folder.

    Args:
        folder: temporary, private; removed at the end.

    Attributes:
        mark: of the deployment, unique.
        folder: temporary.
    """

    def __init__(self, folder: Path) -> None:
        self.mark, self.folder = secrets.token_hex(4), folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", _WATCHER, self.mark, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that started it
        )

    def start(
        self,
        command: Sequence[str],
        log: Path,
        variables: Mapping[str, str],
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own.

        Args:
            command: program and arguments.
            log: file that its output is appended to.
            variables: of its environment, besides those of this process.
        """
        part = str(len(self._started))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables, _VARIABLE: self.mark, _PART: part},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and all that it started with SIGKILL, as if its machine had lost power.

        Args:
            process: that was started here; what it started is killed also if it has ended itself.
        """
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            _kill_all(children)
        process.wait(timeout=_KILL_SECONDS)
        _kill_all(_marked(self.mark, str(self._started.index(process))))

    def close(self) -> None:
        """End all processes and remove the temporary folder; returns when it is done."""
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        try:
            self._watcher.wait(timeout=_TERM_SECONDS + 2 * _KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()
            _end_everything(self.mark, self.folder)
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_KILL_SECONDS)


def watch() -> None:
    """Wait until the process that started this one has closed its pipe or is dead; then end everything."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    mark, folder = sys.argv[1], Path(sys.argv[2])
    sys.stdin.buffer.read()
    _end_everything(mark, folder)


def _end_everything(mark: str, folder: Path) -> None:
    for process in _marked(mark):
        with suppress(psutil.Error):
            process.terminate()
    end = time.monotonic() + _TERM_SECONDS
    while any(True for _ in _marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    end = time.monotonic() + _KILL_SECONDS
    while (left := list(_marked(mark))) and time.monotonic() < end:
        _kill_all(left)
    remove_hosts(mark)
    remove_groups(mark)
    shutil.rmtree(folder, ignore_errors=True)


def _kill_all(processes: Iterable[psutil.Process]) -> None:
    processes = list(processes)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    end = time.monotonic() + _KILL_SECONDS
    while any(map(_runs, processes)) and time.monotonic() < end:
        time.sleep(0.01)


def _marked(mark: str, part: str | None = None) -> Iterable[psutil.Process]:
    """Yield the processes of a deployment, or of one part of it: one that was started and what it started."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            variables = process.environ()
            if variables.get(_VARIABLE) == mark and part in (None, variables.get(_PART)) and _runs(process):
                yield process


def _runs(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that nobody has waited for has."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
