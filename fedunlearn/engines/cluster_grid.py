"""Ray on a cluster: each device is assigned to one node and has its vault on that node's own disk.

A vault is moved to its node with the first message to its device. Its metadata files stay in the run folder
(``vault.relocation``): requests, receipts and the index come back with the replies, and requests that are
filed in the run folder are sent with the next query. Weights go through the object store, which every node
has.

If a node is lost, its devices are assigned to the other nodes: their vaults are restored from the
experimenter's corpus, without what was purged, and their messages are sent again. Nobody can reach the lost
node's disk any more; the run says so.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import ray
from flwr.app import Message
from flwr.clientapp import ClientApp
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedunlearn.client.liveness import reset_liveness
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.engines.ray_grid import RESTARTS, Call, RayGrid, Task, Worker, WorkerPool, WorkerReply
from fedunlearn.errors import RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.links import discard, plain_files
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import Index
from fedunlearn.vault.relocation import (
    Files,
    mark_as_moved,
    metadata_stamp,
    read_all_files,
    read_metadata_files,
    replace_metadata_files,
    write_all_files,
)
from fedunlearn.vault.traces import Fingerprints, TraceFindings, find_traces

MakeApp = Callable[[str], ClientApp]
"""run folder -> the ClientApp over it"""

_CHECK_SECONDS = 1.0
"""interval at which the driver checks that all nodes are alive"""
_MOST_RETRIES = 5
"""times that a message is sent again after its worker failed, before its client counts as failed"""


@dataclass(frozen=True)
class _VaultTransfer:
    """Files that are sent with a message.

    Attributes:
        vault: all files of a vault that is moved to the node; None = it is there already.
        inbox: requests that are filed for the device.
    """

    vault: Files | None
    inbox: Files


@dataclass
class _ClusterNode(WorkerPool):
    """A node and its workers.

    Attributes:
        node_id: Ray's id of the node.
        address: of the node.
        folder: on its disk.
        moved: clients whose vaults are there.
        lost: whether the node is lost.
    """

    node_id: str = ""
    address: str = ""
    folder: str = ""
    moved: set[int] = field(default_factory=set)
    lost: bool = False


@dataclass(frozen=True)
class LostNode:
    """A node that was lost.

    Attributes:
        address: of the node.
        folder: on its disk, with the vaults of the clients.
        clients: whose vaults are there.
        utterances: ids of what these vaults held, as far as the run knows.
    """

    address: str
    folder: str
    clients: tuple[int, ...]
    utterances: frozenset[str]


class NodeWorker(Worker):
    """A worker on one node, for the devices that are assigned to it.

    Args:
        make_app: makes the ClientApp over a run folder.
        folder: of the node, to be made.
        config: content of the run's config file.
        clients: how many there are on all nodes.
    """

    def __init__(self, make_app: MakeApp, folder: str, config: bytes, clients: int) -> None:
        run = RunFolder(Path(folder))
        run.vaults.mkdir(parents=True, exist_ok=True)
        # Several workers start at a time; one of them makes the files, and one that is restarted finds them.
        if _create_mark(run.path / ".made"):
            reset_liveness(run, clients)
            write_atomically(run.config, config)
        while not run.config.exists():
            time.sleep(0.01)
        super().__init__(make_app(folder))
        self._run, self._stamps = run, dict[int, Any]()

    def run(self, task: Task) -> WorkerReply:
        """Run one task: write the transferred files before, attach changed metadata files after."""
        client, transfer = task.node - 1, task.attachment
        folder = self._run.vault(client)
        if transfer.vault is not None:
            write_all_files(folder, transfer.vault)
        for name, content in transfer.inbox.items():
            (folder / "inbox").mkdir(exist_ok=True)
            write_atomically(folder / "inbox" / name, content)
        reply = super().run(task)
        stamp = metadata_stamp(folder)
        if stamp == self._stamps.get(client):
            return reply
        self._stamps[client] = stamp
        return replace(reply, attachment=read_metadata_files(folder))

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Search all files on this node for traces."""
        return find_traces([self._run.path], fingerprints)

    def wipe(self) -> None:
        """Wipe all files on this node."""
        for path in plain_files(self._run.path):
            discard(path)
        shutil.rmtree(self._run.path, ignore_errors=True)


