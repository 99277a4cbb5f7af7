"""Asking clients and counting what comes back: retries, refusals, quorum, bytes and seconds."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedunlearn.config import FederationSettings
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.cost import PhaseCost
from fedunlearn.federation.requests import ServedRequest
from fedunlearn.federation.transport import Refused, State, number, pack, size

T = TypeVar("T")
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Fault:
    """One reply that did not count.

    Attributes:
        round: of the timeline; phase: what was being done; client: who; reason: one line.
        kind: "refused" = what it says cannot be; "failed" = it says that it failed; "late" = it came too
            late, or never; "dropped" = its device was gone in the middle of an unlearn step.
    """

    round: int
    phase: str
    client: int
    reason: str
    kind: str = "refused"


@dataclass(frozen=True)
class Occasion:
    """When and why clients are asked; names the fault, carries the meter."""

    round: int
    phase: str
    cost: PhaseCost


class Federation:
    """The server's view of its clients.

    Args:
        grid: Flower's, of either engine.
        settings: quorum, retries, timeout.
        clients: how many there must be.
        stop: set from outside to end all waiting (the run was interrupted).
    """

    def __init__(self, grid: Grid, settings: FederationSettings, clients: int, stop: threading.Event) -> None:
        self._grid, self._settings, self._stop = grid, settings, stop
        self.faults: list[Fault] = []
        self.examples: dict[int, int] = {}
        """client -> training utterances it holds now"""
        self.held_out: dict[int, int] = {}
        """client -> utterances that it never trains on"""
        self._withheld: dict[int, list[str]] = {}
        self._node: dict[int, int] = {}
        self._meet(clients)

    @property
    def clients(self) -> tuple[int, ...]:
        """Clients that hold training data, in order; one that deleted everything has left."""
        return tuple(c for c, n in sorted(self.examples.items()) if n > 0)

    @contextmanager
    def withholding(self, requests: Sequence[ServedRequest]) -> Iterator[None]:
        """Inside, what these requests take back counts as gone, though the vaults still hold it.

        Every message names to its client the requests whose utterances it must leave out; a client that
        would keep nothing has left.
        """
        left = {r.client: self.examples[r.client] for r in requests}
        for request in requests:
            self._withheld.setdefault(request.client, []).append(request.id)
            self.examples[request.client] -= request.withheld
        try:
            yield
        finally:
            self._withheld.clear()
            self.examples.update(left)

    def ask(
        self,
        kind: str,
        content: Mapping[int, RecordDict],
        read: Callable[[int, RecordDict], T],
        occasion: Occasion,
        quorum: float | None = None,
    ) -> dict[int, T]:
        """Send one message to each of several clients and read the replies.

        Args:
            kind: Flower message type, such as "train.unlearn".
            content: client -> what to send.
            read: turns a client's reply into a value, or raises Refused.
            occasion: for the books.
            quorum: share of them that must answer; None = the federation's setting.

        Returns:
            client -> value, in client order, of those that answered properly. A client that failed was
            asked again ``retries`` times; each failure is in ``faults``.

        Raises:
            RunFailed: fewer than the quorum answered.
        """
        answers: dict[int, T] = {}
        waiting = dict(sorted(content.items()))
        for client in waiting.keys() & self._withheld.keys():
            waiting[client]["withheld"] = ConfigRecord({"requests": self._withheld[client]})
        for _ in range(1 + self._settings.retries):
            with occasion.cost.clock():
                replies = self._exchange(kind, waiting)
            for client, record in waiting.items():
                occasion.cost.share(kind).bytes_down += size(record)
                reply = replies.get(client)
                try:
                    answers[client] = self._read(client, reply, read, occasion, kind)
                except Refused as why:
                    sort = "late" if reply is None else "failed" if reply.has_error() else "refused"
                    self._fault(client, str(why), occasion, sort)
            waiting = {c: r for c, r in waiting.items() if c not in answers}
            if not waiting:
                break
        needed = self._settings.quorum if quorum is None else quorum
        # Whatever the quorum, one survivor's model is not everybody's.
        least = max(needed * len(content), min(2, len(content))) if needed > 0 else 0
        if len(answers) < least:
            raise RunFailed(
                f"round {occasion.round} ({occasion.phase}): {len(answers)} of {len(content)} clients "
                f"answered properly, {needed:.0%} are needed; last reason: {self.faults[-1].reason}"
            )
        return dict(sorted(answers.items()))

    def _meet(self, clients: int) -> None:
        # Node ids are random in every run, and the list is empty when a ServerApp starts.
        deadline = time.monotonic() + self._settings.timeout
        nodes: list[int] = []
        while len(nodes) < clients:
            self._check_time(deadline, f"{len(nodes)} of {clients} clients are connected")
            nodes = sorted(self._grid.get_node_ids())
        for _ in range(1 + self._settings.retries):
            missing = [n for n in nodes if n not in self._node.values()]
            messages = [
                Message(RecordDict(), dst_node_id=n, message_type="query.population") for n in missing
            ]
            for reply in self._wait(messages):
                if not reply.has_error():
                    client = int(number(reply.content, "client"))
                    self._node[client] = reply.metadata.src_node_id
                    self.examples[client] = int(number(reply.content, "train"))
                    self.held_out[client] = int(number(reply.content, "test"))
        if sorted(self._node) != list(range(clients)):
            lost = sorted(set(range(clients)) - set(self._node))
            raise RunFailed(f"clients {lost} did not say who they are; their vaults may be unreadable")
        self.examples = dict(sorted(self.examples.items()))

    def _exchange(self, kind: str, content: Mapping[int, RecordDict]) -> dict[int, Message]:
        client_of = {self._node[c]: c for c in content}
        messages = [Message(r, dst_node_id=self._node[c], message_type=kind) for c, r in content.items()]
        return {client_of[reply.metadata.src_node_id]: reply for reply in self._wait(messages)}

    def _wait(self, messages: list[Message]) -> list[Message]:
        deadline = time.monotonic() + self._settings.timeout
        open_ids = set(self._grid.push_messages(messages))
        replies: list[Message] = []
        while open_ids and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(open_ids):
                replies.append(reply)
                open_ids.discard(reply.metadata.reply_to_message_id)
            if open_ids:
                self._check_time(None, "the run was interrupted")
        return replies

    def _check_time(self, deadline: float | None, what: str) -> None:
        if self._stop.wait(_POLL_SECONDS):
            raise RunFailed("the run was interrupted")
        if deadline is not None and time.monotonic() > deadline:
            raise RunFailed(f"{what} after {self._settings.timeout:g} s")

    def _fault(self, client: int, reason: str, occasion: Occasion, kind: str) -> None:
        self.faults.append(Fault(occasion.round, occasion.phase, client, reason, kind))

    def _read(
        self, client: int, reply: Message | None, read: Callable[[int, RecordDict], T], occasion: Occasion,
        kind: str,
    ) -> T:  # fmt: skip
        if reply is None:
            raise Refused(f"no reply within {self._settings.timeout:g} s")
        if reply.has_error():
            raise Refused(_one_line(reply.error.reason or f"error {reply.error.code}"))
        spent = occasion.cost.share(kind)
        spent.bytes_up += size(reply.content)
        metrics = reply.content.metric_records.get("metrics", MetricRecord())
        if "seconds" in metrics:
            spent.client_seconds += number(reply.content, "seconds")
        if "died" in metrics:
            self._fault(client, "its process died and was started again", occasion, "failed")
        return read(client, reply.content)


def settings(**values: int | float | str | list[str]) -> ConfigRecord:
    """The small settings of a message."""
    return ConfigRecord(dict(values))


def letter(weights: State, asked: ConfigRecord, teacher: State | None = None) -> RecordDict:
    """A message with the model, and beside it the one to learn from where there is one."""
    content = RecordDict({"weights": pack(weights), "settings": asked})
    if teacher is not None:
        content["teacher"] = pack(teacher)
    return content


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "failed without a reason"
