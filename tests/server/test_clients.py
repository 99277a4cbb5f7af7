"""Messages to clients: replies are read in client order however they come, failed messages are repeated at
once, the client with most data comes first, and what several are sent is one record.
"""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from flwr.app import Error, Message, MetricRecord, RecordDict

from fedunlearn.config.federation import FederationSettings
from fedunlearn.engines.inline_grid import LocalGrid
from fedunlearn.errors import RunFailed
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.records import Refused, number
from fedunlearn.messages.sizes import size
from fedunlearn.server.clients import Clients, Payload, settings
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.history import History
from fedunlearn.server.state import ServerState


class OutOfOrder(LocalGrid):
    """Clients hold as many utterances as configured; the last message is answered first, one a pull."""

    def __init__(self, holds: list[int], fails: dict[int, int] | None = None) -> None:
        super().__init__(len(holds))
        self._holds, self._fails = holds, fails or {}
        self.reached: list[int] = []
        self.waiting: dict[str, Message] = {}

    def _accept(self, messages: dict[str, Message]) -> None:
        self.waiting |= messages
        if "query.population" not in {m.metadata.message_type for m in messages.values()}:
            self.reached += [m.metadata.dst_node_id - 1 for m in messages.values()]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if not self.waiting:
            return []
        _, message = self.waiting.popitem()
        client = message.metadata.dst_node_id - 1
        if message.metadata.message_type == "train" and self._fails.get(client, 0):
            self._fails[client] -= 1
            return [Message(Error(3, "the disk is full"), reply_to=message)]
        metrics = {"client": client, "train": self._holds[client], "test": 1, "seconds": 0.5}
        return [Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)]


class Met(NamedTuple):
    clients: Clients
    state: ServerState


def meet(grid: OutOfOrder, **more: Any) -> Met:
    chosen, state = FederationSettings(**{"engine": "ray", "timeout": 5.0, **more}), ServerState(History(()))
    count = len(list(grid.get_node_ids()))
    return Met(Clients(grid, chosen, count, threading.Event(), state), state)


def federation(grid: OutOfOrder, **more: Any) -> Clients:
    return meet(grid, **more).clients


def ask(clients: Clients, content: dict[int, RecordDict], read: Any) -> tuple[dict[int, Any], PhaseCost]:
    cost = PhaseCost()
    return clients.ask("train", content, read, ExchangeInfo(1, Phase.LEARN, cost)), cost


def contents(clients: int) -> dict[int, RecordDict]:
    return dict.fromkeys(
        range(clients), Payload({"w": torch.zeros(3)}).with_settings(settings(rounds_done=0))
    )


def test_replies_are_read_in_client_order() -> None:
    grid, order = OutOfOrder([4] * 6), list[int]()

    def read(client: int, reply: RecordDict) -> float:
        order.append(client)
        return number(reply, "client")

    answers, cost = ask(federation(grid), contents(6), read)
    assert order == list(answers) == list(range(6)) and list(answers.values()) == list(range(6))
    assert cost.client_seconds == 3.0
    assert cost.bytes_down == 6 * size(contents(1)[0]), "though it is one record"


def test_a_failed_message_is_sent_again_before_later_replies_are_read() -> None:
    grid, order = OutOfOrder([4] * 4, fails={1: 1}), list[int]()

    def read(client: int, _: RecordDict) -> None:
        order.append(client)

    clients, state = meet(grid, retries=1)
    answers, cost = ask(clients, contents(4), read)
    assert order == [0, 1, 2, 3] and list(answers) == [0, 1, 2, 3]
    assert grid.reached == [0, 1, 2, 3, 1]
    assert [(f.client, f.kind, f.reason) for f in state.faults] == [(1, "failed", "the disk is full")]
    assert cost.bytes_down == 5 * size(contents(1)[0]), "each attempt is on the wire"


