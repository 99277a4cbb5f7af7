"""Flower's Grid over Ray: long-lived workers, weights in shared memory, several messages per call.

Each worker is one process with one torch thread that keeps the app, its model and its devices' open vaults
from message to message. The weights of a round are stored once in Ray's object store, where the workers of a
host read them in place; replies come back the same way. Each worker has its next call queued before it
finishes the current one.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from time import monotonic, perf_counter
from typing import Any

import ray
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedunlearn.blockwise import LARGE
from fedunlearn.engines.inline_grid import LocalGrid, make_reply, run_app
from fedunlearn.messages.flower_internals import sign_as_simulation
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import REQUESTING

RESTARTS: dict[str, Any] = {"max_restarts": 1000, "max_task_retries": 2}
"""options with which Ray restarts a killed worker and repeats its call; the client's reply reports it"""

_CALLS_AHEAD = 2
"""calls that a worker has at a time: the one it works on, and the next"""
_CALL_SECONDS = 0.04
"""shortest useful duration of a call: Ray's own work on both sides takes about 5 ms of CPU time per call"""
_BYTES_PER_CALL = 1 << 23
"""of weights, in either direction: they fill the object store until they are read"""
_WAIT_SECONDS = 0.05
_RECORDS_KEPT = 4
"""records of weights in the object store at a time: of this round, of the last one, and a teacher's"""


@dataclass(frozen=True)
class Task:
    """A message on its way to a worker.

    Attributes:
        node: Flower's node id, which is the client number + 1.
        kind: message type.
        small: the records without weights.
        weights: name -> reference to an array record in the object store.
        state: what the node's app keeps between messages; None = nothing.
        attachment: whatever else a grid sends along.
    """

    node: int
    kind: str
    small: RecordDict
    weights: dict[str, Any]
    state: RecordDict | None
    attachment: Any = None


@dataclass(frozen=True)
class WorkerReply:
    """A worker's reply to a task.

    Attributes:
        content: of the reply message; None = the app failed.
        failure: why it failed; empty = it did not.
        state: what the node's app keeps between messages; None = nothing.
        attachment: whatever else the worker sends along.
    """

    content: RecordDict | None
    failure: str
    state: RecordDict | None
    attachment: Any = None


class Worker:
    """A process that runs the ClientApp for whichever client a task is for.

    Args:
        app: the ClientApp.
    """

    def __init__(self, app: ClientApp) -> None:
        torch.set_num_threads(1)
        sign_as_simulation()
        self._app, self._records = app, dict[str, tuple[Any, ArrayRecord]]()

    def run_all(self, tasks: list[Task]) -> tuple[list[WorkerReply], float]:
        """Run tasks one after another.

        Returns:
            (their replies, seconds that it took)
        """
        start = perf_counter()
        return [self.run(task) for task in tasks], perf_counter() - start

    def run(self, task: Task) -> WorkerReply:
        """Run one task."""
        weights = {name: self._read(reference) for name, reference in task.weights.items()}
        content = RecordDict({**task.small, **weights})
        message = Message(content, dst_node_id=task.node, message_type=task.kind)
        state = RecordDict() if task.state is None else task.state
        reply, failure = run_app(self._app, message, state)
        return WorkerReply(reply, failure, state if len(state) else None)

    def _read(self, reference: Any) -> ArrayRecord:
        """Return a record of the object store, memory-mapped and not copied."""
        name = reference.hex()
        if name not in self._records:
            while len(self._records) >= _RECORDS_KEPT:
                del self._records[next(iter(self._records))]
            self._records[name] = reference, ray.get(reference)
        return self._records[name][1]


@dataclass
class WorkerPool:
    """Workers that serve the same clients, and the messages that wait for them.

    Attributes:
        workers: Ray's handles.
        queue: waiting messages.
        queue_length: length of the queue when messages were last added.
        paused_until: time of the monotonic clock before which no call is given out.
    """

    workers: list[Any]
    queue: deque[Message] = field(default_factory=deque)
    queue_length: int = 0
    paused_until: float = 0.0

    def add(self, messages: Iterable[Message]) -> None:
        """Append messages to the queue."""
        self.queue.extend(messages)
        self.queue_length = len(self.queue)


@dataclass(frozen=True)
class Call:
    """A call in progress.

    Attributes:
        pool: of the worker.
        worker: its index in the pool.
        messages: that it answers.
    """

    pool: WorkerPool
    worker: int
    messages: list[Message]


