"""How messages are given out to Ray's workers: all of them, once each, in fewer and fewer at a time."""

import pickle

import pytest
import torch
from flwr.app import Message, RecordDict

from fedunlearn.engines.ray_grid import RayGrid, WorkerPool
from fedunlearn.messages.flower_internals import sign_as_simulation
from fedunlearn.messages.records import TensorArray, borrow, lend
from fedunlearn.server.clients import Payload, settings


def given_out(kind: str, count: int, seconds: float, workers: int = 2, values: int = 10) -> list[int]:
    """Sizes of the calls that so many messages make, where one takes so many seconds."""
    pool = WorkerPool([None] * workers)
    grid = RayGrid(count, [pool])
    grid._seconds[kind] = seconds
    record = Payload({"w": torch.zeros(values)}).with_settings(settings(rounds_done=0))
    sign_as_simulation()
    pool.add(Message(record, dst_node_id=n + 1, message_type=kind) for n in range(count))
    sizes = []
    while pool.queue:
        sizes.append(grid._call_size(pool))
        for _ in range(sizes[-1]):
            pool.queue.popleft()
    return sizes


@pytest.mark.parametrize("count", [1, 2, 3, 20, 2000])
@pytest.mark.parametrize("seconds", [1e-5, 0.005, 0.05, 10.0])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_every_message_is_given_out_and_no_worker_gets_more_than_its_part(
    count: int, seconds: float, workers: int
) -> None:
    sizes = given_out("train", count, seconds, workers)
    assert sum(sizes) == count and min(sizes) >= 1
    assert max(sizes) <= -(-count // workers)
    assert sizes == sorted(sizes, reverse=True) or seconds < 0.04


def test_short_tasks_go_together_and_long_ones_end_alone() -> None:
    assert given_out("query.deletions", 20, 1e-4) == [10, 10]
    assert given_out("train", 20, 1.0) == [5, 4, 3, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["train.unlearn", "query.purge", "train.forget_part"])
def test_messages_about_a_request_are_sent_one_by_one(kind: str) -> None:
    assert given_out(kind, 5, 1e-6) == [1] * 5


def test_large_weights_travel_alone() -> None:
    """Their differences are all written to the same memory."""
    assert given_out("train", 4, 1e-6, values=9_000_000) == [1] * 4


def test_lent_weights_travel_beside_the_pickle_and_are_not_copied() -> None:
    state = {"w": torch.arange(1000.0), "n": torch.tensor(3), "empty": torch.zeros(0, 2)}
    record = lend(state)
    assert borrow(record)["w"].data_ptr() == state["w"].data_ptr()
    beside: list[pickle.PickleBuffer] = []
    blob = pickle.dumps(RecordDict({"weights": record}), protocol=5, buffer_callback=beside.append)
    assert len(blob) < 2500 and sum(len(b.raw()) for b in beside) == 4000 + 8
    back = borrow(pickle.loads(blob, buffers=[bytes(b.raw()) for b in beside]).array_records["weights"])
    assert list(back) == list(state) and all(torch.equal(back[k], v) for k, v in state.items())


def test_a_lent_array_is_the_one_that_flower_would_make() -> None:
    from flwr.app import Array

    for values in (torch.randn(3, 4), torch.tensor(2.5, dtype=torch.float64), torch.zeros(0, 3)):
        ours, theirs = TensorArray(values), Array(values.numpy())
        assert (ours.dtype, tuple(ours.shape), ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
        assert ours.data == theirs.data and ours.bytes == len(theirs.data)
