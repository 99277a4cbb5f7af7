"""The folder of one run: the names of its files, its lock, and how its files are written."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedunlearn.errors import BadInput
from fedunlearn.files import HAS_LOCKS, lock_file, write_atomically
from fedunlearn.folders import make_folders, remove_all, remove_folders
from fedunlearn.links import open_to_append, remove
from fedunlearn.run_progress import end_progress

_LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""error numbers of file systems that have no locks"""


class RunFolder:
    """The folder of a run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics, self.progress = path / "metrics.jsonl", path / "progress.json"
        self.results = path / "results.json"
        self.report = path / "report.html"
        self.figures = path / "figures"
        self.ledger = path / "ledger.sqlite"
        self.checkpoints = path / "checkpoints"
        self.standings = self.checkpoints / "standing"
        self.model = path / "model"
        """the final model of a run with a speech encoder, as transformers saves its own"""
        self.own_references = path / "references"  # of an ephemeral run, until it is over
        self.vaults = path / "vaults"
        self.log = path / "log.txt"
        self.purges = path / "purges"
        """one byte per purge of any device; by its length every worker sees that there was one"""
        self.liveness = path / "liveness"
        """one byte per client: whether a process is serving it at the moment"""
        self.followers: list[Callable[[Mapping[str, Any]], None]] = []
        """called with every line of metrics.jsonl after it is written"""
        self._locked: int | None = None
        self._made: list[Path] = []
        """folders that ``create`` made, the innermost first"""
        self._made_lock = False

    def vault(self, client: int) -> Path:
        """Return the folder of a client's vault."""
        return self.vaults / f"client-{client:04d}"

    def clients(self) -> list[int]:
        """List the clients that have a vault here, in order."""
        numbers = (p.name.removeprefix("client-") for p in self.vaults.glob("client-*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def check(self) -> None:
        """Check that the folder can be made, without making it.

        Raises:
            BadInput: it holds something already, or cannot be written.
        """
        try:
            if self.path.exists() and (
                not self.path.is_dir() or any(p.name != _LOCK for p in self.path.iterdir())
            ):
                raise BadInput(f"--out {self.path}: is not an empty folder; name another, or remove it first")
            nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        except OSError as error:
            raise BadInput(f"--out {self.path}: cannot be written ({error.strerror})") from error
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise BadInput(
                f"--out {self.path}: cannot be written ({nearest} is no folder, or not yours to write)"
            )

    def create(self) -> None:
        """Make the folder.

        Raises:
            BadInput: as in ``check``; or its file system has no locks. Nothing is left of it then.
        """
        self.check()
        try:
            self._made = make_folders(self.path)
            self.lock()
            self.checkpoints.mkdir()
            self.vaults.mkdir()
        except (OSError, BadInput) as error:
            self.undo(error)
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"--out {self.path}: cannot be written ({error.strerror})") from error

    def undo(self, error: BaseException) -> None:
        """Remove what was made since ``create``, and the folder itself if that was made then.

        A folder that existed before stays. Nothing is raised here, since that would hide ``error``.

        Args:
            error: reason for the removal; gets a note of what cannot be removed.
        """
        mine = self._made or self._locked is not None  # otherwise another process has the folder now
        try:
            parts = [p for p in self.path.iterdir() if p.name != _LOCK] if mine else []
        except OSError as unreadable:
            parts = []
            error.add_note(f"{self.path}: could not be emptied ({unreadable.strerror})")
        for left in filter(None, map(remove_all, parts)):
            error.add_note(left)
        if self._made_lock and self._locked is not None:
            remove_all(self.path / _LOCK)
        self.unlock()
        remove_folders(self._made)
        self._made = []

    def check_resumable(self) -> None:
        """Check that the folder holds a run.

        Raises:
            BadInput: it does not.
        """
        if not self.config.is_file():
            raise BadInput(f"--resume: {self.path} holds no run ({self.config.name} is missing)")

    def lock(self) -> None:
        """Lock the folder against other processes until this one ends, however it ends.

        Raises:
            BadInput: another process has locked it, or its file system has no locks.
        """
        if not HAS_LOCKS or self._locked is not None:
            return
        lock = self.path / _LOCK
        new = not lock.exists()
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        taken = f"{self.path}: another process plays this run; wait for it, or stop it"
        try:
            lock_file(file)
            if not lock.exists() or not os.path.samestat(os.fstat(file), lock.stat()):
                raise BadInput(taken)  # it has just been released, and perhaps made anew
        except OSError as error:
            os.close(file)
            if error.errno in _NO_LOCKS:
                if new:
                    lock.unlink(missing_ok=True)
                raise BadInput(
                    f"{self.path}: its file system has no locks ({error.strerror}), so that two processes "
                    "could spoil one run; take a folder on another one, such as a local disk"
                ) from error
            raise BadInput(taken) from error
        except BadInput:
            os.close(file)
            raise
        self._locked, self._made_lock = file, new

    def unlock(self) -> None:
        """Release the lock."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def clear(self) -> None:
        """Remove what the preparation of a run made, except for the lock.

        It is for a run that has not started training yet.
        """
        for path in self.path.iterdir():
            if path.name != _LOCK:
                remove(path)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Args:
            row: to be written as JSON.
        """
        with open_to_append(self.metrics) as file:
            file.write(json.dumps(row) + "\n")
        for follower in self.followers:
            follower(row)

    def truncate_metrics(self, lines: int) -> int:
        """Keep only the first lines of metrics.jsonl; later ones belong to rounds that are run again.

        Args:
            lines: number of lines to keep.

        Returns:
            number of lines that are left: fewer if the file is missing or its end was cut off

        Raises:
            BadInput: a line is not JSON.
        """
        if not self.metrics.exists():
            return 0
        *whole, cut = self.metrics.read_bytes().split(b"\n")
        try:
            for line in whole[:lines]:
                json.loads(line)
            if len(whole) < lines and cut and not cut.decode("utf-8").startswith("{"):
                raise ValueError("its end is no row")
        except ValueError as error:
            raise BadInput(
                f"--resume: {self.metrics}: cannot be read as JSON, one line a round; put it back as the run "
                "left it, or remove it to go on without the rounds so far"
            ) from error
        kept = whole[:lines]
        write_atomically(self.metrics, b"".join(line + b"\n" for line in kept))
        return len(kept)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json. Raises ValueError where a number is not finite (JSON has no NaN)."""
        write_atomically(self.results, json.dumps(results, indent=1, allow_nan=False) + "\n")
        end_progress(self.progress, results.get("status"))


def is_locked(run: Path) -> bool:
    """Tell whether a process plays the run in a folder; False also where there are no locks.

    Args:
        run: the run folder.
    """
    if not HAS_LOCKS:
        return False
    try:
        file = os.open(run / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        lock_file(file)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(file)
    return False
