"""Messages to clients and their replies: retries, refusals, quorum, bytes and seconds."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedunlearn.config.federation import FederationSettings
from fedunlearn.console import warn
from fedunlearn.errors import RunFailed
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.records import Refused, lend
from fedunlearn.messages.replies import Introduction, read_effort, read_introduction
from fedunlearn.messages.scalars import Evaluation, pool_evaluations, read_evaluation
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import REQUESTING, PhaseCost
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import NOBODY, Fault, ServerState
from fedunlearn.unlearning.contract import ServerScalars

T = TypeVar("T")
_MEETING = "query.population"
_POLL_SECONDS = 0.005
_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS = 3.0, 30.0
"""s after which a warning says that clients are missing, the first time and then again"""
_MORE_CLIENTS = (
    "with flwr run, the federation needs as many SuperNodes as there are clients: set "
    "options.num-supernodes, or clients in --run-config"
)
_FEWEST_AHEAD, _MOST_AHEAD, _BYTES_AHEAD = 4, 64, 1 << 28
"""how many clients' replies may arrive before it is their turn: so many, and no more bytes than these"""


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


class Clients:
    """The server's view of its clients, which meets them when it is made.

    What the clients hold, and their faults, are in the server's state. Of a resumed run, the state knows
    better than the introductions what the vaults hold: a purge may have been interrupted in the middle.

    Args:
        grid: Flower's, of any engine.
        settings: quorum, retries, timeout.
        count: how many clients there must be.
        stop: set from outside to end all waiting (the run was interrupted).
        state: of the server.
        later: client -> utterances that it will record in the course of the run.

    Raises:
        RunFailed: a client did not introduce itself, or the run was interrupted.
    """

    def __init__(
        self,
        grid: Grid,
        settings: FederationSettings,
        count: int,
        stop: threading.Event,
        state: ServerState,
        later: Mapping[int, int] | None = None,
    ) -> None:
        self._grid, self._settings, self._stop = grid, settings, stop
        self._state = state
        self.later = dict(later or {})
        self._withheld: dict[int, list[str]] = {}
        self._node: dict[int, int] = {}
        introductions = self._meet(count)
        self.most = {c: one.train + self.later.get(c, 0) for c, one in introductions.items()}
        """client -> training utterances that it can ever hold: those it began with, and those it records"""
        state.examples = state.examples or {c: one.train for c, one in introductions.items()}
        state.held_out = state.held_out or {c: one.held_out for c, one in introductions.items()}

    @property
    def active(self) -> tuple[int, ...]:
        """Clients that hold training data, in order; one that deleted everything has left."""
        return tuple(c for c, n in sorted(self._state.examples.items()) if n > 0)

    @property
    def examples(self) -> Mapping[int, int]:
        """Client -> training utterances that it holds now, without those that are withheld."""
        return self._state.examples

    @contextmanager
    def withholding(self, requests: Sequence[TrackedRequest]) -> Iterator[None]:
        """Inside, what these requests name counts as deleted, though the vaults still hold it.

        Every message names to its client the requests whose utterances it must leave out; a client that
        would keep nothing has left.

        Args:
            requests: whose utterances are withheld.
        """
        examples = self._state.examples
        before = {r.client: examples[r.client] for r in requests}
        for request in requests:
            self._withheld.setdefault(request.client, []).append(request.id)
            examples[request.client] -= request.withheld
        try:
            yield
        finally:
            self._withheld.clear()
            examples.update(before)

    def ask(
        self,
        kind: str,
        content: Mapping[int, RecordDict],
        read: Callable[[int, RecordDict], T],
        occasion: ExchangeInfo,
        quorum: float | None = None,
    ) -> dict[int, T]:
        """Send one message to each of several clients and read the replies.

        Args:
            kind: Flower message type, such as "train.unlearn".
            content: client -> what to send; several may be sent the same record.
            read: turns a client's reply into a value, or raises Refused. It is called in client order, for
                each as soon as it and all before it have answered, so that it may add up what it reads.
            occasion: names the faults, counts the cost.
            quorum: share of them that must answer; None = the federation's setting.

        Returns:
            client -> value, in client order, of those that answered properly. A client that failed was
            asked again ``retries`` times; each failure is in ``faults``.

        Raises:
            RunFailed: fewer than the quorum answered.
        """
        answers: dict[int, T] = {}
        content = {client: self._addressed(client, record) for client, record in sorted(content.items())}
        with occasion.cost.measure_time():
            exchange = _Exchange(kind, content, {c: self._node[c] for c in content}, occasion)
            self._push(exchange, self._longest_first(exchange))
            for client in content:
                for tries_left in reversed(range(1 + self._settings.retries)):
                    reply = self._reply(exchange, client)
                    try:
                        answers[client] = self._read(client, reply, read, occasion, kind)
                        break
                    except RunFailed:
                        raise
                    except Exception as error:  # of a stranger's bytes no reader knows all ways to fail
                        reason = _reason(error)
                        fault = "late" if reply is None else "failed" if reply.has_error() else "refused"
                        self._fault(client, reason, occasion, fault)
                    if tries_left:
                        self._push(exchange, [client])
        needed = self._settings.quorum if quorum is None else quorum
        # Whatever the quorum, one survivor's model is not everybody's.
        least = max(needed * len(content), min(2, len(content))) if needed > 0 else 0
        if len(answers) < least:
            raise RunFailed(
                f"round {occasion.round} ({occasion.phase}): {len(answers)} of {len(content)} clients "
                f"answered properly, {needed:.0%} are needed; last reason: {self._state.faults[-1].reason}"
            )
        return answers

    def _addressed(self, client: int, record: RecordDict) -> RecordDict:
        """The content of a message with the requests that this client must leave out."""
        withheld = self._withheld.get(client)
        if withheld is None:
            return record
        return RecordDict({**record, "withheld": ConfigRecord({"requests": withheld})})

    def _longest_first(self, exchange: "_Exchange") -> list[int]:
        """In which order to ask: who holds most first, so that nobody begins a long task when others end.

        In stretches of client order, so that few replies wait for their turn to be read.
        """
        clients = list(exchange.content)
        if self._settings.engine == "inline" or exchange.kind in REQUESTING:
            return clients
        stretch = max(_FEWEST_AHEAD, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, exchange.largest)))
        stretches = (clients[start : start + stretch] for start in range(0, len(clients), stretch))
        return [c for part in stretches for c in sorted(part, key=lambda c: -self._state.examples.get(c, 0))]

    def _push(self, exchange: "_Exchange", clients: Sequence[int]) -> None:
        """Send these clients their messages."""
        messages = [exchange.to(client) for client in clients]
        sent = dict(zip(self._grid.push_messages(messages), clients, strict=True))
        exchange.waiting |= sent
        exchange.sent |= sent
        exchange.deadline = time.monotonic() + self._settings.timeout

    def _reply(self, exchange: "_Exchange", client: int) -> Message | None:
        """A client's reply; None where none comes in time. Other clients' replies wait for their turn."""
        while client not in exchange.arrived:
            if time.monotonic() > exchange.deadline:
                exchange.give_up()
            else:
                exchange.arrived |= self._pull(exchange)
        return exchange.arrived.pop(client)

    def _pull(self, exchange: "_Exchange") -> dict[int, Message]:
        """Replies that have arrived, after a short wait where there are none.

        A reply counts if its message waits for it and it is from the node that the message went to. Any other
        has no effect but to be noted as a fault.
        """
        arrived: dict[int, Message] = {}
        for message in self._grid.pull_messages(exchange.waiting):
            name, node = message.metadata.reply_to_message_id, message.metadata.src_node_id
            client = exchange.sent.get(name)
            if client is None or exchange.nodes[client] != node:
                sender = next((c for c, known in self._node.items() if known == node), NOBODY)
                reason = f"a reply of node {node} to no message that it was sent in this exchange"
                self._fault(sender, reason, exchange.occasion, "late" if client is None else "refused")
            elif name not in exchange.waiting:
                given_up = name in exchange.given_up
                reason = "its reply came when it was waited for no more" if given_up else "it replied twice"
                sender = NOBODY if exchange.kind == _MEETING else client
                self._fault(sender, reason, exchange.occasion, "late" if given_up else "repeated")
            else:
                arrived[exchange.waiting.pop(name)] = message
        self._check_time(None, "the run was interrupted", wait=not arrived)
        return arrived

    def _meet(self, clients: int) -> dict[int, Introduction]:
        """Have all clients introduce themselves; client -> introduction, in client order."""
        # Node ids are random in every run, and the list is empty when a ServerApp starts.
        begin = time.monotonic()
        next_warning = begin + _FIRST_WORD_SECONDS
        nodes: list[int] = []
        while len(nodes) < clients:
            here = f"{len(nodes)} of {clients} clients are connected"
            if (now := time.monotonic()) > next_warning:
                warn(f"{here}; waiting for the others, {self._settings.timeout - (now - begin):.0f} s more")
                next_warning = now + _NEXT_WORD_SECONDS
            self._check_time(begin + self._settings.timeout, here, more=f"; {_MORE_CLIENTS}")
            nodes = sorted(self._grid.get_node_ids())
        reasons: dict[int, str] = {}
        known: dict[int, Introduction] = {}
        for _ in range(1 + self._settings.retries):
            missing = [n for n in nodes if n not in self._node.values()]
            if len(self._node) < clients:
                found, reasons = self._introduce(missing, clients)
                known |= found
        if sorted(self._node) != list(range(clients)):
            lost = sorted(set(range(clients)) - set(self._node))
            why = "; ".join(f"node {node}: {reason}" for node, reason in reasons.items())
            raise RunFailed(
                f"clients {lost} did not say who they are; their vaults may be unreadable ({why})"
            )
        self._node = dict(sorted(self._node.items()))
        return dict(sorted(known.items()))

    def _introduce(
        self, nodes: Sequence[int], clients: int
    ) -> tuple[dict[int, Introduction], dict[int, str]]:
        """Ask nodes which clients they are.

        Returns:
            (client -> its introduction, node -> why its introduction does not count)
        """
        occasion, empty = ExchangeInfo(0, Phase.MEET, PhaseCost()), {node: RecordDict() for node in nodes}
        exchange = _Exchange(_MEETING, empty, dict(zip(nodes, nodes, strict=True)), occasion)
        self._push(exchange, nodes)
        found: dict[int, Introduction] = {}
        refused: dict[int, str] = {}
        for node in nodes:
            reply = self._reply(exchange, node)
            try:
                content = self._check_reply(reply)
                read_effort(content)
                found[node] = read_introduction(content, clients)
            except RunFailed:
                raise
            except Exception as error:
                refused[node] = _reason(error)
                fault = "late" if reply is None else "failed" if reply.has_error() else "refused"
                self._fault(NOBODY, f"node {node}: {refused[node]}", occasion, fault)
        claims = Counter(introduction.client for introduction in found.values()) + Counter(self._node)
        met: dict[int, Introduction] = {}
        for node, introduction in found.items():
            client = introduction.client
            if claims[client] > 1:
                refused[node] = f"it says that it is client {client}, as another node does"
                self._fault(NOBODY, f"node {node}: {refused[node]}", occasion, "refused")
                continue
            self._node[client] = node
            met[client] = introduction
        return met, refused

    def _check_time(self, deadline: float | None, what: str, wait: bool = True, more: str = "") -> None:
        if self._stop.wait(_POLL_SECONDS if wait else 0):
            raise RunFailed("the run was interrupted")
        if deadline is not None and time.monotonic() > deadline:
            raise RunFailed(f"{what} after {self._settings.timeout:g} s{more}")

    def _fault(self, client: int, reason: str, occasion: ExchangeInfo, kind: str) -> None:
        self._state.faults.append(Fault(occasion.round, occasion.phase, client, reason, kind))

    def _read(
        self,
        client: int,
        reply: Message | None,
        read: Callable[[int, RecordDict], T],
        occasion: ExchangeInfo,
        kind: str,
    ) -> T:
        content = self._check_reply(reply)
        spent = occasion.cost.share(kind)
        spent.bytes_up += size(content)
        effort = read_effort(content)
        spent.client_seconds += effort.seconds
        if effort.died:
            self._fault(client, "its process died and was started again", occasion, "failed")
        return read(client, content)

    def _check_reply(self, reply: Message | None) -> RecordDict:
        """The content of a reply, if it has arrived and reports no failure."""
        if reply is None:
            raise Refused(f"no reply within {self._settings.timeout:g} s")
        if reply.has_error():
            raise Refused(_one_line(reply.error.reason or f"error {reply.error.code}"))
        return reply.content


