"""Ray on a cluster: two nodes as two sets of processes on this machine, each with a disk of its own."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.serverapp import Grid
from small_run import prepared, run_small, small_config, weights_of, without_times

from fedunlearn.audio import PCM
from fedunlearn.engines.engine import play
from fedunlearn.experiment.final_search import EngineStorage
from fedunlearn.vault.relocation import (
    mark_as_moved,
    read_all_files,
    read_metadata_files,
    replace_metadata_files,
    restore_arrays,
    write_all_files,
)
from fedunlearn.vault.vault import Vault

NODES = """
import sys
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
nodes.wait_for_nodes()
print(nodes.address, flush=True)
for line in sys.stdin:
    nodes.remove_node(second, allow_graceful=False)
nodes.shutdown()
"""


class Nodes:
    """Two Ray nodes of one CPU each, started by a process of their own."""

    def __init__(self) -> None:
        here = str(Path(__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": here},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the nodes did not start"

    def kill_one(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.end()


def without_where(results: dict[str, Any]) -> str:
    """Less what says on which machines it was."""
    shown = {**results, "faults": [], "traces": None}
    return without_times(shown)


@pytest.mark.slow
def test_two_nodes_agree_with_one_process_and_nothing_stays_on_them(
    cluster: Nodes, tmp_path: Path, inline_run: tuple[Path, Any]
) -> None:
    """Devices live on both; every request is verified there; in the end the nodes are empty again."""
    disk = tmp_path / "disk"
    config = small_config(
        federation__engine="ray", federation__ray_address=cluster.address, federation__node_folder=str(disk)
    )
    seen: dict[str, int] = {}

    def look() -> None:
        while not over.wait(0.1):
            for folder in disk.glob("*/vaults/client-*"):
                if any(folder.glob("audio-*")):
                    seen[folder.name] = seen.get(folder.name, 0) + 1

    over = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    results = run_small(tmp_path / "run", config)
    over.set()
    watcher.join()
    assert without_where(results) == without_where(inline_run[1])
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])
    assert sorted(seen) == [f"client-{c:04d}" for c in range(6)], "each vault was on some node's disk"
    assert not list(disk.rglob("*.*")), "and is not there any more"
    assert not list((tmp_path / "run" / "vaults").glob("*/*.i16")), "nor was it in the run folder meanwhile"
    assert results["traces"]["found"] == []


class KillNode:
    """A Flower mod: says when client 3 begins to train in round 2, so that a test can kill its node."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        mine = message.metadata.message_type == "train" and context.node_config["partition-id"] == 3
        if mine and message.content.config_records["settings"]["round"] == 2 and not self.flag.exists():
            self.flag.touch()
            time.sleep(600)
        return call_next(message, context)


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_costs_nothing_but_time(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_run: tuple[Path, Any]
) -> None:
    """Its devices move to the other node with vaults made anew from the corpus; the outcome is the same bits.

    What was on its disk nobody can reach: the requests that came later make the run say so, and where.
    """
    config = small_config(
        federation__engine="ray",
        federation__ray_address=cluster.address,
        federation__node_folder=str(tmp_path / "disk"),
    )
    flag = tmp_path / "now"

    def kill() -> None:
        while not flag.exists():
            time.sleep(0.05)
        cluster.kill_one()

    killer = threading.Thread(target=kill)
    killer.start()
    experiment = prepared(tmp_path / "run", config)
    conduct, stored = experiment.conduct, list[EngineStorage]()

    def watched(grid: Grid, storage: EngineStorage) -> None:
        stored.append(storage)
        conduct(grid, storage)

    monkeypatch.setattr(experiment, "conduct", watched)
    results = play(experiment, [KillNode(flag)]).to_json()
    killer.join()
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])
    assert [r["state"] for r in results["requests"]] == ["verified"] * 3
    (lost,) = stored[0].nodes.lost  # type: ignore[union-attr]
    assert lost.clients and results["status"] == "partial"
    assert results["failure"] == (
        f"deleted speech may be left on a node that was lost: wipe {lost.folder} on {lost.address}"
    )
    assert list(Path(lost.folder).rglob("audio-*")), "it is: the node had no time to wipe it"


def test_no_cluster_is_reported_in_one_line(tmp_path: Path) -> None:
    from fedunlearn.errors import RunFailed

    config = small_config(federation__engine="ray", federation__ray_address="127.0.0.1:1")
    experiment = prepared(tmp_path / "run", config)
    with pytest.raises(RunFailed, match=r"ray_address = '127.0.0.1:1': no Ray cluster answers there"):
        play(experiment)


# ---- metadata files and arrays ---------------------------------------------------------------------------


def test_a_vault_moves_and_comes_back(tmp_path: Path) -> None:
    """It is moved whole; its arrays are wiped here, its metadata files follow, the corpus restores it."""
    prepared(tmp_path / "run").close()
    here, there = tmp_path / "run" / "vaults" / "client-0002", tmp_path / "there"
    before = Vault(here)
    pcm: dict[str, PCM] = {i: before.read_audio(i) for i in before.entries}
    write_all_files(there, read_all_files(here))
    mark_as_moved(here)
    assert not list(here.glob("*.i16")) and not list(here.glob("*.f32"))
    moved = Vault(there)
    assert all((moved.read_audio(i) == pcm[i]).all() for i in pcm)
    gone = list(pcm)[:3]
    moved.purge(gone)
    (there / "receipts").mkdir()
    (there / "receipts" / "r.json").write_text("{}")
    (there / "inbox").mkdir()
    (there / "inbox" / "request.json").write_text("{}")
    replace_metadata_files(here, read_metadata_files(there))
    assert (here / "receipts" / "r.json").exists() and not (here / "inbox").exists()
    restore_arrays(here, pcm.__getitem__)
    again = Vault(here)
    assert list(again.entries) == [i for i in pcm if i not in gone] and again.generation == moved.generation
    assert all((again.read_audio(i) == pcm[i]).all() for i in again.entries)
    stamp = again.is_current
    restore_arrays(here, pcm.__getitem__)  # it lives here: nothing happens
    assert stamp and again.is_current
