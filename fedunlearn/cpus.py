"""How many CPUs this process may use, which on shared machines may be fewer than there are."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cpus() -> int:
    """Count the CPUs that this process may use, at least 1.

    It is the smallest of: the CPUs that the process is bound to (taskset, cpusets, SLURM), the CPU time of
    its control groups (containers, systemd), and SLURM's CPUs of a task.
    """
    return int(max(1, min(_bound_to(), _quota(), _of_slurm())))


def _bound_to() -> int:
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _of_slurm() -> float:
    declared = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(declared) if declared.isascii() and declared.isdecimal() and int(declared) else math.inf


def _quota(root: Path = Path("/")) -> float:
    """Return the smallest CPU limit of the process's control groups; infinity if none has a limit.

    Args:
        root: root of the file system.
    """
    return min((limit for folder in _groups(root) for limit in _limits(folder)), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of either version, up to the outermost."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, inside = [*line.split(":", 2), "", ""][:3]
        tops = [mounted / name for name in (controllers, "cpu")] if controllers else [mounted]
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(inside.lstrip("/"))
        for top in tops:
            # In a container the path may be that outside of it; the outermost group is there in any case.
            yield from (top / part for part in (group, *group.parents))


def _limits(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        yield math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError, ZeroDivisionError):
        period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
        if int(quota) > 0:  # -1: no limit
            yield math.ceil(int(quota) / int(period))
