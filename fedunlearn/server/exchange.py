"""One exchange of messages: what is sent, what is waited for, and which replies count."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedunlearn.config.federation import FederationSettings
from fedunlearn.errors import RunFailed
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.records import Refused
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.state import UNKNOWN_CLIENT, Fault, ServerState

_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class ExchangeInfo:
    """When and why clients are sent messages.

    Attributes:
        round: the timeline round, which faults name.
        phase: which faults name.
        cost: what the exchange costs is added here.
    """

    round: int
    phase: Phase
    cost: PhaseCost


class Channel:
    """Carries messages between the server and its clients.

    Args:
        grid: Flower's, of any engine.
        settings: timeout and retries.
        stop: set from outside to end all waiting (the run was interrupted).
        state: of the server, which faults are added to.
    """

    def __init__(
        self, grid: Grid, settings: FederationSettings, stop: threading.Event, state: ServerState
    ) -> None:
        self.grid, self.settings, self._stop, self._state = grid, settings, stop, state
        self.nodes: dict[int, int] = {}
        """client -> its node, of the clients that have introduced themselves"""

    def client_at(self, node: int) -> int:
        """Find the client at a node; ``UNKNOWN_CLIENT`` where no client has introduced itself from there.

        Args:
            node: Flower's id.
        """
        return next((c for c, known in self.nodes.items() if known == node), UNKNOWN_CLIENT)

    def add_fault(self, client: int, reason: str, occasion: ExchangeInfo, kind: str) -> None:
        """Note a reply that does not count.

        Args:
            client: who replied.
            reason: one line.
            occasion: of the exchange.
            kind: as of ``Fault``.
        """
        self._state.faults.append(Fault(occasion.round, occasion.phase, client, reason, kind))

    def check_time(self, deadline: float | None, what: str, wait: bool = True, more: str = "") -> None:
        """Wait briefly, and check that the run continues.

        Args:
            deadline: on the monotonic clock; None = there is none.
            what: is the case when the deadline has passed.
            wait: whether to wait.
            more: what to do about it.

        Raises:
            RunFailed: the deadline has passed, or the run was interrupted.
        """
        if self._stop.wait(_POLL_SECONDS if wait else 0):
            raise RunFailed("the run was interrupted")
        if deadline is not None and time.monotonic() > deadline:
            raise RunFailed(f"{what} after {self.settings.timeout:g} s{more}")


class Exchange:
    """One message for each of several clients, and where each of them is.

    Args:
        channel: to the clients.
        kind: of message.
        content: client -> content of its message; of introductions, node -> content.
        nodes: client -> its node.
        occasion: names the faults, counts the cost.
    """

    def __init__(
        self,
        channel: Channel,
        kind: str,
        content: Mapping[int, RecordDict],
        nodes: Mapping[int, int],
        occasion: ExchangeInfo,
    ) -> None:
        self.kind, self.content, self.occasion = kind, content, occasion
        self._channel, self._nodes = channel, nodes
        self._sent: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._arrived: dict[int, Message | None] = {}
        self._deadline = 0.0
        different = {id(record): record for record in content.values()}
        self._sizes = {known: size(record) for known, record in different.items()}

    @property
    def largest(self) -> int:
        """Bytes of the largest message."""
        return max(self._sizes.values(), default=0)

    def send(self, clients: Sequence[int]) -> None:
        """Send messages, or send them again, and wait for the replies from now on.

        Args:
            clients: in this order.
        """
        messages = [self._message_to(client) for client in clients]
        sent = dict(zip(self._channel.grid.push_messages(messages), clients, strict=True))
        self._waiting |= sent
        self._sent |= sent
        self._deadline = time.monotonic() + self._channel.settings.timeout

    def reply_of(self, client: int) -> Message | None:
        """Wait for a client's reply; other clients' replies are kept until it is their turn.

        Args:
            client: that a message was sent to.

        Returns:
            None where no reply came in time
        """
        while client not in self._arrived:
            if time.monotonic() > self._deadline:
                self._arrived |= dict.fromkeys(self._waiting.values())
                self._given_up |= self._waiting.keys()
                self._waiting.clear()
            else:
                self._arrived |= self._pull()
        return self._arrived.pop(client)

    def check_reply(self, reply: Message | None) -> RecordDict:
        """Take the content of a reply, if it has arrived and reports no failure.

        Args:
            reply: from ``reply_of``.

        Raises:
            Refused: otherwise.
        """
        if reply is None:
            raise Refused(f"no reply within {self._channel.settings.timeout:g} s")
        if reply.has_error():
            raise Refused(_last_line(reply.error.reason or f"error {reply.error.code}"))
        return reply.content

    def _message_to(self, client: int) -> Message:
        record = self.content[client]
        self.occasion.cost.share(self.kind).bytes_down += self._sizes[id(record)]
        return Message(record, dst_node_id=self._nodes[client], message_type=self.kind)

    def _pull(self) -> dict[int, Message]:
        """Replies that have arrived, after a short wait where there are none.

        A reply counts if its message waits for it and it is from the node that the message went to. Any other
        has no effect but to be noted as a fault.
        """
        arrived: dict[int, Message] = {}
        for message in self._channel.grid.pull_messages(self._waiting):
            name, node = message.metadata.reply_to_message_id, message.metadata.src_node_id
            client = self._sent.get(name)
            if client is None or self._nodes[client] != node:
                reason = f"a reply of node {node} to no message that it was sent in this exchange"
                kind = "late" if client is None else "refused"
                self._channel.add_fault(self._channel.client_at(node), reason, self.occasion, kind)
            elif name not in self._waiting:
                given_up = name in self._given_up
                reason = "its reply came when it was waited for no more" if given_up else "it replied twice"
                sender = UNKNOWN_CLIENT if self.occasion.phase is Phase.MEET else client
                kind = "late" if given_up else "repeated"
                self._channel.add_fault(sender, reason, self.occasion, kind)
            else:
                arrived[self._waiting.pop(name)] = message
        self._channel.check_time(None, "the run was interrupted", wait=not arrived)
        return arrived


def kind_of_fault(reply: Message | None) -> str:
    """Name the kind of fault of a reply that does not count.

    Args:
        reply: from ``Exchange.reply_of``.
    """
    return "late" if reply is None else "failed" if reply.has_error() else "refused"


def reason_of(error: Exception) -> str:
    """Explain why a reply does not count, in one line, also where reading it failed in an unexpected way.

    Args:
        error: from reading it.
    """
    what = "" if isinstance(error, Refused) else f"the reply cannot be read, {type(error).__name__}: "
    text = f"{what}{error}"
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "failed without a reason"