class _Exchange:
    """One message for each of several clients, and where each of them is.

    Args:
        kind: of message.
        content: client -> content of its message; of introductions, node -> content.
        nodes: client -> its node.
        occasion: names the faults, counts the cost.
    """

    def __init__(
        self, kind: str, content: Mapping[int, RecordDict], nodes: Mapping[int, int], occasion: ExchangeInfo
    ) -> None:
        self.kind, self.content, self.nodes, self.occasion = kind, content, nodes, occasion
        self.sent: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.given_up: set[str] = set()
        self.arrived: dict[int, Message | None] = {}
        self.deadline = 0.0
        different = {id(record): record for record in content.values()}
        self._sizes = {known: size(record) for known, record in different.items()}
        self.largest = max(self._sizes.values(), default=0)

    def to(self, client: int) -> Message:
        """Make the message to a client, and count its bytes."""
        record = self.content[client]
        self.occasion.cost.share(self.kind).bytes_down += self._sizes[id(record)]
        return Message(record, dst_node_id=self.nodes[client], message_type=self.kind)

    def give_up(self) -> None:
        """Stop waiting for what has not arrived in time."""
        self.arrived |= dict.fromkeys(self.waiting.values())
        self.given_up |= self.waiting.keys()
        self.waiting.clear()


def settings(**values: int | float | str | list[str]) -> ConfigRecord:
    """Make the settings of a message.

    Args:
        values: plain numbers, text and lists of text.
    """
    return ConfigRecord(dict(values))


