"""Asking clients and counting what comes back: retries, refusals, quorum, bytes and seconds."""

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
from fedunlearn.messages.records import Refused, lend
from fedunlearn.messages.replies import Introduction, read_effort, read_introduction
from fedunlearn.messages.scalars import Evaluation, pool_evaluations, read_evaluation
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import REQUESTING, PhaseCost
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.unlearning.contract import ServerScalars

T = TypeVar("T")
_MEETING = "query.population"
_POLL_SECONDS = 0.005
_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS = 3.0, 30.0
"""after which one is told that clients are missing, the first time and then again"""
_MORE_CLIENTS = (
    "with flwr run, the federation needs as many SuperNodes as there are clients: set "
    "options.num-supernodes, or clients in --run-config"
)
_FEWEST_AHEAD, _MOST_AHEAD, _BYTES_AHEAD = 4, 64, 1 << 28
"""how many clients' replies may come before it is their turn: so many, and no more bytes than these"""


NOBODY = -1
"""the client of a fault of a node that has not introduced itself"""


@dataclass(frozen=True)
class Fault:
    """One reply that did not count.

    Attributes:
        round: of the timeline;
        phase: what was being done;
        reason: one line.
        client: who; ``NOBODY`` = a node that has not said which client it is.
        kind: "refused" = what it says cannot be; "failed" = it says that it failed; "late" = it came too
            late, or never; "repeated" = its message had been answered; "dropped" = its device was gone in
            the middle of an unlearn step.
    """

    round: int
    phase: str
    client: int
    reason: str
    kind: str = "refused"


@dataclass(frozen=True)
class ExchangeInfo:
    """When and why clients are asked; names the fault, carries the meter."""

    round: int
    phase: str
    cost: PhaseCost