def test_one_that_is_refused_every_time_is_left_out_and_the_rest_is_read() -> None:
    def read(client: int, _: RecordDict) -> int:
        if client == 2:
            raise Refused("odd")
        return client

    clients, state = meet(OutOfOrder([4] * 5), retries=2)
    assert list(ask(clients, contents(5), read)[0]) == [0, 1, 3, 4]
    assert [f.reason for f in state.faults] == ["odd"] * 3


def test_without_a_quorum_it_fails() -> None:
    clients = federation(OutOfOrder([4] * 4, fails={0: 9, 1: 9}), retries=0)
    with pytest.raises(RunFailed, match=r"2 of 4 clients answered properly, 80% are needed"):
        ask(clients, contents(4), lambda *_: None)


def test_whoever_does_not_answer_in_time_is_late() -> None:
    class Silent(OutOfOrder):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            kept = {n: m for n, m in self.waiting.items() if m.metadata.dst_node_id == 2}
            mute = [n for n, m in kept.items() if m.metadata.message_type == "train"]
            for name in mute:
                del self.waiting[name]
            return super().pull_messages(message_ids)

    clients, state = meet(Silent([4] * 5), retries=0, timeout=0.2)
    assert list(ask(clients, contents(5), lambda *_: None)[0]) == [0, 2, 3, 4]
    assert [(f.client, f.kind) for f in state.faults] == [(1, "late")]


@pytest.mark.parametrize(
    ("engine", "order"), [("ray", [2, 0, 3, 1, 4]), ("flower", [2, 0, 3, 1, 4]), ("inline", [0, 1, 2, 3, 4])]
)
def test_the_client_with_most_data_comes_first_where_several_work(engine: str, order: list[int]) -> None:
    grid = OutOfOrder([7, 3, 9, 7, 1])
    ask(federation(grid, engine=engine), contents(5), lambda *_: None)
    assert grid.reached == order


def test_not_so_far_ahead_that_many_replies_wait_for_their_turn() -> None:
    """In stretches of 64 clients; of weights so large that 64 would be too much to hold, of fewer."""
    grid = OutOfOrder(list(range(1, 131)))
    ask(federation(grid), contents(130), lambda *_: None)
    assert grid.reached == [*range(63, -1, -1), *range(127, 63, -1), 129, 128]
    grid = OutOfOrder(list(range(1, 11)))
    large = dict.fromkeys(
        range(10), Payload({"w": torch.zeros(20_000_000)}).with_settings(settings(rounds_done=0))
    )
    ask(federation(grid), large, lambda *_: None)
    assert grid.reached == [3, 2, 1, 0, 7, 6, 5, 4, 9, 8]


class Stray(OutOfOrder):
    """Hands out what a test makes of each pull."""

    def __init__(self, clients: int, stray: Callable[[list[Message]], list[Message]]) -> None:
        super().__init__([4] * clients)
        self._stray = stray

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        come = list(super().pull_messages(message_ids))
        return self._stray(come) if come and not _introduces(come[0]) else come


def _introduces(message: Message) -> bool:
    return bool(message.metadata.message_type == "query.population")


def test_a_reply_that_comes_again_or_to_no_message_has_no_effect_and_is_counted() -> None:
    def stray(come: list[Message]) -> list[Message]:
        unasked = copy.deepcopy(come[0])
        unasked.metadata.__dict__["_reply_to_message_id"] = "nobody's"
        return [unasked, *come, *come]

    (clients, state), read = meet(Stray(3, stray)), list[int]()
    ask(clients, contents(3), lambda client, _: read.append(client))
    assert read == [0, 1, 2]
    kinds = Counter((f.client, f.kind) for f in state.faults)
    assert kinds == {(c, kind): 1 for c in range(3) for kind in ("late", "repeated")}


