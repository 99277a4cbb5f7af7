"""Models are evaluated in the background, and recorded in the order in which their rounds ended."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.background_evaluation import BackgroundEvaluation
from fedunlearn.experiment.record import Log

Recorded = list[tuple[int, int | None]]


def weights(number: int) -> dict[str, Tensor]:
    return {"w": torch.tensor(number)}


def seen(state: Mapping[str, Tensor]) -> Predictions:
    return np.array([int(state["w"])], np.uint8)


def evaluation(evaluate: Any, in_background: bool) -> tuple[BackgroundEvaluation, Recorded]:
    recorded: Recorded = []

    def record(log: Log, row: dict[str, Any], predictions: Predictions | None) -> None:
        recorded.append((row["round"], None if predictions is None else int(predictions[0])))

    return BackgroundEvaluation(evaluate, record, in_background), recorded


def test_inline_each_round_is_recorded_at_once() -> None:
    out, recorded = evaluation(seen, in_background=False)
    out.add_round(Log(), {"round": 1}, weights(7))
    out.add_round(Log(), {"round": 2}, None)
    assert recorded == [(1, 7), (2, None)] and out.settled
    out.close()


def test_aside_rounds_wait_for_a_look_and_keep_their_order() -> None:
    go, threads = threading.Event(), set[tuple[str, int]]()

    def slow(state: Mapping[str, Tensor]) -> Predictions:
        threads.add((threading.current_thread().name, torch.get_num_threads()))
        assert go.wait(10)
        return seen(state)

    out, recorded = evaluation(slow, in_background=True)
    out.add_round(Log(), {"round": 1}, weights(7))
    out.add_round(Log(), {"round": 2}, None)
    assert recorded == [] and not out.settled, "round 2 was not looked at, and waits for round 1 all the same"
    go.set()
    out.settle()
    assert recorded == [(1, 7), (2, None)] and out.settled
    ((name, count),) = threads
    assert name != threading.current_thread().name
    assert count == 1, "more threads could change the last bit"
    out.close()


def test_a_judge_who_is_too_slow_is_waited_for() -> None:
    """Two looks may be under way; with the third the first one is waited for."""
    out, recorded = evaluation(seen, in_background=True)
    for number in range(1, 6):
        out.add_round(Log(), {"round": number}, weights(number))
    assert [number for number, _ in recorded] >= [1, 2, 3][: len(recorded)] and len(recorded) >= 3
    out.settle()
    assert recorded == [(n, n) for n in range(1, 6)]
    out.close()


def test_a_look_that_fails_fails_the_run() -> None:
    def broken(_: Mapping[str, Tensor]) -> Predictions:
        raise ValueError("no features")

    out, recorded = evaluation(broken, in_background=True)
    with pytest.raises(ValueError, match="no features"):
        out.add_round(Log(), {"round": 1}, weights(1))
        out.settle()
    assert recorded == []
    out.close()