class RayGrid(LocalGrid):
    """A grid whose messages are answered by Ray workers. Ray must be running.

    Args:
        clients: how many.
        pools: workers; here one pool serves all clients.
    """

    def __init__(self, clients: int, pools: Sequence[WorkerPool]) -> None:
        super().__init__(clients)
        self._pools = list(pools)
        self._calls: dict[Any, Call] = {}
        self._states: dict[int, RecordDict] = {}
        self._seconds: dict[str, float] = {}
        """message type -> seconds that a message takes, as a moving average"""
        self._split_contents: dict[int, tuple[RecordDict, RecordDict, dict[str, Any]]] = {}
        self._stored_records: dict[int, tuple[ArrayRecord, Any]] = {}

    @classmethod
    def of_workers(cls, client_app: ClientApp, clients: int, workers: int, gpu: float = 0.0) -> "RayGrid":
        """Start workers on this machine.

        Args:
            client_app: what they run.
            clients: how many.
            workers: number of processes.
            gpu: part of the GPU that each gets.
        """
        actor = ray.remote(num_cpus=1, num_gpus=gpu, **RESTARTS)(Worker)
        return cls(clients, [WorkerPool([actor.remote(client_app) for _ in range(workers)])])

    def _pool_of(self, node: int) -> WorkerPool:
        """Return the pool that serves a node."""
        return self._pools[0]

    def _accept(self, messages: dict[str, Message]) -> None:
        by_pool: dict[int, list[Message]] = {}
        for message in messages.values():
            index = self._pools.index(self._pool_of(message.metadata.dst_node_id))
            by_pool.setdefault(index, []).append(message)
        for index, own in by_pool.items():
            self._pools[index].add(own)
        self._dispatch()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the wanted replies of the next finished call; waits up to 0.05 s for one."""
        if not self._calls:
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=_WAIT_SECONDS)
        if not done:
            return []
        call = self._calls.pop(done[0])
        self._dispatch()
        wanted = set(message_ids)
        return [
            make_reply(message, reply.content, reply.failure)
            for message, reply in zip(call.messages, self._collect(done[0], call), strict=False)
            if message.metadata.message_id in wanted
        ]

    def _collect(self, done: Any, call: Call) -> list[WorkerReply]:
        """Return the replies of a finished call; none if its messages are still to be answered."""
        replies: list[WorkerReply]
        try:
            replies, seconds = ray.get(done)
        except ray.exceptions.RayError as error:
            return self._handle_failure(call, error)
        kind, each = call.messages[0].metadata.message_type, seconds / len(replies)
        self._seconds[kind] = 0.5 * (self._seconds.get(kind, each) + each)
        for message, reply in zip(call.messages, replies, strict=True):
            if reply.state is not None:
                self._states[message.metadata.dst_node_id] = reply.state
        return replies

    def _handle_failure(self, call: Call, error: Exception) -> list[WorkerReply]:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"its worker failed ({type(error).__name__}): {lines[-1] if lines else 'no reason'}"
        return [WorkerReply(None, reason, None) for _ in call.messages]

    def _dispatch(self) -> None:
        """Give calls to the workers, so that each has one to work on and the next one."""
        for pool in (pool for pool in self._pools if pool.paused_until <= monotonic()):
            busy = [0] * len(pool.workers)
            for call in self._calls.values():
                if call.pool is pool:
                    busy[call.worker] += 1
            while pool.queue and busy and min(busy) < _CALLS_AHEAD:
                worker = busy.index(min(busy))
                busy[worker] += 1
                messages = [pool.queue.popleft() for _ in range(self._call_size(pool))]
                done = pool.workers[worker].run_all.remote([self._make_task(message) for message in messages])
                self._calls[done] = Call(pool, worker, messages)

    def _call_size(self, pool: WorkerPool) -> int:
        """Choose the number of messages in the next call.

        Enough to make a call worth its overhead, and fewer towards the end of a round, so that all workers
        finish together. It depends on measured durations; the content of the replies does not depend on it.
        """
        first, left = pool.queue[0], len(pool.queue)
        kind = first.metadata.message_type
        carried = size(first.content) if first.content.array_records else 0
        if kind in REQUESTING or carried >= LARGE:
            return 1
        worthwhile = ceil(_CALL_SECONDS / max(self._seconds.get(kind, _CALL_SECONDS), 1e-6))
        half = ceil(left / (2 * len(pool.workers)))
        even = ceil(pool.queue_length / len(pool.workers))
        return min(max(worthwhile, half), even, left, max(1, _BYTES_PER_CALL // max(carried, 1)))

    def _make_task(self, message: Message) -> Task:
        node = message.metadata.dst_node_id
        small, weights = self._split(message.content)
        return Task(node, message.metadata.message_type, small, weights, self._states.get(node))

    def _split(self, content: RecordDict) -> tuple[RecordDict, dict[str, Any]]:
        """Split a content into parts for the call and for the object store, once for all receivers."""
        known = self._split_contents.get(id(content))
        if known is None:
            while len(self._split_contents) >= _RECORDS_KEPT:
                del self._split_contents[next(iter(self._split_contents))]
            weights = {name: self._store(record) for name, record in content.array_records.items()}
            small = RecordDict({name: r for name, r in content.items() if name not in weights})
            known = self._split_contents[id(content)] = content, small, weights
        return known[1:]

    def _store(self, record: ArrayRecord) -> Any:
        """Put a record into the object store, once for all messages that share it."""
        known = self._stored_records.get(id(record))
        if known is None:
            while len(self._stored_records) >= _RECORDS_KEPT:
                del self._stored_records[next(iter(self._stored_records))]
            # The record itself is kept, too: as long as it lives, no other object has its id.
            known = self._stored_records[id(record)] = record, ray.put(record)
        return known[1]
