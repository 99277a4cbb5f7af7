"""Memory of a process and all that it started, sampled from outside while it works."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

_EVERY = 0.5


@dataclass
class Watched:
    """What a command printed, and what its processes held meanwhile.

    Attributes:
        out: its standard output.
        samples: [(seconds since 1970, bytes)]: proportional set size of all its processes together, in which
            what several share counts once.
    """

    out: str = ""
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The most that they held, bytes."""
        return max((held for _, held in self.samples), default=0)

    def growth(self, start: float, end: float) -> float | None:
        """By what part memory grew from the second to the last tenth of a stretch of time; None = too short.

        The first tenth is for filling what stays: opened vaults, the object store.
        """
        at = [(moment - start) / (end - start) for moment, _ in self.samples]
        held = [bytes_ for _, bytes_ in self.samples]
        early = sorted(b for share, b in zip(at, held, strict=True) if 0.1 <= share < 0.2)
        late = sorted(b for share, b in zip(at, held, strict=True) if 0.9 <= share <= 1.0)
        if not early or not late:
            return None
        return late[len(late) // 2] / early[len(early) // 2] - 1.0


def watch(command: Sequence[str], memory: bool = False) -> Watched:
    """Run a command to its end.

    Args:
        memory: whether to sample its memory, which disturbs it a little.

    Raises:
        RuntimeError: it failed; with the end of what it had to say.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
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
    """Bytes of a process and all its descendants; of those that have ended meanwhile, 0."""
    try:
        family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_held, family))


def _held(process: psutil.Process) -> int:
    try:
        # Only Linux knows what is shared with whom.
        told = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
        return int(getattr(told, "pss", told.rss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
