"""Asking: replies are read in client order however they come, failures are asked again at once, who holds
most is asked first, and what several are sent is one record.
"""

import threading
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, MetricRecord, RecordDict

from fedunlearn.config import FederationSettings
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.cost import PhaseCost
from fedunlearn.federation.exchange import Federation, Letter, Occasion, settings
from fedunlearn.federation.local_grid import LocalGrid
from fedunlearn.federation.transport import Refused, number, size


class OutOfOrder(LocalGrid):
    """Clients hold as many utterances as told; the last message is answered first, one a pull."""

    def __init__(self, holds: list[int], fails: dict[int, int] | None = None) -> None:
        super().__init__(len(holds))
        self._holds, self._fails = holds, fails or {}
        self.asked: list[int] = []
        self.waiting: dict[str, Message] = {}

    def _take(self, messages: dict[str, Message]) -> None:
        self.waiting |= messages
        if "query.population" not in {m.metadata.message_type for m in messages.values()}:
            self.asked += [m.metadata.dst_node_id - 1 for m in messages.values()]

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


def federation(grid: OutOfOrder, **more: Any) -> Federation:
    chosen = FederationSettings(**{"engine": "ray", "timeout": 5.0, **more})
    return Federation(grid, chosen, len(list(grid.get_node_ids())), threading.Event())


def ask(clients: Federation, content: dict[int, RecordDict], read: Any) -> tuple[dict[int, Any], PhaseCost]:
    cost = PhaseCost()
    return clients.ask("train", content, read, Occasion(1, "learn", cost)), cost


def letters(clients: int) -> dict[int, RecordDict]:
    return dict.fromkeys(range(clients), Letter({"w": torch.zeros(3)})(settings(date=0)))


def test_replies_are_read_in_client_order() -> None:
    grid, order = OutOfOrder([4] * 6), list[int]()

    def read(client: int, reply: RecordDict) -> float:
        order.append(client)
        return number(reply, "client")

    answers, cost = ask(federation(grid), letters(6), read)
    assert order == list(answers) == list(range(6)) and list(answers.values()) == list(range(6))
    assert cost.client_seconds == 3.0
    assert cost.bytes_down == 6 * size(letters(1)[0]), "though it is one record"


def test_a_failure_is_asked_again_before_later_ones_are_read() -> None:
    grid, order = OutOfOrder([4] * 4, fails={1: 1}), list[int]()

    def read(client: int, _: RecordDict) -> None:
        order.append(client)

    clients = federation(grid, retries=1)
    answers, cost = ask(clients, letters(4), read)
    assert order == [0, 1, 2, 3] and list(answers) == [0, 1, 2, 3]
    assert grid.asked == [0, 1, 2, 3, 1]
    assert [(f.client, f.kind, f.reason) for f in clients.faults] == [(1, "failed", "the disk is full")]
    assert cost.bytes_down == 5 * size(letters(1)[0]), "each attempt is on the wire"


def test_one_that_is_refused_every_time_is_left_out_and_the_rest_is_read() -> None:
    def read(client: int, _: RecordDict) -> int:
        if client == 2:
            raise Refused("odd")
        return client

    clients = federation(OutOfOrder([4] * 5), retries=2)
    assert list(ask(clients, letters(5), read)[0]) == [0, 1, 3, 4]
    assert [f.reason for f in clients.faults] == ["odd"] * 3


def test_without_a_quorum_it_fails() -> None:
    clients = federation(OutOfOrder([4] * 4, fails={0: 9, 1: 9}), retries=0)
    with pytest.raises(RunFailed, match=r"2 of 4 clients answered properly, 80% are needed"):
        ask(clients, letters(4), lambda *_: None)


def test_whoever_does_not_answer_in_time_is_late() -> None:
    class Silent(OutOfOrder):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            kept = {n: m for n, m in self.waiting.items() if m.metadata.dst_node_id == 2}
            mute = [n for n, m in kept.items() if m.metadata.message_type == "train"]
            for name in mute:
                del self.waiting[name]
            return super().pull_messages(message_ids)

    clients = federation(Silent([4] * 5), retries=0, timeout=0.2)
    assert list(ask(clients, letters(5), lambda *_: None)[0]) == [0, 2, 3, 4]
    assert [(f.client, f.kind) for f in clients.faults] == [(1, "late")]


@pytest.mark.parametrize(
    ("engine", "order"), [("ray", [2, 0, 3, 1, 4]), ("flower", [2, 0, 3, 1, 4]), ("inline", [0, 1, 2, 3, 4])]
)
def test_who_holds_most_is_asked_first_where_several_work(engine: str, order: list[int]) -> None:
    grid = OutOfOrder([7, 3, 9, 7, 1])
    ask(federation(grid, engine=engine), letters(5), lambda *_: None)
    assert grid.asked == order


def test_not_so_far_ahead_that_many_replies_wait_for_their_turn() -> None:
    """In stretches of 64 clients; of weights so large that 64 would be too much to hold, of fewer."""
    grid = OutOfOrder(list(range(1, 131)))
    ask(federation(grid), letters(130), lambda *_: None)
    assert grid.asked == [*range(63, -1, -1), *range(127, 63, -1), 129, 128]
    grid = OutOfOrder(list(range(1, 11)))
    large = dict.fromkeys(range(10), Letter({"w": torch.zeros(20_000_000)})(settings(date=0)))
    ask(federation(grid), large, lambda *_: None)
    assert grid.asked == [3, 2, 1, 0, 7, 6, 5, 4, 9, 8]


def test_requests_withheld_are_told_to_their_own_client_alone() -> None:
    class Request:
        client, id, withheld = 1, "r", 2

    grid, clients = OutOfOrder([4] * 3), None
    heard: dict[int, bool] = {}

    def take(messages: dict[str, Message]) -> None:
        for message in messages.values():
            heard[message.metadata.dst_node_id - 1] = "withheld" in message.content.config_records
        OutOfOrder._take(grid, messages)

    clients = federation(grid)
    grid._take = take  # type: ignore[method-assign]
    with clients.withholding([Request()]):  # type: ignore[list-item]
        ask(clients, letters(3), lambda *_: None)
    assert heard == {0: False, 1: True, 2: False}
