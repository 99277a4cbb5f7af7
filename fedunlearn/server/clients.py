"""Messages to clients and their replies: retries, refusals, quorum, bytes and seconds."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedunlearn.config.federation import FederationSettings
from fedunlearn.errors import RunFailed
from fedunlearn.messages.records import lend
from fedunlearn.messages.replies import read_reply_cost
from fedunlearn.messages.scalars import Evaluation, pool_evaluations, read_evaluation
from fedunlearn.messages.sizes import size
from fedunlearn.server.cost import REQUESTING
from fedunlearn.server.exchange import Channel, Exchange, ExchangeInfo, kind_of_fault, reason_of
from fedunlearn.server.meeting import meet_clients
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import ServerState
from fedunlearn.unlearning.contract import ServerScalars

T = TypeVar("T")
_FEWEST_AHEAD, _MOST_AHEAD, _BYTES_AHEAD = 4, 64, 1 << 28
"""how many clients' replies may arrive before it is their turn: so many, and no more bytes than these"""


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
        self._settings, self._state = settings, state
        self._channel = Channel(grid, settings, stop, state)
        self.later = dict(later or {})
        self._withheld: dict[int, list[str]] = {}
        introductions = meet_clients(self._channel, count)
        self.most = {c: one.train + self.later.get(c, 0) for c, one in introductions.items()}
        """client -> training utterances that it can ever hold: those it began with, and those it records"""
        self.commitments = {c: one.commitment for c, one in introductions.items()}
        """client -> what it committed to when it introduced itself"""
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
            sent the message again ``retries`` times; each failure is in ``faults``.

        Raises:
            RunFailed: fewer than the quorum answered.
        """
        answers: dict[int, T] = {}
        content = {client: self._addressed(client, record) for client, record in sorted(content.items())}
        with occasion.cost.measure_time():
            nodes = {client: self._channel.nodes[client] for client in content}
            exchange = Exchange(self._channel, kind, content, nodes, occasion)
            exchange.send(self._longest_first(exchange))
            for client in content:
                for tries_left in reversed(range(1 + self._settings.retries)):
                    reply = exchange.reply_of(client)
                    try:
                        answers[client] = self._read(client, reply, read, exchange)
                        break
                    except RunFailed:
                        raise
                    except Exception as error:  # of a stranger's bytes no reader knows all ways to fail
                        self._channel.add_fault(client, reason_of(error), occasion, kind_of_fault(reply))
                    if tries_left:
                        exchange.send([client])
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

    def _longest_first(self, exchange: Exchange) -> list[int]:
        """Order the clients: those that hold most first, so that no long task begins when the others end.

        In stretches of client order, so that few replies wait for their turn to be read.
        """
        clients = list(exchange.content)
        if self._settings.engine == "inline" or exchange.kind in REQUESTING:
            return clients
        stretch = max(_FEWEST_AHEAD, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, exchange.largest)))
        stretches = (clients[start : start + stretch] for start in range(0, len(clients), stretch))
        return [c for part in stretches for c in sorted(part, key=lambda c: -self._state.examples.get(c, 0))]

    def _read(
        self,
        client: int,
        reply: Message | None,
        read: Callable[[int, RecordDict], T],
        exchange: Exchange,
    ) -> T:
        content = exchange.check_reply(reply)
        spent = exchange.occasion.cost.share(exchange.kind)
        spent.bytes_up += size(content)
        reply_cost = read_reply_cost(content)
        spent.client_seconds += reply_cost.seconds
        if reply_cost.died:
            reason = "its process died and was started again"
            self._channel.add_fault(client, reason, exchange.occasion, "failed")
        return read(client, content)


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

    def with_settings(self, config: ConfigRecord, left_out: Mapping[str, Tensor] | None = None) -> RecordDict:
        """Make the content of a message.

        Args:
            config: settings of the message.
            left_out: what the model without the client has more than this one; None = it is not sent.
        """
        records = self._records if left_out is None else {**self._records, "left_out": lend(left_out)}
        return RecordDict({**records, "settings": config})


def request_scalars(
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