class Clients:
    """The server's view of its clients.

    Args:
        grid: Flower's, of either engine.
        settings: quorum, retries, timeout.
        clients: how many there must be.
        stop: set from outside to end all waiting (the run was interrupted).
        faults: of the run so far; new ones are added to it. None = there are none.
        later: client -> utterances that it will record in the course of the run.

    Raises:
        RunFailed: a client did not introduce itself, or the run was interrupted.
    """

    def __init__(
        self,
        grid: Grid,
        settings: FederationSettings,
        clients: int,
        stop: threading.Event,
        faults: list[Fault] | None = None,
        later: Mapping[int, int] | None = None,
    ) -> None:
        self._grid, self._settings, self._stop = grid, settings, stop
        self.faults: list[Fault] = [] if faults is None else faults
        self.later = dict(later or {})
        self.examples: dict[int, int] = {}
        """client -> training utterances it holds now"""
        self.held_out: dict[int, int] = {}
        """client -> utterances that it never trains on"""
        self.most: dict[int, int] = {}
        """client -> training utterances that it can ever hold: those it began with, and those it records"""
        self._withheld: dict[int, list[str]] = {}
        self._node: dict[int, int] = {}
        self._meet(clients)

    @property
    def clients(self) -> tuple[int, ...]:
        """Clients that hold training data, in order; one that deleted everything has left."""
        return tuple(c for c, n in sorted(self.examples.items()) if n > 0)

    @contextmanager
    def withholding(self, requests: Sequence[TrackedRequest]) -> Iterator[None]:
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
        occasion: ExchangeInfo,
        quorum: float | None = None,
    ) -> dict[int, T]:
        """Send one message to each of several clients and read the replies.

        Args:
            kind: Flower message type, such as "train.unlearn".
            content: client -> what to send; several may be sent the same record.
            read: turns a client's reply into a value, or raises Refused. It is called in client order, for
                each as soon as it and all before it have answered, so that it may add up what it reads.
            occasion: for the books.
            quorum: share of them that must answer; None = the federation's setting.

        Returns:
            client -> value, in client order, of those that answered properly. A client that failed was
            asked again ``retries`` times; each failure is in ``faults``.

        Raises:
            RunFailed: fewer than the quorum answered.
        """
        answers: dict[int, T] = {}
        content = {client: self._told(client, record) for client, record in sorted(content.items())}
        with occasion.cost.timeline_round():
            letters = _Exchange(kind, content, {c: self._node[c] for c in content}, occasion)
            self._push(letters, self._longest_first(letters))
            for client in content:
                for tries_left in reversed(range(1 + self._settings.retries)):
                    reply = self._reply(letters, client)
                    try:
                        answers[client] = self._read(client, reply, read, occasion, kind)
                        break
                    except RunFailed:
                        raise
                    except Exception as error:  # of a stranger's bytes no reader knows all ways to fail
                        why = _reason(error)
                        sort = "late" if reply is None else "failed" if reply.has_error() else "refused"
                        self._fault(client, why, occasion, sort)
                    if tries_left:
                        self._push(letters, [client])
        needed = self._settings.quorum if quorum is None else quorum
        # Whatever the quorum, one survivor's model is not everybody's.
        least = max(needed * len(content), min(2, len(content))) if needed > 0 else 0
        if len(answers) < least:
            raise RunFailed(
                f"round {occasion.round} ({occasion.phase}): {len(answers)} of {len(content)} clients "
                f"answered properly, {needed:.0%} are needed; last reason: {self.faults[-1].reason}"
            )
        return answers

    def _told(self, client: int, record: RecordDict) -> RecordDict:
        """What a client is sent, and which of its requests it must leave out."""
        withheld = self._withheld.get(client)
        if withheld is None:
            return record
        return RecordDict({**record, "withheld": ConfigRecord({"requests": withheld})})

    def _longest_first(self, letters: "_Exchange") -> list[int]:
        """In which order to ask: who holds most first, so that nobody begins a long task when others end.

        In stretches of client order, so that few replies wait for their turn to be read.
        """
        clients = list(letters.content)
        if self._settings.engine == "inline" or letters.kind in REQUESTING:
            return clients
        stretch = max(_FEWEST_AHEAD, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, letters.largest)))
        stretches = (clients[start : start + stretch] for start in range(0, len(clients), stretch))
        return [c for part in stretches for c in sorted(part, key=lambda c: -self.examples.get(c, 0))]

    def _push(self, letters: "_Exchange", clients: Sequence[int]) -> None:
        """Ask these clients."""
        messages = [letters.to(client) for client in clients]
        asked = dict(zip(self._grid.push_messages(messages), clients, strict=True))
        letters.waiting |= asked
        letters.asked |= asked
        letters.deadline = time.monotonic() + self._settings.timeout

    def _reply(self, letters: "_Exchange", client: int) -> Message | None:
        """What a client answers; None where nothing comes in time. Others' replies wait for their turn."""
        while client not in letters.arrived:
            if time.monotonic() > letters.deadline:
                letters.give_up()
            else:
                letters.arrived |= self._pull(letters)
        return letters.arrived.pop(client)

    def _pull(self, letters: "_Exchange") -> dict[int, Message]:
        """Replies that have come; they wait no more. Waits a little where there are none.

        A reply counts if its message waits for it and it is from the node that was asked. Any other has no
        effect but that it is in the books.
        """
        come: dict[int, Message] = {}
        for message in self._grid.pull_messages(letters.waiting):
            name, node = message.metadata.reply_to_message_id, message.metadata.src_node_id
            client = letters.asked.get(name)
            if client is None or letters.nodes[client] != node:
                sender = next((c for c, known in self._node.items() if known == node), NOBODY)
                reason = f"a reply of node {node} to no message that it was sent in this exchange"
                self._fault(sender, reason, letters.occasion, "late" if client is None else "refused")
            elif name not in letters.waiting:
                given_up = name in letters.given_up
                reason = "its reply came when it was waited for no more" if given_up else "it replied twice"
                sender = NOBODY if letters.kind == _MEETING else client
                self._fault(sender, reason, letters.occasion, "late" if given_up else "repeated")
            else:
                come[letters.waiting.pop(name)] = message
        self._check_time(None, "the run was interrupted", wait=not come)
        return come

    def _meet(self, clients: int) -> None:
        # Node ids are random in every run, and the list is empty when a ServerApp starts.
        begin = time.monotonic()
        say_again = begin + _FIRST_WORD_SECONDS
        nodes: list[int] = []
        while len(nodes) < clients:
            here = f"{len(nodes)} of {clients} clients are connected"
            if (now := time.monotonic()) > say_again:
                warn(f"{here}; waiting for the others, {self._settings.timeout - (now - begin):.0f} s more")
                say_again = now + _NEXT_WORD_SECONDS
            self._check_time(begin + self._settings.timeout, here, more=f"; {_MORE_CLIENTS}")
            nodes = sorted(self._grid.get_node_ids())
        reasons: dict[int, str] = {}
        for _ in range(1 + self._settings.retries):
            missing = [n for n in nodes if n not in self._node.values()]
            if len(self._node) < clients:
                reasons = self._introduce(missing, clients)
        if sorted(self._node) != list(range(clients)):
            lost = sorted(set(range(clients)) - set(self._node))
            told = "; ".join(f"node {node}: {reason}" for node, reason in reasons.items())
            raise RunFailed(
                f"clients {lost} did not say who they are; their vaults may be unreadable ({told})"
            )
        self._node = dict(sorted(self._node.items()))
        self.examples = dict(sorted(self.examples.items()))

    def _introduce(self, nodes: Sequence[int], clients: int) -> dict[int, str]:
        """Ask nodes which clients they are; of each that has not said so properly, why."""
        occasion, empty = ExchangeInfo(0, "meet", PhaseCost()), {node: RecordDict() for node in nodes}
        letters = _Exchange(_MEETING, empty, dict(zip(nodes, nodes, strict=True)), occasion)
        self._push(letters, nodes)
        found: dict[int, Introduction] = {}
        refused: dict[int, str] = {}
        for node in nodes:
            reply = self._reply(letters, node)
            try:
                content = self._check_reply(reply)
                read_effort(content)
                found[node] = read_introduction(content, clients)
            except RunFailed:
                raise
            except Exception as error:
                refused[node] = _reason(error)
                sort = "late" if reply is None else "failed" if reply.has_error() else "refused"
                self._fault(NOBODY, f"node {node}: {refused[node]}", occasion, sort)
        claims = Counter(said.client for said in found.values()) + Counter(self._node)
        for node, said in found.items():
            if claims[said.client] > 1:
                refused[node] = f"it says that it is client {said.client}, as another node does"
                self._fault(NOBODY, f"node {node}: {refused[node]}", occasion, "refused")
                continue
            self._node[said.client] = node
            self.examples[said.client], self.held_out[said.client] = said.train, said.held_out
            self.most[said.client] = said.train + self.later.get(said.client, 0)
        return refused

    def _check_time(self, deadline: float | None, what: str, wait: bool = True, more: str = "") -> None:
        if self._stop.wait(_POLL_SECONDS if wait else 0):
            raise RunFailed("the run was interrupted")
        if deadline is not None and time.monotonic() > deadline:
            raise RunFailed(f"{what} after {self._settings.timeout:g} s{more}")

    def _fault(self, client: int, reason: str, occasion: ExchangeInfo, kind: str) -> None:
        self.faults.append(Fault(occasion.round, occasion.phase, client, reason, kind))

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
        """What a reply says, if it has come and is no failure."""
        if reply is None:
            raise Refused(f"no reply within {self._settings.timeout:g} s")
        if reply.has_error():
            raise Refused(_one_line(reply.error.reason or f"error {reply.error.code}"))
        return reply.content


