"""Updates become the next model: means and optimisers by hand, and the same bits in any order of arrival."""

import random
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.blockwise import difference
from fedunlearn.config import TrainingSettings
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import ServerOptimizer, aggregate_unlearning, step, weighted_mean

FLOAT32 = st.floats(-1e4, 1e4, width=32)


def update(client: int, examples: int, *values: float) -> Update:
    return Update(client, examples, {"w": torch.tensor(values, dtype=torch.float32)})


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in state.items()}


@st.composite
def updates(draw: st.DrawFn, least: int = 1) -> list[Update]:
    clients = draw(st.lists(st.integers(0, 500), min_size=least, max_size=12, unique=True))
    return [
        update(c, draw(st.integers(1, 200)), *draw(st.lists(FLOAT32, min_size=3, max_size=3)))
        for c in clients
    ]


# ---- means -----------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_by_examples() -> None:
    """(1 * 10 + 3 * 30) / 40 = 2.5; (-2 * 10 + 2 * 30) / 40 = 1."""
    mean = weighted_mean([update(0, 10, 1.0, -2.0), update(1, 30, 3.0, 2.0)])
    assert mean["w"].tolist() == [2.5, 1.0] and mean["w"].dtype == torch.float64


def test_a_total_counts_the_silent_clients_as_unchanged() -> None:
    """Of 80 examples 40 stand behind the updates: half of the mean above."""
    mean = weighted_mean([update(0, 10, 1.0, -2.0), update(1, 30, 3.0, 2.0)], total=80)
    assert mean["w"].tolist() == [1.25, 0.5]


def test_the_mean_is_taken_in_float64() -> None:
    """In float32 2**24 + 1 is 2**24, so the small update would be lost."""
    mean = weighted_mean([update(0, 1, 2.0**24), update(1, 1, 1.0), update(2, 1, -(2.0**24))])
    assert mean["w"].item() == pytest.approx(1 / 3)