class Payload:
    """Weights that several clients are sent: the model, and a teacher where there is one.

    Neither is copied, so neither may be changed any more.

    Args:
        weights: of the model.
        teacher: weights of the model to learn from; None = there is none.
    """

    def __init__(self, weights: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None) -> None:
        self._records = {"weights": lend(weights)} | ({} if teacher is None else {"teacher": lend(teacher)})

    def with_settings(self, config: ConfigRecord) -> RecordDict:
        """Make the content of a message.

        Args:
            config: settings of the message.
        """
        return RecordDict({**self._records, "settings": config})


def _reason(error: Exception) -> str:
    """Why a reply does not count, in one line, also where reading it failed as nobody expected."""
    what = "" if isinstance(error, Refused) else f"the reply cannot be read, {type(error).__name__}: "
    text = f"{what}{error}"
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "failed without a reason"


def ask_scalars(
    clients: Clients,
    known: Mapping[int, int],
    held_out: Mapping[int, int],
    weights: Mapping[str, Tensor],
    log_odds: bool,
    occasion: ExchangeInfo,
) -> ServerScalars:
    """Ask clients for the accuracy on their held-out speech, and for log-odds where wanted.

    Args:
        clients: of the server.
        known: clients to ask -> rounds done up to which their recordings count.
        held_out: client -> utterances it holds out.
        weights: of the model to evaluate.
        log_odds: whether the log-odds are wanted.
        occasion: names the faults, counts the cost.

    Returns:
        pooled over the clients; a number is None where no client reports it
    """
    payload = Payload(weights)
    by_rounds_done = {
        rounds_done: payload.with_settings(settings(log_odds=int(log_odds), rounds_done=rounds_done))
        for rounds_done in {*known.values()}
    }
    content = {client: by_rounds_done[rounds_done] for client, rounds_done in known.items()}

    def read(client: int, reply: RecordDict) -> Evaluation:
        return read_evaluation(reply, clients.examples[client], held_out[client], log_odds)

    return pool_evaluations(clients.ask("evaluate", content, read, occasion, quorum=0.0).values())
