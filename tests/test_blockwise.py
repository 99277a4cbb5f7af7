"""Arithmetic by blocks: the values by hand, and the same bits however it is divided."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.blockwise import add_weighted, moved, sum_of_squares

_LONG = (1 << 16) + 7
"""a block and a little"""


def drawn(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (_LONG,), (2, _LONG)])
def test_the_sum_of_squares(shape: tuple[int, ...]) -> None:
    values = torch.full(shape, 3.0)
    assert sum_of_squares(values) == 9.0 * values.numel()


def test_of_values_that_are_not_contiguous() -> None:
    values = torch.arange(6.0).reshape(2, 3).T
    assert sum_of_squares(values) == 55.0
    assert torch.equal(moved(values, torch.ones(3, 2), 2.0), values + 2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1 << 16, _LONG - 1])
def test_one_value_that_is_not_finite_shows_in_the_sum(bad: float, place: int) -> None:
    values = drawn(_LONG)
    values[place] = bad
    assert not math.isfinite(sum_of_squares(values))


def test_the_largest_float32_is_finite() -> None:
    assert math.isfinite(sum_of_squares(torch.full((_LONG,), torch.finfo(torch.float32).max)))


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 99)), min_size=1, max_size=6), st.data())
def test_parts_together_or_one_after_another(parts: list[tuple[float, int]], data: st.DataObject) -> None:
    weighted = [(weight, drawn(_LONG, seed)) for weight, seed in parts]
    cut = data.draw(st.integers(0, len(parts)))
    at_once, in_two = torch.zeros(_LONG, dtype=torch.float64), torch.zeros(_LONG, dtype=torch.float64)
    add_weighted(at_once, weighted)
    add_weighted(in_two, weighted[:cut])
    add_weighted(in_two, weighted[cut:])
    assert at_once.numpy().tobytes() == in_two.numpy().tobytes()
    exact = sum(weight * values.double() for weight, values in weighted)
    torch.testing.assert_close(at_once, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64])
def test_moved_is_computed_in_float64_and_stays_of_its_type(kind: torch.dtype) -> None:
    values, step = (10 * drawn(_LONG)).to(kind), drawn(_LONG, 1).double()
    assert torch.equal(moved(values, step, 0.5), (values.double() + 0.5 * step).to(kind))
    big = torch.tensor([2.0**24])  # float32 would lose the 1
    assert moved(big, torch.tensor([1.0]), 3.0).item() == 2.0**24 + 4.0, "rounded once, to the nearest even"


def test_nothing_is_changed() -> None:
    values, step = drawn(9), drawn(9, 1)
    before = values.clone(), step.clone()
    moved(values, step, 2.0)
    sum_of_squares(values)
    assert torch.equal(values, before[0]) and torch.equal(step, before[1])