@given(updates(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(arrived: list[Update], chance: random.Random) -> None:
    shuffled = list(arrived)
    chance.shuffle(shuffled)
    assert bits(weighted_mean(shuffled)) == bits(weighted_mean(arrived))
    others = [{"w": torch.tensor([1.0, -2.0, 0.5])}, {"w": torch.tensor([0.0, 1.0, 1.0])}]
    for how in ("sum", "mean", "fedavg", "projected", "norm-clipped"):
        joined = [aggregate_unlearning(those, how, 10_000, others, 5.0) for those in (shuffled, arrived)]
        assert bits(joined[0]) == bits(joined[1])


@given(updates())
def test_the_mean_lies_between_the_updates(arrived: list[Update]) -> None:
    stacked = torch.stack([u.difference["w"].double() for u in arrived])
    mean = weighted_mean(arrived)["w"]
    slack = 1e-9 * (1.0 + stacked.abs().max())
    assert bool(
        (mean >= stacked.min(0).values - slack).all() and (mean <= stacked.max(0).values + slack).all()
    )


@given(updates(), st.integers(1, 50))
def test_clients_with_one_update_in_common_give_that_update(arrived: list[Update], examples: int) -> None:
    same = [Update(u.client, examples + u.client, arrived[0].difference) for u in arrived]
    assert weighted_mean(same)["w"].tolist() == pytest.approx(arrived[0].difference["w"].tolist())


def test_the_norm_is_over_all_tensors() -> None:
    assert Update(0, 1, {"a": torch.tensor([[3.0]]), "b": torch.tensor([4.0, 0.0])}).norm == 5.0


# ---- unlearning ------------------------------------------------------------------------------------------


def test_requesters_join_by_hand() -> None:
    """Updates 4 (of 1 utterance) and 8 (of 3), 40 utterances in all: sum 12, mean 6, FedAvg 4/40 + 24/40."""
    arrived = [update(0, 1, 4.0), update(5, 3, 8.0)]
    values = {how: aggregate_unlearning(arrived, how, 40)["w"].item() for how in ("sum", "mean", "fedavg")}
    assert values == {"sum": 12.0, "mean": 6.0, "fedavg": pytest.approx(0.7)}


@given(updates())
def test_of_one_requester_sum_and_mean_and_one_after_another_are_its_update(arrived: list[Update]) -> None:
    one = arrived[:1]
    for how in ("sum", "mean", "sequential"):
        assert torch.equal(aggregate_unlearning(one, how, 999)["w"], one[0].difference["w"].double())


@given(updates())
def test_the_mean_of_the_requesters_counts_each_alike(arrived: list[Update]) -> None:
    alike = [Update(u.client, 1, u.difference) for u in arrived]
    joined = aggregate_unlearning(arrived, "mean", 999)
    assert joined["w"].tolist() == pytest.approx(weighted_mean(alike)["w"].tolist(), abs=1e-8)


def test_projected_by_hand() -> None:
    """The sum (1, -3) against (0, 2): its second part goes; against (0, -2) it stays. Alone it is the sum."""
    arrived = [update(0, 1, 1.0, 0.0), update(1, 1, 0.0, -3.0)]
    against, along = ({"w": torch.tensor([0.0, y])} for y in (2.0, -2.0))
    assert aggregate_unlearning(arrived, "projected", 9, [against])["w"].tolist() == [1.0, 0.0]
    assert aggregate_unlearning(arrived, "projected", 9, [along])["w"].tolist() == [1.0, -3.0]
    assert aggregate_unlearning(arrived, "projected", 9)["w"].tolist() == [1.0, -3.0]


@given(updates())
def test_projected_without_conflict_is_the_sum(arrived: list[Update]) -> None:
    summed = aggregate_unlearning(arrived, "sum", 9)
    assert bits(aggregate_unlearning(arrived, "projected", 9, [summed, summed])) == bits(summed)


def test_norm_clipped_by_hand() -> None:
    """Norms 5 and 1, at most 2.5: the first is halved, the second stays: (1.5 + 1, 2)."""
    arrived = [update(3, 1, 3.0, 4.0), update(1, 50, 1.0, 0.0)]
    assert aggregate_unlearning(arrived, "norm-clipped", 99, longest=2.5)["w"].tolist() == [2.5, 2.0]


@given(updates(), st.floats(1e-3, 1e4))
def test_norm_clipped_is_no_longer_than_it_may_be_and_loosely_the_sum(
    arrived: list[Update], longest: float
) -> None:
    for one in arrived:
        clipped = aggregate_unlearning([one], "norm-clipped", 9, longest=longest)["w"]
        assert float(clipped.norm()) <= longest * (1 + 1e-12)
        assert float(clipped.norm()) >= min(longest, one.norm) * (1 - 1e-12)
    loose = max(u.norm for u in arrived)
    summed = bits(aggregate_unlearning(arrived, "sum", 9))
    assert bits(aggregate_unlearning(arrived, "norm-clipped", 9, longest=loose)) == summed
    assert bits(aggregate_unlearning(arrived, "norm-clipped", 9)) == summed


# ---- steps -----------------------------------------------------------------------------------------------

STATE = {"w": torch.tensor([0.1, -3.0, 1e-30, 7e20]), "d": torch.tensor([0.1], dtype=torch.float64)}


def test_a_step_keeps_types_and_leaves_the_old_state_alone() -> None:
    before = bits(STATE)
    after = step(STATE, {"w": torch.ones(4), "d": torch.ones(1)}, 0.5)
    assert {k: v.dtype for k, v in after.items()} == {"w": torch.float32, "d": torch.float64}
    assert after["d"].item() == 0.6 and after["w"][1].item() == -2.5
    assert bits(STATE) == before


@pytest.mark.parametrize("kind", ["average", "momentum", "adam"])
def test_zero_differences_leave_the_model_as_it_was_bit_for_bit(kind: str) -> None:
    optimizer = ServerOptimizer(TrainingSettings(server_optimizer=kind))  # type: ignore[arg-type]
    zero = weighted_mean([Update(c, 3, {k: torch.zeros_like(v) for k, v in STATE.items()}) for c in range(3)])
    state = optimizer.apply(optimizer.apply(STATE, zero), zero)
    assert bits(state) == bits(STATE)
    forgot_nothing = aggregate_unlearning([Update(0, 1, difference(STATE, STATE))], "sum", 9)
    assert bits(step(STATE, forgot_nothing)) == bits(STATE)


@given(st.lists(st.tuples(FLOAT32, FLOAT32), min_size=1, max_size=8))
def test_a_difference_and_a_step_lead_to_the_new_model(pairs: list[tuple[float, float]]) -> None:
    """``new - old`` is rounded to float32, so old + (new - old) may miss new by an ulp of the larger."""
    old, new = ({"w": torch.tensor([p[i] for p in pairs])} for i in (0, 1))
    arrived = step(old, difference(new, old))["w"]
    scale = torch.maximum(old["w"].abs(), new["w"].abs())
    assert bool(((arrived - new["w"]).abs() <= 2.0**-22 * scale + 1e-40).all())


def after_two_steps(settings: TrainingSettings, first: float, second: float) -> tuple[float, float]:
    """A scalar model from 0, in float64."""
    optimizer, state = ServerOptimizer(settings), {"w": torch.zeros(1, dtype=torch.float64)}
    values = []
    for d in (first, second):
        state = optimizer.apply(state, {"w": torch.tensor([d], dtype=torch.float64)})
        values.append(state["w"].item())
    return values[0], values[1]


def test_plain_averaging_adds_the_mean() -> None:
    assert after_two_steps(TrainingSettings(), 1.0, -0.25) == (1.0, 0.75)
    assert after_two_steps(TrainingSettings(server_lr=0.5), 1.0, -0.25) == (0.5, 0.375)


def test_momentum_by_hand() -> None:
    """beta .5, lr 2: m = 1, then .5 * 1 + 3 = 3.5; theta = 2, then 2 + 7 = 9."""
    settings = TrainingSettings(server_optimizer="momentum", server_momentum=0.5, server_lr=2.0)
    assert after_two_steps(settings, 1.0, 3.0) == (2.0, 9.0)


def test_adam_by_hand() -> None:
    """beta_1 .9, beta_2 .99, tau 1e-3, lr .1, d = 1 then -1.

    m = .1, v = .01: theta = .1 * .1 / (.1 + .001). Then m = .09 - .1 = -.01, v = .0099 + .01 = .0199:
    theta += .1 * -.01 / (sqrt(.0199) + .001).
    """
    settings = TrainingSettings(server_optimizer="adam", server_momentum=0.9, server_lr=0.1)
    first = 0.01 / 0.101
    second = first - 0.001 / (0.0199**0.5 + 0.001)
    assert after_two_steps(settings, 1.0, -1.0) == pytest.approx((first, second))


def test_momentum_without_memory_is_plain_averaging() -> None:
    plain = after_two_steps(TrainingSettings(server_lr=0.3), 0.7, -0.1)
    forgetful = TrainingSettings(server_optimizer="momentum", server_momentum=0.0, server_lr=0.3)
    assert after_two_steps(forgetful, 0.7, -0.1) == pytest.approx(plain)


def test_optimisers_share_no_memory() -> None:
    one, other = (ServerOptimizer(TrainingSettings(server_optimizer="momentum")) for _ in range(2))
    one.apply({"w": torch.zeros(1)}, {"w": torch.ones(1)})
    assert one.moments and not other.moments


def test_bits_tells_zero_from_minus_zero() -> None:
    """The tests above compare bits, which is more than equality."""
    minus, plus = bits({"w": torch.tensor([-0.0])}), bits({"w": torch.zeros(1)})
    assert struct.pack("<f", -0.0) == minus["w"] != plus["w"]
