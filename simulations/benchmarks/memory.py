"""Memory of a process and all its descendants, sampled from outside while it runs."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_EVERY = 0.5


@dataclass
class Watched:
    """The output and the memory of a command.

    Attributes:
        out: its standard output.
        samples: [(seconds since 1970, bytes)], the proportional set size of all its processes together, which
            counts shared memory once.
    """

    out: str = ""
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The largest sample, bytes."""
        return max((held for _, held in self.samples), default=0)

    def growth(self, start: float, end: float) -> float | None:
        """Compute by what share memory grew from the second to the last tenth of a period; None = too short.

        The first tenth is left out: opened vaults and the object store fill up in it.

        Args:
            start: begin of the period, seconds since 1970.
            end: end of the period, seconds since 1970.
        """
        at = [(moment - start) / (end - start) for moment, _ in self.samples]
        held = [bytes_ for _, bytes_ in self.samples]
        early = sorted(b for share, b in zip(at, held, strict=True) if 0.1 <= share < 0.2)
        late = sorted(b for share, b in zip(at, held, strict=True) if 0.9 <= share <= 1.0)
        if not early or not late:
            return None
        return late[len(late) // 2] / early[len(early) // 2] - 1.0


def watch(command: Sequence[str], memory: bool = False, cwd: Path | None = None) -> Watched:
    """Run a command to its end.

    Args:
        command: program and arguments.
        memory: whether to sample its memory, which slows it down a little.
        cwd: working directory; None = the caller's.

    Raises:
        RuntimeError: the command failed; with the end of its standard error.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=cwd
    )
    seen, over = Watched(), threading.Event()

    def sample() -> None:
        while not over.wait(_EVERY):
            seen.samples.append((time.time(), held_by(process.pid)))

    sampler = threading.Thread(target=sample, daemon=True)
    if memory:
        sampler.start()
    try:
        seen.out, errors = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        over.set()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed: {errors.strip()[-2000:]}")
    return seen


def held_by(process: int) -> int:
    """Sum the memory of a process and its descendants, bytes; those that have ended count as 0."""
    try:
        family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_held, family))


def _held(process: psutil.Process) -> int:
    try:
        # Only Linux knows what is shared with whom.
        usage = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
        return int(getattr(usage, "pss", usage.rss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
