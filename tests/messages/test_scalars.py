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
from fedunlearn.messages.scalars import Sums, as_settings, compare_log_odds, read_scalars
from fedunlearn.server.clients import settings
from fedunlearn.unlearning.contract import LogOdds, ServerScalars, UnknownSpeakers


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


def sums_of(*values: float) -> Sums:
    return Sums.of(torch.tensor(values, dtype=torch.float64))


def test_unknown_speakers_by_hand() -> None:
    """Known: 1, 3 of one client and 1, 3 of another, mean 2 and deviation 1. Unknown: -1, 3, mean 1 and 2."""
    known = [sums_of(1.0, 3.0), sums_of(1.0, 3.0)]
    assert compare_log_odds(known, [sums_of(-1.0), sums_of(3.0)]) == UnknownSpeakers(drop=1.0, spread=2.0)
    assert compare_log_odds(known, [sums_of(2.0, 6.0)]) == UnknownSpeakers(drop=-2.0, spread=2.0)


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        ([], [sums_of(1.0, 2.0)]),
        ([sums_of(1.0, 2.0)], []),
        ([sums_of(1.0, 2.0), Sums()], [Sums(), Sums()]),  # clients with too few utterances
        ([sums_of(2.0, 2.0)], [sums_of(1.0, 2.0)]),
        ([sums_of(1.0, 2.0)], [sums_of(2.0, 2.0)]),
    ],
)
def test_without_two_spreads_nothing_is_known_of_unknown_speakers(
    known: list[Sums], unknown: list[Sums]
) -> None:
    assert compare_log_odds(known, unknown) is None


@given(
    st.lists(st.floats(-50, 50), min_size=4, max_size=9),
    st.lists(st.floats(-50, 50), min_size=4, max_size=9),
    st.floats(0.5, 4.0),
    st.floats(-20, 20),
)
def test_drop_and_spread_do_not_depend_on_the_scale_of_log_odds(
    known: list[float], unknown: list[float], scale: float, shift: float
) -> None:
    if min(np.std(known), np.std(unknown)) < 0.1:
        return
    one = compare_log_odds([sums_of(*known)], [sums_of(*unknown)])
    other = compare_log_odds(
        [sums_of(*(scale * v + shift for v in known))], [sums_of(*(scale * v + shift for v in unknown))]
    )
    assert one is not None and other is not None
    assert one.drop == pytest.approx((np.mean(known) - np.mean(unknown)) / np.std(known), abs=1e-6)
    assert (other.drop, other.spread) == pytest.approx((one.drop, one.spread), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "scalars",
    [
        ServerScalars(),
        ServerScalars(0.5, 0.25, LogOdds(-2.0, 1.5), LogOdds(-0.5, 3.0)),
        ServerScalars(unknown=UnknownSpeakers(0.45, 1.2)),
        ServerScalars(0.5, unknown=UnknownSpeakers(-1.5, 0.1)),  # unknown speakers recognised better
        ServerScalars(test_accuracy=0.0, held_out=LogOdds(0.0, 1.0)),
    ],
)
def test_scalars_come_back_as_they_went(scalars: ServerScalars) -> None:
    message = RecordDict({"settings": settings(**as_settings(scalars))})
    assert read_scalars(MessageConfig(message)) == scalars


@pytest.mark.slow
def test_a_client_with_few_held_out_utterances_tells_no_log_odds(tmp_path: Path) -> None:
    """18 utterances a speaker leave 4 held out: enough. 12 leave 2, and CALM falls back on the level.

    In six rounds a client joins late, so that it is known how unknown speakers are recognised.
    """
    config = small_config(unlearning__method="calm", training__rounds=6)
    enough = run_small(tmp_path / "enough", config)
    short = run_small(tmp_path / "short", small_config(unlearning__method="calm"))
    config = small_config(unlearning__method="calm", corpus__utterances=12)
    few = run_small(tmp_path / "few", config)
    log_odds = ["trained", "held_out"]
    for results, read in (
        (enough, [*log_odds, "share", "unknown", "left_out"]),
        (short, [*log_odds, "share", "left_out"]),
        (few, ["test_accuracy"]),
    ):
        assert results["status"] == "complete"
        assert {tuple(r["scalars_read"]) for r in results["requests"]} == {tuple(read)}
        assert all(not math.isnan(r["forget_accuracy"][1]) for r in results["requests"])
