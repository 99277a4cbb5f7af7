"""Ray on a cluster: each device lives on one node, its vault on that node's own disk.

A vault moves to its node with the first message to its device, and leaves the run folder, where its papers
stay (``vault_papers``): the book, the receipts and the index come back with the replies, and what people file
in the run folder goes out with the next query. Weights go through the object store, which every node has.

Where a node is lost, its devices move to the others: their vaults are made anew from the experimenter's
corpus, less what is purged, and what was asked of them is asked again. What the lost node had on its disk
nobody can reach; the run says so.
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
from fedunlearn.engines.ray_grid import LIVES, Call, RayGrid, Task, Worker, WorkerPool, WorkerReply
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
_LOOK_SECONDS = 1.0
_PATIENCE = 5
"""times that a message is given out again after its worker failed, before its client is said to have"""


@dataclass(frozen=True)
class _VaultTransfer:
    """What goes with a message: a whole vault that moves in, and what people have filed."""

    vault: Files | None
    inbox: Files


@dataclass
class _ClusterNode(WorkerPool):
    """A node, its workers, and the devices that live on it."""

    node: str = ""
    address: str = ""
    folder: str = ""
    moved_in: set[int] = field(default_factory=set)
    lost: bool = False


@dataclass(frozen=True)
class Lost:
    """A node that was lost.

    Attributes:
        address: of it.
        folder: on its disk, with the vaults of these clients as they were.
        utterances: that these held, as far as the run knows.
    """

    address: str
    folder: str
    clients: tuple[int, ...]
    utterances: frozenset[str]


class NodeWorker(Worker):
    """A worker of one node, for the devices that live there.

    Args:
        make_app: the ClientApp over a run folder.
        folder: of the node, to be made.
        config: the run's.
        clients: how many there are on all nodes.
    """

    def __init__(self, make_app: MakeApp, folder: str, config: bytes, clients: int) -> None:
        run = RunFolder(Path(folder))
        run.vaults.mkdir(parents=True, exist_ok=True)
        # Several workers begin at a time, and one that is started again finds everything in its place.
        if _first(run.path / ".made"):
            reset_liveness(run, clients)
            write_atomically(run.config, config)
        while not run.config.exists():
            time.sleep(0.01)
        super().__init__(make_app(folder))
        self._run, self._stamps = run, dict[int, Any]()

    def reply(self, parcel: Task) -> WorkerReply:
        """Answer one message: the vault moves in before, changed papers go along after."""
        client = parcel.node - 1
        folder = self._run.vault(client)
        if parcel.beside.vault is not None:
            write_all_files(folder, parcel.beside.vault)
        for name, content in parcel.beside.inbox.items():
            (folder / "inbox").mkdir(exist_ok=True)
            write_atomically(folder / "inbox" / name, content)
        answer = super().reply(parcel)
        stamp = metadata_stamp(folder)
        if stamp == self._stamps.get(client):
            return answer
        self._stamps[client] = stamp
        return replace(answer, beside=read_metadata_files(folder))

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Look for traces in all that lies on this node."""
        return find_traces([self._run.path], fingerprints)

    def leave(self) -> None:
        """Wipe everything on this node."""
        for path in plain_files(self._run.path):
            discard(path)
        shutil.rmtree(self._run.path, ignore_errors=True)