def _create_mark(mark: Path) -> bool:
    """Create a file; false if another process has created it."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class ClusterGrid(RayGrid):
    """A grid whose messages are answered on the node of their device. Ray must be connected.

    Args:
        make_app: makes the ClientApp over a run folder, on a node.
        run: the run's own folder.
        clients: how many.
        most: number of workers on all nodes together; 0 = one per CPU of the cluster.
        base: folder on each node's disk; empty = the system's folder for temporary files.
        restore: restores the arrays of a client's vault in the run folder.

    Attributes:
        lost: nodes that were lost.
    """

    def __init__(
        self,
        make_app: MakeApp,
        run: RunFolder,
        clients: int,
        most: int,
        base: str,
        restore: Callable[[int], None],
    ) -> None:
        self._make, self._run, self._restore = make_app, run, restore
        self.clients, self._base = clients, base
        nodes = [self._start_node(node, workers) for node, workers in _share_workers(most)]
        if not nodes:
            raise RunFailed("the cluster has no CPU for a worker: start nodes with ray start --num-cpus N")
        super().__init__(clients, nodes)
        self._cluster: list[_ClusterNode] = nodes
        self._node_of: dict[int, _ClusterNode] = {}
        self._assign(range(clients))
        self._failures: dict[str, int] = {}
        self._sent_inbox: dict[str, list[Path]] = {}
        self._checked_at = time.monotonic()
        self.lost: list[LostNode] = []

    # ---- which node serves which client --------------------------------------------------------------

    def _start_node(self, node: Mapping[str, Any], workers: int) -> _ClusterNode:
        node_id = node["NodeID"]
        folder = str(Path(self._base or gettempdir()) / f"fedunlearn-{os.getpid()}-{node_id[:12]}")
        pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": pinned, **RESTARTS}
        actor = ray.remote(**options)(NodeWorker)
        config = self._run.config.read_bytes()
        handles = [actor.remote(self._make, folder, config, self.clients) for _ in range(workers)]
        return _ClusterNode(handles, node_id=node_id, address=node["NodeManagerAddress"], folder=folder)

    def _assign(self, clients: Iterable[int]) -> None:
        """Assign clients to nodes, in proportion to the nodes' numbers of workers."""
        places = [node for node in self._cluster if not node.lost for _ in node.workers]
        for number, client in enumerate(clients):
            self._node_of[client] = places[number % len(places)]

    def _pool_of(self, node: int) -> WorkerPool:
        return self._node_of[node - 1]

    # ---- messages ------------------------------------------------------------------------------------

    def _make_task(self, message: Message) -> Task:
        client = message.metadata.dst_node_id - 1
        node, folder = self._node_of[client], self._run.vault(client)
        vault = None if client in node.moved else read_all_files(folder)
        asks = message.metadata.message_type == "query.deletions"
        inbox = Inbox(folder).files() if asks else []
        self._sent_inbox[message.metadata.message_id] = inbox
        transfer = _VaultTransfer(vault, {path.name: path.read_bytes() for path in inbox})
        return replace(super()._make_task(message), attachment=transfer)

    def _collect(self, done: Any, call: Call) -> list[WorkerReply]:
        replies = super()._collect(done, call)
        for message, reply in zip(call.messages, replies, strict=False):
            client = message.metadata.dst_node_id - 1
            node, folder = self._node_of[client], self._run.vault(client)
            if node is not call.pool or reply.attachment is None:
                continue
            replace_metadata_files(folder, reply.attachment)
            if client not in node.moved:
                mark_as_moved(folder)
                node.moved.add(client)
            inbox = self._sent_inbox.pop(message.metadata.message_id, ()) if not reply.failure else ()
            for path in inbox:
                path.unlink(missing_ok=True)  # the device has admitted it: it is in its request store
        return replies

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies as ``RayGrid`` does, and check from time to time that all nodes are alive."""
        if time.monotonic() - self._checked_at > _CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self._check_nodes()
        return super().pull_messages(message_ids)

    # ---- when a node is lost -------------------------------------------------------------------------

    def _handle_failure(self, call: Call, error: Exception) -> list[WorkerReply]:
        """Send the messages of a failed call again after a while: it may be the first sign of a lost node."""
        names = [message.metadata.message_id for message in call.messages]
        for name in names:
            self._failures[name] = self._failures.get(name, 0) + 1
        node = call.pool
        if max(self._failures[name] for name in names) > _MOST_RETRIES or not isinstance(node, _ClusterNode):
            return super()._handle_failure(call, error)
        if node.lost:  # its devices are on other nodes already
            self._accept({m.metadata.message_id: m for m in call.messages})
        else:
            node.queue.extendleft(reversed(call.messages))
            node.paused_until = time.monotonic() + 2 * _CHECK_SECONDS
        return []

    def _check_nodes(self) -> None:
        alive = {node["NodeID"] for node in _ray_nodes() if node["Alive"]}
        for node in self._cluster:
            if not node.lost and node.node_id not in alive:
                self._handle_loss(node)
        self._dispatch()

    def _handle_loss(self, node: _ClusterNode) -> None:
        """Assign the clients of a lost node to other nodes, and send them their messages again."""
        node.lost = True
        clients = tuple(client for client, assigned in self._node_of.items() if assigned is node)
        held = [Index.read(self._run.vault(client)).entries for client in node.moved]
        ids = frozenset(entry.id for entries in held for entry in entries)
        self.lost.append(LostNode(node.address, node.folder, tuple(sorted(node.moved)), ids))
        if all(other.lost for other in self._cluster):
            raise RunFailed("every node of the cluster that devices lived on is lost")
        unanswered = [m for call in self._calls.values() if call.pool is node for m in call.messages]
        unanswered += node.queue
        self._calls = {done: call for done, call in self._calls.items() if call.pool is not node}
        node.queue.clear()
        for client in sorted(node.moved):
            self._restore(client)
        node.moved.clear()
        self._assign(clients)
        self._accept({message.metadata.message_id: message for message in unanswered})

    # ---- the end of a run ----------------------------------------------------------------------------

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Search the disks of all nodes that are not lost for traces."""
        reference = ray.put(fingerprints)
        found = ray.get([node.workers[0].search.remote(reference) for node in self._cluster if not node.lost])
        files, scanned = (sum(getattr(f, name) for f in found) for name in ("files", "bytes"))
        unsearched = {path: why for each in found for path, why in each.unsearched.items()}
        traces = {path: f for each in found for path, f in each.found.items()}
        return TraceFindings(files, scanned, traces, unsearched)

    def wipe_nodes(self) -> None:
        """Wipe the vaults on all nodes that are not lost; the run folder keeps the mark that they moved."""
        done = [node.workers[0].wipe.remote() for node in self._cluster if not node.lost]
        ray.wait(done, num_returns=len(done), timeout=30.0)


def _ray_nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _share_workers(most: int) -> list[tuple[Mapping[str, Any], int]]:
    """Divide workers among the nodes that have CPUs: (node, number of workers) each."""
    nodes = [node for node in _ray_nodes() if node["Alive"]]
    nodes.sort(key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
    wanted = min(most, sum(cpus)) if most else sum(cpus)
    shares = [0] * len(nodes)
    while sum(shares) < wanted:  # one at a time, in turn, as long as each has a free CPU
        for index, available in enumerate(cpus):
            if shares[index] < available and sum(shares) < wanted:
                shares[index] += 1
    return [(node, share) for node, share in zip(nodes, shares, strict=True) if share]


def app_maker(make: Callable[..., ClientApp], mods: Any) -> MakeApp:
    """Return a function that makes the ClientApp with these mods over a run folder.

    Args:
        make: (run folder, mods) -> the ClientApp.
        mods: Flower mods.
    """
    return partial(_make_app, make, mods)


def _make_app(make: Callable[..., ClientApp], mods: Any, folder: str) -> ClientApp:
    return make(folder, mods)
