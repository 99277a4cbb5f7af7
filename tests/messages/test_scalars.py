"""The few numbers that the server sends to requesters: how they are summed, checked and carried."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from small_run import run_small, small_config

from fedunlearn.messages.records import MessageConfig, Refused
from fedunlearn.messages.scalars import Sums, as_settings, read_scalars
from fedunlearn.server.clients import settings
from fedunlearn.unlearning.contract import LogOdds, ServerScalars


def reply(**numbers: float) -> RecordDict:
    return RecordDict({"metrics": MetricRecord({f"trained_{k}": v for k, v in numbers.items()})})


@given(st.lists(st.lists(st.floats(-50, 50), max_size=6), min_size=1, max_size=4))
def test_sums_of_parts_give_the_spread_of_all(parts: list[list[float]]) -> None:
    whole = [value for part in parts for value in part]
    spread = sum((Sums.of(torch.tensor(part, dtype=torch.float64)) for part in parts), Sums()).spread()
    if not whole or np.std(whole) < 1e-3:
        assert spread is None or spread.std < 1e-2
    else:
        assert spread is not None
        assert spread.mean == pytest.approx(np.mean(whole), abs=1e-9)
        assert spread.std == pytest.approx(np.std(whole), rel=1e-5)


def test_sums_come_back_as_they_went() -> None:
    sums = Sums.of(torch.tensor([1.0, -3.0, 0.5, 2.0]))
    assert Sums.read(RecordDict({"metrics": MetricRecord(sums.as_metrics("trained"))}), "trained", 4) == sums


@pytest.mark.parametrize(
    "changes",
    [
        dict(count=1e12, total=4e13, squares=1.7e15),
        dict(count=3.0, total=3.0, squares=3.0),
        dict(count=0.0, total=0.0, squares=1e300),
        dict(count=4.0, total=1e200, squares=1e300),
        dict(count=4.0, total=8.0, squares=15.0),  # a mean of 2 needs squares of 16 at least
        dict(count=4.0, total=0.0, squares=-1.0),
        dict(count=-4.0, total=0.0, squares=0.0),
    ],
)
def test_sums_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(Refused, match="cannot be right"):
        Sums.read(reply(**changes), "trained", 4)
    assert Sums.read(reply(count=0.0, total=0.0, squares=0.0), "trained", 4) == Sums()


@pytest.mark.parametrize(
    "scalars",
    [
        ServerScalars(),
        ServerScalars(0.5, 0.25, LogOdds(-2.0, 1.5), LogOdds(-0.5, 3.0)),
        ServerScalars(test_accuracy=0.0, held_out=LogOdds(0.0, 1.0)),
    ],
)
def test_scalars_come_back_as_they_went(scalars: ServerScalars) -> None:
    message = RecordDict({"settings": settings(**as_settings(scalars))})
    assert read_scalars(MessageConfig(message)) == scalars


def test_a_client_with_few_held_out_utterances_tells_no_log_odds(tmp_path: Path) -> None:
    """18 utterances a speaker leave 4 held out: enough. 12 leave 2, and CALM falls back on the level."""
    enough = run_small(tmp_path / "enough", small_config(unlearning__method="calm"))
    config = small_config(unlearning__method="calm", corpus__utterances=12)
    few = run_small(tmp_path / "few", config)
    for results, read in ((enough, ["trained", "held_out", "share"]), (few, ["test_accuracy"])):
        assert results["status"] == "complete"
        assert {tuple(r["scalars_read"]) for r in results["requests"]} == {tuple(read)}
        assert all(not math.isnan(r["forget_accuracy"][1]) for r in results["requests"])