def _first(mark: Path) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class ClusterGrid(RayGrid):
    """Every message is answered on the node that its device lives on. Ray must be connected.

    Args:
        make_app: the ClientApp over a run folder, on a node.
        run: the run's own folder.
        clients: how many.
        most: workers altogether; 0 = one a CPU of the cluster.
        base: folder on each node's disk.
        refill: makes the arrays of a vault in the run folder anew.
    """

    def __init__(
        self,
        make_app: MakeApp,
        run: RunFolder,
        clients: int,
        most: int,
        base: str,
        refill: Callable[[int], None],
    ) -> None:
        self._make, self._run, self._refill, self._most = make_app, run, refill, most
        self.clients, self._base = clients, base
        homes = [self._home(node, workers) for node, workers in _shares(most)]
        if not homes:
            raise RunFailed("the cluster has no CPU for a worker: start nodes with ray start --num-cpus N")
        super().__init__(clients, homes)
        self._homes: list[_ClusterNode] = homes
        self._lives_on: dict[int, _ClusterNode] = {}
        self._settle(range(clients))
        self._tries: dict[str, int] = {}
        self._filed: dict[str, list[Path]] = {}
        self._looked = time.monotonic()
        self.lost: list[Lost] = []

    # ---- who lives where -----------------------------------------------------------------------------

    def _home(self, node: Mapping[str, Any], workers: int) -> _ClusterNode:
        name = node["NodeID"]
        folder = str(Path(self._base or gettempdir()) / f"fedunlearn-{os.getpid()}-{name[:12]}")
        pinned = NodeAffinitySchedulingStrategy(name, soft=False)
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": pinned, **LIVES}
        actor = ray.remote(**options)(NodeWorker)
        config = self._run.config.read_bytes()
        handles = [actor.remote(self._make, folder, config, self.clients) for _ in range(workers)]
        return _ClusterNode(handles, node=name, address=node["NodeManagerAddress"], folder=folder)

    def _settle(self, clients: Iterable[int]) -> None:
        """Deal clients to nodes, as many to each as it has workers for."""
        places = [home for home in self._homes if not home.lost for _ in home.workers]
        for number, client in enumerate(clients):
            self._lives_on[client] = places[number % len(places)]

    def _site_of(self, node: int) -> WorkerPool:
        return self._lives_on[node - 1]

    # ---- messages ------------------------------------------------------------------------------------

    def _parcel(self, message: Message) -> Task:
        client = message.metadata.dst_node_id - 1
        home, folder = self._lives_on[client], self._run.vault(client)
        vault = None if client in home.moved_in else read_all_files(folder)
        asks = message.metadata.message_type == "query.deletions"
        waiting = Inbox(folder).files() if asks else []
        self._filed[message.metadata.message_id] = waiting
        luggage = _VaultTransfer(vault, {path.name: path.read_bytes() for path in waiting})
        return replace(super()._parcel(message), beside=luggage)

    def _answers(self, done: Any, call: Call) -> list[WorkerReply]:
        answers = super()._answers(done, call)
        for message, answer in zip(call.messages, answers, strict=False):
            client = message.metadata.dst_node_id - 1
            home, folder = self._lives_on[client], self._run.vault(client)
            if home is not call.site or answer.beside is None:
                continue
            replace_metadata_files(folder, answer.beside)
            if client not in home.moved_in:
                mark_as_moved(folder)
                home.moved_in.add(client)
            for path in self._filed.pop(message.metadata.message_id, ()) if not answer.failure else ():
                path.unlink(missing_ok=True)  # the device has heard it: it is in its book
        return answers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As of RayGrid; and see whether all nodes are there."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look()
        return super().pull_messages(message_ids)

    # ---- when a node is lost -------------------------------------------------------------------------

    def _failed(self, call: Call, error: Exception) -> list[WorkerReply]:
        """A worker that fails may be the first sign of a lost node: wait a little, and give it out again."""
        names = [message.metadata.message_id for message in call.messages]
        for name in names:
            self._tries[name] = self._tries.get(name, 0) + 1
        if max(self._tries[name] for name in names) > _PATIENCE or not isinstance(call.site, _ClusterNode):
            return super()._failed(call, error)
        if call.site.lost:  # its devices have moved already
            self._take({m.metadata.message_id: m for m in call.messages})
        else:
            call.site.queue.extendleft(reversed(call.messages))
            call.site.rests_until = time.monotonic() + 2 * _LOOK_SECONDS
        return []

    def _look(self) -> None:
        there = {node["NodeID"] for node in _nodes() if node["Alive"]}
        for home in self._homes:
            if not home.lost and home.node not in there:
                self._lose(home)
        self._feed()

    def _lose(self, home: _ClusterNode) -> None:
        home.lost = True
        clients = tuple(c for c, lives_on in self._lives_on.items() if lives_on is home)
        held = [Index.read(self._run.vault(client)).entries for client in home.moved_in]
        ids = frozenset(entry.id for entries in held for entry in entries)
        self.lost.append(Lost(home.address, home.folder, tuple(sorted(home.moved_in)), ids))
        if all(other.lost for other in self._homes):
            raise RunFailed("every node of the cluster that devices lived on is lost")
        asked = [m for call in self._calls.values() if call.site is home for m in call.messages]
        asked += home.queue
        self._calls = {done: call for done, call in self._calls.items() if call.site is not home}
        home.queue.clear()
        for client in sorted(home.moved_in):
            self._refill(client)
        home.moved_in.clear()
        self._settle(clients)
        self._take({message.metadata.message_id: message for message in asked})

    # ---- the end -------------------------------------------------------------------------------------

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Look for traces on the disks of all nodes that are left."""
        told = ray.put(fingerprints)
        found = ray.get([home.workers[0].search.remote(told) for home in self._homes if not home.lost])
        files, scanned = (sum(getattr(f, name) for f in found) for name in ("files", "bytes"))
        unsearched = {path: why for each in found for path, why in each.unsearched.items()}
        traces = {path: f for each in found for path, f in each.found.items()}
        return TraceFindings(files, scanned, traces, unsearched)

    def leave(self) -> None:
        """Wipe the vaults on all nodes that are left; the run folder goes on saying that they were there."""
        left = [home.workers[0].leave.remote() for home in self._homes if not home.lost]
        ray.wait(left, num_returns=len(left), timeout=30.0)


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _shares(most: int) -> list[tuple[Mapping[str, Any], int]]:
    """The nodes that can work, and how many workers each gets."""
    nodes = sorted((n for n in _nodes() if n["Alive"]), key=lambda n: (n["NodeManagerAddress"], n["NodeID"]))
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
    wanted = min(most, sum(cpus)) if most else sum(cpus)
    shares = [0] * len(nodes)
    while sum(shares) < wanted:  # one at a time, in turn, as long as each has room
        for place, room in enumerate(cpus):
            if shares[place] < room and sum(shares) < wanted:
                shares[place] += 1
    return [(node, share) for node, share in zip(nodes, shares, strict=True) if share]


def app_maker(make: Callable[..., ClientApp], mods: Any) -> MakeApp:
    """A ClientApp with these mods, over whichever folder."""
    return partial(_made, make, mods)


def _made(make: Callable[..., ClientApp], mods: Any, folder: str) -> ClientApp:
    return make(folder, mods)
