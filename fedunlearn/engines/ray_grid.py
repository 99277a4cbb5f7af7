"""Flower's Grid over Ray: resident workers, weights in shared memory, several clients a call.

Each worker is one process with one torch thread that keeps the app, its model and its devices' open vaults
from message to message. The weights of a round lie once in Ray's object store, where the workers of a host
read them in place; replies come back the same way. A worker has its next call at hand when it ends the last.
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

from fedunlearn.engines.inline_grid import LocalGrid, answered, reply_to
from fedunlearn.messages.flower_internals import sign_as_simulation
from fedunlearn.messages.records import LARGE
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import REQUESTING

LIVES: dict[str, Any] = {"max_restarts": 1000, "max_task_retries": 2}
"""Ray starts a killed worker again, and the call it was at; the client reports that it happened."""
_CALLS_AHEAD = 2
_CALL_SECONDS = 0.04
"""that a call should take at least: with what Ray does on either side, one costs about 5 ms of a core"""
_BYTES_A_CALL = 1 << 23
"""of weights, in either direction: they fill the object store until they are read"""
_WAIT_SECONDS = 0.05
_ON_THE_SHELF = 4
"""records of weights in the object store at a time: of this round, of the last, and a teacher's"""


@dataclass(frozen=True)
class Task:
    """A message on its way to a worker: weights as references to the object store."""

    node: int
    kind: str
    small: RecordDict
    weights: dict[str, Any]
    state: RecordDict | None
    beside: Any = None


@dataclass(frozen=True)
class WorkerReply:
    """What comes back of it; ``state`` None = the node keeps none."""

    content: RecordDict | None
    failure: str
    state: RecordDict | None
    beside: Any = None


class Worker:
    """A process that answers for whichever client it is asked for."""

    def __init__(self, app: ClientApp) -> None:
        torch.set_num_threads(1)
        sign_as_simulation()
        self._app, self._records = app, dict[str, tuple[Any, ArrayRecord]]()

    def answer(self, parcels: list[Task]) -> tuple[list[WorkerReply], float]:
        """Answer these messages, one after another; and how many seconds it took."""
        start = perf_counter()
        return [self.reply(parcel) for parcel in parcels], perf_counter() - start

    def reply(self, parcel: Task) -> WorkerReply:
        """Answer one message."""
        content = RecordDict({**parcel.small, **{n: self._weights(r) for n, r in parcel.weights.items()}})
        message = Message(content, dst_node_id=parcel.node, message_type=parcel.kind)
        state = RecordDict() if parcel.state is None else parcel.state
        reply, failure = answered(self._app, message, state)
        return WorkerReply(reply, failure, state if len(state) else None)

    def _weights(self, reference: Any) -> ArrayRecord:
        """A record of the object store, mapped and not copied."""
        name = reference.hex()
        if name not in self._records:
            while len(self._records) >= _ON_THE_SHELF:
                del self._records[next(iter(self._records))]
            self._records[name] = reference, ray.get(reference)
        return self._records[name][1]


@dataclass
class WorkerPool:
    """Workers that answer for the same clients, and what waits for them.

    Attributes:
        workers: Ray's handles.
        queue: messages.
        taken: how many there were when the last ones came.
        rests_until: when it may be given something to do again, on the monotonic clock.
    """

    workers: list[Any]
    queue: deque[Message] = field(default_factory=deque)
    taken: int = 0
    rests_until: float = 0.0

    def take(self, messages: Iterable[Message]) -> None:
        """More to do."""
        self.queue.extend(messages)
        self.taken = len(self.queue)


@dataclass(frozen=True)
class Call:
    """A call under way: to which worker of which site, and the messages that it answers."""

    site: WorkerPool
    worker: int
    messages: list[Message]


