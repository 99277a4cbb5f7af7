"""The machine that a run is on: CPUs that may be used, long temporary folders, clients that do not come."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn import cpus
from fedunlearn.config.federation import FederationSettings
from fedunlearn.cpus import usable_cpus
from fedunlearn.engines import engine
from fedunlearn.errors import RunFailed
from fedunlearn.experiment import process_pool as workers
from fedunlearn.server import meeting
from fedunlearn.server.clients import Clients
from fedunlearn.server.history import History
from fedunlearn.server.state import ServerState

FULL = {"cpu.max": "max 100000"}
CGROUPS: list[tuple[str, dict[str, str], float]] = [
    ("no files at all", {}, float("inf")),
    ("v2, no limit", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, float("inf")),
    ("v2", {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/cpu.max": "200000 100000\n"}, 2),
    ("v2, part of a CPU", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    (
        "v2, the parent's",
        {
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/cpu.max": "300000 100000",
            "sys/fs/cgroup/slice/job/cpu.max": "max 100000",
        },
        3,
    ),
    (
        "v2, in a container",
        {"proc/self/cgroup": "0::/outside/of/it\n", "sys/fs/cgroup/cpu.max": "150000 100000"},
        2,
    ),
    (
        "v1",
        {
            "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/job\n1:name=systemd:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    (
        "v1, no limit",
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        float("inf"),
    ),
    ("odd files", {"proc/self/cgroup": "what\n::\n0::/\n", "sys/fs/cgroup/cpu.max": "0 0 0"}, float("inf")),
]


@pytest.mark.parametrize(("files", "expected"), [c[1:] for c in CGROUPS], ids=[c[0] for c in CGROUPS])
def test_the_quota_of_control_groups(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpus._quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("bound", "there", "quota", "slurm", "expected"),
    [
        (64, 64, float("inf"), "", 64),
        (1, 64, float("inf"), "", 1),
        (64, 64, 3, "", 3),
        (64, 64, float("inf"), "8", 8),
        (4, 64, float("inf"), "8", 4),
        (4, 64, float("inf"), "many", 4),
        (4, 64, float("inf"), "0", 4),
        (None, 12, float("inf"), "", 12),
        (None, None, float("inf"), "", 1),
    ],
)
def test_the_least_of_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
    bound: int | None,
    there: int | None,
    quota: float,
    slurm: str,
    expected: int,
) -> None:
    if bound is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    monkeypatch.setattr(cpus, "_quota", lambda: quota)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert usable_cpus() == expected


def test_nobody_counts_the_cpus_of_the_machine() -> None:
    root = Path(cpus.__file__).parent
    own = [
        p for p in [*root.rglob("*.py"), *(root.parent / "simulations").glob("*.py")] if p.name != "cpus.py"
    ]
    assert [p.name for p in own if "cpu_count" in p.read_text(encoding="utf-8")] == []


def test_workers_and_processes_are_as_many_as_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []

    class Stop(Exception):
        pass

    def options(number: int, _: Any) -> dict[str, Any]:
        ports.append(number)
        raise Stop

    monkeypatch.setattr(engine, "usable_cpus", lambda: 3)
    monkeypatch.setattr(engine, "ray_options", options)
    with pytest.raises(Stop):
        engine.run_ray(None, None, 20, FederationSettings(), Path(os.devnull))  # type: ignore[arg-type]
    with pytest.raises(Stop):
        engine.run_flower(None, None, 20, FederationSettings(), Path(os.devnull))  # type: ignore[arg-type]
    assert ports == [3, 3]
    monkeypatch.setattr(workers, "usable_cpus", lambda: 1)
    made = workers.make_all(lambda shared, task: shared + task, 1, [1, 2, 3], 0, lambda: None)
    assert [done for _, done in made] == [2, 3, 4]  # in this process: a lambda travels to no other


# ---- Ray's temporary folder ------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_temporary_folder_is_not_rays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(engine.tempfile, "tempdir", None)
    monkeypatch.setenv(variable, str(long))
    with engine._short_folder_for_ray():
        short = Path(os.environ["RAY_TMPDIR"])
        assert len(os.fsencode(short)) <= engine._LONGEST_FOR_RAY and short.is_dir()
        assert short.stat().st_mode & 0o077 == 0
    assert not short.exists() and os.environ.get("RAY_TMPDIR") == (
        str(long) if variable == "RAY_TMPDIR" else None
    )
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with engine._short_folder_for_ray():
        assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_where_no_short_folder_can_be_made_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    monkeypatch.setattr(engine.tempfile, "mkdtemp", closed)
    with (
        pytest.raises(RunFailed, match=r"too long for Ray's sockets.*set RAY_TMPDIR"),
        engine._short_folder_for_ray(),
    ):
        pass


# ---- clients that do not come ----------------------------------------------------------------------------


class Few:
    """A grid of which only some nodes are connected."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3, 4]


def test_a_warning_names_missing_clients_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meeting, "_FIRST_WORD_SECONDS", 0.05)
    monkeypatch.setattr(meeting, "_NEXT_WORD_SECONDS", 0.1)
    with pytest.raises(RunFailed) as failed:
        settings, state = FederationSettings(timeout=0.5), ServerState(History(()))
        Clients(Few(), settings, 20, threading.Event(), state)  # type: ignore[arg-type]
    assert "4 of 20 clients are connected after 0.5 s" in str(failed.value)
    assert "options.num-supernodes" in str(failed.value)
    lines = capsys.readouterr().err.strip().splitlines()
    assert 2 <= len(lines) <= 6
    assert all(line.startswith("warning: 4 of 20 clients are connected; waiting for") for line in lines)


@given(st.text(max_size=30))
def test_a_quota_is_never_an_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "proc/self").mkdir(parents=True)
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(text, encoding="utf-8", errors="replace")
        (root / "sys/fs/cgroup/cpu.max").write_text(text, encoding="utf-8", errors="replace")
        assert cpus._quota(root) >= 0
