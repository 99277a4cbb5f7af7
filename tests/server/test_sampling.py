"""Asking some clients instead of all: who, how many, and that everything still agrees with the rest."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_run import assert_replayed, prepared, run_small, small_config, weights_of

from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.server.steps import sample_clients


@given(st.sets(st.integers(0, 50)), st.integers(0, 60), st.integers(0, 9))
def test_so_many_of_them_in_order(clients: set[int], count: int, timeline_round: int) -> None:
    drawn = sample_clients(clients, count, 1, "recover", timeline_round)
    assert set(drawn) <= clients and list(drawn) == sorted(set(drawn))
    assert len(drawn) == (min(count, len(clients)) if count else len(clients))
    assert drawn == sample_clients(sorted(clients, reverse=True), count, 1, "recover", timeline_round)


def test_others_in_each_round_and_each_as_often() -> None:
    drawn = [sample_clients(range(10), 3, 1, "recover", timeline_round) for timeline_round in range(1000)]
    assert len(set(drawn)) > 100
    counts = [sum(c in those for those in drawn) for c in range(10)]
    assert min(counts) > 240 and max(counts) < 360, counts


def test_one_client_alone_recovers_nobody() -> None:
    with pytest.raises(BadInput, match=r"recovery clients must be 0 or at least 2 \(got 1\)"):
        small_config(recovery__clients=1)


def test_what_few_receive_and_send_costs_less(tmp_path: Path, inline_run: tuple[Path, Any]) -> None:
    """Six clients, one recovery round after each of two steps: two train in it, two evaluate."""
    few = small_config(recovery__clients=2, unlearning__asked=2)
    all_, some = inline_run[1], run_small(tmp_path / "some", few)
    assert some["status"] == "complete" and weights_of(tmp_path / "some") != weights_of(inline_run[0])
    whole, part = all_["cost"]["recover"], some["cost"]["recover"]
    # After the first step five are left of six.
    assert part["bytes_up"] / whole["bytes_up"] == pytest.approx(4 / 10, abs=0.01)
    assert some["cost"]["unlearn"]["bytes_down"] < 0.7 * all_["cost"]["unlearn"]["bytes_down"]


def test_shadow_federations_draw_the_same_clients(tmp_path: Path) -> None:
    """The loop that shadows are made of gives the run's own weights, bit for bit."""
    experiment = prepared(tmp_path / "run", small_config(recovery__clients=2, unlearning__asked=2))
    assert play(experiment).status == "complete"
    assert_replayed(experiment)