class RayGrid(LocalGrid):
    """Every message is answered by one of Ray's workers. Ray must be running.

    Args:
        clients: how many.
        sites: workers, by whom they answer for; here all of them for everybody.
    """

    def __init__(self, clients: int, sites: Sequence[WorkerPool]) -> None:
        super().__init__(clients)
        self._sites = list(sites)
        self._calls: dict[Any, Call] = {}
        self._states: dict[int, RecordDict] = {}
        self._seconds: dict[str, float] = {}
        self._sorted: dict[int, tuple[RecordDict, RecordDict, dict[str, Any]]] = {}
        self._shelf: dict[int, tuple[ArrayRecord, Any]] = {}

    @classmethod
    def of_workers(cls, client_app: ClientApp, clients: int, workers: int, gpu: float = 0.0) -> "RayGrid":
        """Workers on this machine.

        Args:
            client_app: answers.
            workers: processes.
            gpu: part of the GPU that each takes.
        """
        actor = ray.remote(num_cpus=1, num_gpus=gpu, **LIVES)(Worker)
        return cls(clients, [WorkerPool([actor.remote(client_app) for _ in range(workers)])])

    def _site_of(self, node: int) -> WorkerPool:
        """Who answers for a node."""
        return self._sites[0]

    def _take(self, messages: dict[str, Message]) -> None:
        by_site: dict[int, list[Message]] = {}
        for message in messages.values():
            place = self._sites.index(self._site_of(message.metadata.dst_node_id))
            by_site.setdefault(place, []).append(message)
        for place, own in by_site.items():
            self._sites[place].take(own)
        self._feed()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies of the next call that is done, as far as they are wanted; waits a moment for one."""
        if not self._calls:
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=_WAIT_SECONDS)
        if not done:
            return []
        call = self._calls.pop(done[0])
        self._feed()
        wanted = set(message_ids)
        return [
            reply_to(message, answer.content, answer.failure)
            for message, answer in zip(call.messages, self._answers(done[0], call), strict=False)
            if message.metadata.message_id in wanted
        ]

    def _answers(self, done: Any, call: Call) -> list[WorkerReply]:
        """What a call gave. None at all: its messages are still to be answered."""
        answers: list[WorkerReply]
        try:
            answers, seconds = ray.get(done)
        except ray.exceptions.RayError as error:
            return self._failed(call, error)
        kind, each = call.messages[0].metadata.message_type, seconds / len(answers)
        self._seconds[kind] = 0.5 * (self._seconds.get(kind, each) + each)
        for message, answer in zip(call.messages, answers, strict=True):
            if answer.state is not None:
                self._states[message.metadata.dst_node_id] = answer.state
        return answers

    def _failed(self, call: Call, error: Exception) -> list[WorkerReply]:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"its worker failed ({type(error).__name__}): {lines[-1] if lines else 'no reason'}"
        return [WorkerReply(None, reason, None) for _ in call.messages]

    def _feed(self) -> None:
        """See that every worker has something to do, and something to do next."""
        for site in (site for site in self._sites if site.rests_until <= monotonic()):
            busy = [0] * len(site.workers)
            for call in self._calls.values():
                if call.site is site:
                    busy[call.worker] += 1
            while site.queue and busy and min(busy) < _CALLS_AHEAD:
                worker = busy.index(min(busy))
                busy[worker] += 1
                messages = [site.queue.popleft() for _ in range(self._at_once(site))]
                done = site.workers[worker].answer.remote([self._parcel(message) for message in messages])
                self._calls[done] = Call(site, worker, messages)

    def _at_once(self, site: WorkerPool) -> int:
        """Messages of the next call: as many as are worth one, and fewer towards the end of a round, so that
        all workers end together. How long they take is learned; what comes back does not depend on it.
        """
        first, left = site.queue[0], len(site.queue)
        kind = first.metadata.message_type
        carried = size(first.content) if first.content.array_records else 0
        if kind in REQUESTING or carried >= LARGE:
            return 1
        worth = ceil(_CALL_SECONDS / max(self._seconds.get(kind, _CALL_SECONDS), 1e-6))
        half = ceil(left / (2 * len(site.workers)))
        even = ceil(site.taken / len(site.workers))
        return min(max(worth, half), even, left, max(1, _BYTES_A_CALL // max(carried, 1)))

    def _parcel(self, message: Message) -> Task:
        node = message.metadata.dst_node_id
        small, weights = self._parts(message.content)
        return Task(node, message.metadata.message_type, small, weights, self._states.get(node))

    def _parts(self, content: RecordDict) -> tuple[RecordDict, dict[str, Any]]:
        """What travels in a call and what through the object store; once for all who are sent the same."""
        known = self._sorted.get(id(content))
        if known is None:
            while len(self._sorted) >= _ON_THE_SHELF:
                del self._sorted[next(iter(self._sorted))]
            weights = {name: self._shelved(record) for name, record in content.array_records.items()}
            small = RecordDict({name: r for name, r in content.items() if name not in weights})
            known = self._sorted[id(content)] = content, small, weights
        return known[1:]

    def _shelved(self, record: ArrayRecord) -> Any:
        """The record in the object store, where it is put once for all messages that share it."""
        known = self._shelf.get(id(record))
        if known is None:
            while len(self._shelf) >= _ON_THE_SHELF:
                del self._shelf[next(iter(self._shelf))]
            # The record itself is kept, too: as long as it lives, no other has its id.
            known = self._shelf[id(record)] = record, ray.put(record)
        return known[1]
