"""Limits the memory of a device: all its processes together, by a control group, which needs root.

RLIMIT_AS and RLIMIT_DATA count what a process has reserved: 3 GB and 750 MB for ``import torch`` alone with a
build for CUDA, of which 300 MB are ever used. A control group counts the pages that are in memory, as a
device with so much memory does, and its kernel kills a process that needs more.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_PREFIX = "fedunlearn"
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True)
class MemoryGroup:
    """The control group of one device.

    Attributes:
        folder: of the group.
    """

    folder: Path

    @classmethod
    def create(cls, mark: str, client: int, limit: int) -> "MemoryGroup":
        """Create a control group with a limit.

        Args:
            mark: of the deployment.
            client: number of the device.
            limit: most bytes in memory.

        Raises:
            OSError: it cannot be created.
        """
        folder = _parent() / f"{_PREFIX}-{mark}-{client}"
        folder.mkdir()
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        for name in limits if _is_v1() else ("memory.max",):
            with suppress(FileNotFoundError):  # swap is not counted on every system
                (folder / name).write_text(str(limit))
        return cls(folder)

    @property
    def peak(self) -> int:
        """The most bytes that were in memory at a time, file pages included."""
        name = "memory.max_usage_in_bytes" if _is_v1() else "memory.peak"
        return int((self.folder / name).read_text())

    def inside(self, command: Sequence[str]) -> list[str]:
        """Make a command that runs in this group, with the same process id.

        Args:
            command: program and arguments.
        """
        return ["/bin/sh", "-c", _ENTER, str(self.folder), *command]


def why_no_limit() -> str:
    """Say why memory cannot be limited on this machine; empty if it can."""
    try:
        group = MemoryGroup.create(f"try{os.getpid()}", 0, 1 << 30)
        group.folder.rmdir()
    except OSError as error:
        return f"a control group cannot be made in {_parent()} ({error.strerror})"
    return ""


def remove_groups(mark: str) -> None:
    """Remove the control groups of a deployment whose processes have ended.

    Args:
        mark: of the deployment.
    """
    for folder in _parent().glob(f"{_PREFIX}-{mark}-*"):
        for _ in range(20):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.05)  # the kernel has not forgotten the last process yet


def _is_v1() -> bool:
    return (_V1 / "memory.limit_in_bytes").exists() or (_V1 / "memory.usage_in_bytes").exists()


def _parent() -> Path:
    return _V1 if _is_v1() else _V2