def test_nobody_answers_for_another_node() -> None:
    """The reply in client 0's name is from client 2's node: it counts for nobody, and the real one does."""
    forged: list[Message] = []

    def stray(come: list[Message]) -> list[Message]:
        if come[0].metadata.src_node_id != 1 or forged:
            return come
        forged.append(copy.deepcopy(come[0]))
        forged[0].metadata.__dict__["_src_node_id"] = 3
        forged[0].content.metric_records["metrics"]["client"] = 99
        return [forged[0], *come]

    clients, state = meet(Stray(3, stray))
    answers, _ = ask(clients, contents(3), lambda _, reply: number(reply, "client"))
    assert answers == {0: 0, 1: 1, 2: 2}
    assert [(f.client, f.kind) for f in state.faults] == [(2, "refused")]


def test_a_reader_that_fails_as_nobody_expected_refuses_the_reply() -> None:
    def read(client: int, _: RecordDict) -> int:
        return 1 // (client - 1)

    clients, state = meet(OutOfOrder([4] * 6), retries=0)
    assert list(ask(clients, contents(6), read)[0]) == [0, 2, 3, 4, 5]
    reason = "the reply cannot be read, ZeroDivisionError: integer division or modulo by zero"
    assert [(f.client, f.kind, f.reason) for f in state.faults] == [(1, "refused", reason)]


class Strangers(OutOfOrder):
    """Introductions are what a test says: node -> what its metrics are, try by try; None = no answer."""

    def __init__(self, clients: int, answers: dict[int, list[dict[str, Any] | None]]) -> None:
        super().__init__([4] * clients)
        self._answers = answers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for name, message in list(self.waiting.items()):
            if self._answers.get(node := message.metadata.dst_node_id):
                del self.waiting[name]
                metrics = self._answers[node].pop(0)
                if metrics is not None:
                    content = RecordDict({"metrics": MetricRecord(metrics)})
                    return [Message(content, reply_to=message)]
        return super().pull_messages(message_ids)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"client": 0.5, "train": 4, "test": 1}, "metric client is 0.5"),
        ({"client": 3, "train": 4, "test": 1}, "clients are 0 to 2"),
        ({"client": 10**9, "train": 4, "test": 1}, "metric client is 1000000000"),
        ({"client": 1, "train": -4, "test": 1}, "metric train is -4"),
        ({"client": 1, "train": 10**12, "test": 1}, "metric train is"),
        ({"client": 1, "train": 4}, "metric test is None"),
        ({"client": 1, "train": 4, "test": 1, "seconds": float("nan")}, "metric seconds is nan"),
        ({"client": 0, "train": 4, "test": 1}, "client 0, as another node does"),
        (None, "no reply within 0.2 s"),
    ],
)
def test_a_bad_introduction_is_counted_requested_again_and_named_in_the_end(
    answers: dict[str, Any] | None, reason: str
) -> None:
    known, state = meet(Strangers(3, {2: [answers]}), retries=1, timeout=0.2)
    assert known.active == (0, 1, 2)
    assert any("node 2" in f.reason and reason in f.reason for f in state.faults)
    assert {(f.client, f.phase) for f in state.faults} == {(-1, "meet")}
    failed = ServerState(History(()))
    grid = Strangers(3, {2: [answers, answers]})
    with pytest.raises(RunFailed, match=rf"did not say who they are.*node 2: .*{reason}"):
        settings_ = FederationSettings(engine="ray", timeout=0.2, retries=1)
        Clients(grid, settings_, 3, threading.Event(), failed)
    assert sum("node 2" in f.reason for f in failed.faults) == 2


def test_withheld_requests_are_sent_to_their_own_client_alone() -> None:
    class Request:
        client, id, withheld = 1, "r", 2

    grid, clients = OutOfOrder([4] * 3), None
    received: dict[int, bool] = {}

    def take(messages: dict[str, Message]) -> None:
        for message in messages.values():
            received[message.metadata.dst_node_id - 1] = "withheld" in message.content.config_records
        OutOfOrder._accept(grid, messages)

    clients = federation(grid)
    grid._accept = take  # type: ignore[method-assign]
    with clients.withholding([Request()]):  # type: ignore[list-item]
        ask(clients, contents(3), lambda *_: None)
    assert received == {0: False, 1: True, 2: False}