class _Exchange:
    """One message for each of several clients, and where each of them is.

    Args:
        kind: of message.
        content: client -> what it says; of introductions, node -> what it says.
        nodes: client -> where it is.
        occasion: names the faults, carries the books that it is entered in.
    """

    def __init__(
        self, kind: str, content: Mapping[int, RecordDict], nodes: Mapping[int, int], occasion: ExchangeInfo
    ) -> None:
        self.kind, self.content, self.nodes, self.occasion = kind, content, nodes, occasion
        self.asked: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.given_up: set[str] = set()
        self.arrived: dict[int, Message | None] = {}
        self.deadline = 0.0
        different = {id(record): record for record in content.values()}
        self._sizes = {known: size(record) for known, record in different.items()}
        self.largest = max(self._sizes.values(), default=0)

    def to(self, client: int) -> Message:
        """The message, which is then on its way."""
        record = self.content[client]
        self.occasion.cost.share(self.kind).bytes_down += self._sizes[id(record)]
        return Message(record, dst_node_id=self.nodes[client], message_type=self.kind)

    def give_up(self) -> None:
        """Nothing that is waited for has come in time."""
        self.arrived |= dict.fromkeys(self.waiting.values())
        self.given_up |= self.waiting.keys()
        self.waiting.clear()


def settings(**values: int | float | str | list[str]) -> ConfigRecord:
    """The small settings of a message."""
    return ConfigRecord(dict(values))


class Payload:
    """What several clients are sent: the model, and beside it the one to learn from where there is one.

    Neither is copied, so neither may be changed any more.
    """

    def __init__(self, weights: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None) -> None:
        self._records = {"weights": lend(weights)} | ({} if teacher is None else {"teacher": lend(teacher)})

    def __call__(self, asked: ConfigRecord) -> RecordDict:
        """With these settings."""
        return RecordDict({**self._records, "settings": asked})


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
    there: Mapping[int, int],
    weights: Mapping[str, Tensor],
    log_odds: bool,
    occasion: ExchangeInfo,
) -> ServerScalars:
    """Accuracy on all clients' held-out speech, and the log-odds where asked for; None: nobody said.

    Args:
        clients: the federation.
        there: those to be asked -> the date up to which their recordings count.
    """
    letter = Payload(weights)
    by_date = {
        rounds_done: letter(settings(log_odds=int(log_odds), rounds_done=rounds_done))
        for rounds_done in {*there.values()}
    }
    content = {client: by_date[rounds_done] for client, rounds_done in there.items()}

    def read(client: int, reply: RecordDict) -> Evaluation:
        return read_evaluation(reply, clients.examples[client], clients.held_out[client], log_odds)

    return pool_evaluations(clients.ask("evaluate", content, read, occasion, quorum=0.0).values())
