"""The nearest step against nobody: by hand in the plane, then all that defines a projection on a cone."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

from fedunlearn.server.aggregation import without_conflict, without_directions

Vector = tuple[float, ...]
VALUE = st.floats(-10, 10, width=16).map(lambda x: round(x, 2))


def state(values: Vector) -> dict[str, Tensor]:
    """Two tensors of different shapes: all but the first value, and the first."""
    vector = torch.tensor(values, dtype=torch.float64)
    return {"w": vector[1:, None], "b": vector[:1]}


def flat(projected: dict[str, Tensor]) -> Tensor:
    return torch.cat([projected["b"], projected["w"][:, 0]])


def nearest(update: Vector, *others: Vector) -> Tensor:
    return flat(without_conflict(state(update), [state(g) for g in others]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Vector, list[Vector]]:
    size = draw(st.integers(1, 6))
    vector = st.tuples(*[VALUE] * size)
    others = draw(st.lists(vector, max_size=8))
    if others and draw(st.booleans()):  # one twice, and its opposite
        others += [others[0], tuple(-x for x in others[0])]
    return draw(vector), others


# ---- by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "others", "expected"),
    [
        ((1.0, -1.0), [(0.0, 1.0)], (1.0, 0.0)),  # against it: the part along it goes
        ((1.0, 1.0), [(0.0, 1.0)], (1.0, 1.0)),  # with it: stays, though not orthogonal
        ((1.0, -1.0), [(0.0, -1.0)], (1.0, -1.0)),
        ((1.0, -3.0), [(2.0, 2.0)], (2.0, -2.0)),  # product -4, less (1, 1) * -4 / 4
        ((3.0, 4.0), [(1.0, 0.0), (-1.0, 0.0)], (0.0, 4.0)),  # two opposites: orthogonal
        ((-1.0, -1.0), [(1.0, 0.0), (0.0, 1.0)], (0.0, 0.0)),  # nothing is left
        # Against both, but without the first conflict there is no second: (1, 0) + (1, 1) > 0.
        ((1.0, -2.0), [(0.0, 1.0), (1.0, 1.0)], (1.0, 0.0)),
        # x <= 0 and y >= x: the corner, (2, -1) + 1 (-1, 0) + 1 (-1, 1); one after the other it would be
        # (0, -1) and then (-.5, -.5), which lies farther off.
        ((2.0, -1.0), [(-1.0, 0.0), (-1.0, 1.0)], (0.0, 0.0)),
    ],
)
def test_in_the_plane_by_hand(update: Vector, others: list[Vector], expected: Vector) -> None:
    assert nearest(update, *others).tolist() == pytest.approx(expected, abs=1e-12)


def test_all_tensors_count_as_one_vector() -> None:
    """Tensor by tensor, b = 1 and w = -1 against ones would give 1 and 0; as one vector the product is 0."""
    assert nearest((1.0, -1.0), (1.0, 1.0)).tolist() == [1.0, -1.0]
    assert nearest((1.0, -2.0), (1.0, 1.0)).tolist() == pytest.approx([1.5, -1.5])


def test_a_tensor_that_the_others_lack_stays_and_the_form_is_kept() -> None:
    update = {"norm": torch.tensor([5.0]), "w": torch.tensor([[1.0, -1.0]])}
    projected = without_conflict(update, [{"w": torch.tensor([[0.0, 2.0]])}])
    assert list(projected) == ["norm", "w"] and projected["w"].shape == (1, 2)
    assert projected["norm"].item() == 5.0 and projected["w"].tolist() == [[1.0, 0.0]]
    assert {v.dtype for v in projected.values()} == {torch.float64}


def test_the_order_of_the_tensors_changes_no_bit() -> None:
    """States out of a file come in another order than those of a model."""
    generator = torch.Generator().manual_seed(3)
    u, g, h = ({n: torch.randn(500, generator=generator) for n in "abc"} for _ in range(3))
    g = {n: g[n] - u[n] for n in u}
    turned = [dict(reversed(s.items())) for s in (u, g, h)]
    one, other = without_conflict(u, [g, h]), without_conflict(turned[0], [turned[1], h])
    assert not torch.equal(one["a"], u["a"].double())
    assert all(torch.equal(one[name], other[name]) for name in u)


def test_a_rounding_error_is_no_conflict() -> None:
    """The projection onto a plane lies on it but for the last bit: doing it again must not start to solve."""
    rays = [(-3.9, 0.0, 0.0, 1.0, -3.25), (5.0, 1.0, 0.0, 1.0, 0.0)]
    once = nearest((0.0, 0.0, 0.0, 0.0, 1.0), *rays, rays[0], tuple(-x for x in rays[0]))
    again = nearest(tuple(once.tolist()), *rays, rays[0], tuple(-x for x in rays[0]))
    assert again.tolist() == once.tolist()


# ---- what defines it -------------------------------------------------------------------------------------


@given(problems())
def test_it_works_against_none(problem: tuple[Vector, list[Vector]]) -> None:
    update, others = problem
    d = nearest(update, *others)
    for g in others:
        assert float(d @ torch.tensor(g, dtype=torch.float64)) >= -1e-9


@given(problems())
def test_it_differs_by_no_more_than_the_conflicts_ask(problem: tuple[Vector, list[Vector]]) -> None:
    """Karush, Kuhn and Tucker: d - u is a sum of the others with shares >= 0, and orthogonal to d."""
    update, others = problem
    assume(others)
    u, columns = torch.tensor(update, dtype=torch.float64), torch.tensor(others, dtype=torch.float64).T
    d = nearest(update, *others)
    assert abs(float(d @ (d - u))) <= 1e-9
    _, left = nnls(columns.numpy(), (d - u).numpy())
    assert left <= 1e-6


@given(problems())
def test_without_conflict_it_is_the_update_bit_for_bit_and_doing_it_again_changes_nothing(
    problem: tuple[Vector, list[Vector]],
) -> None:
    update, others = problem
    u = torch.tensor(update, dtype=torch.float64)
    with_it = [g for g in others if float(u @ torch.tensor(g, dtype=torch.float64)) >= 1e-9]
    assert nearest(update, *with_it).tolist() == u.tolist()
    once = nearest(update, *others)
    again = nearest(tuple(once.tolist()), *others)
    assert again.tolist() == pytest.approx(once.tolist(), abs=1e-9)


@given(problems(), st.floats(0.01, 100))
def test_the_others_lengths_and_order_do_not_matter(
    problem: tuple[Vector, list[Vector]], scale: float
) -> None:
    update, others = problem
    d = nearest(update, *others)
    longer = [tuple(scale * x for x in g) for g in reversed(others)]
    assert nearest(update, *longer).tolist() == pytest.approx(d.tolist(), abs=1e-9)
    zero = tuple(0.0 for _ in update)
    assert nearest(update, *others, zero).tolist() == d.tolist()


def test_a_whole_model_and_twenty_clients_take_little_time() -> None:
    """93 k values, twenty directions, all in conflict; and it is the same bits twice."""
    generator = torch.Generator().manual_seed(1)
    others = [{"w": torch.randn(93_000, generator=generator)} for _ in range(20)]
    update = {"w": -torch.stack([g["w"] for g in others]).mean(0) + 0.1 * others[3]["w"]}
    d = without_conflict(update, others)["w"]
    products = torch.stack([g["w"] for g in others]).double() @ d
    assert float(products.min()) >= -1e-6 * float(d.norm()) * 305
    assert torch.equal(d, without_conflict(update, others)["w"])


# ---- FedOSD's: orthogonal, and as long as before ---------------------------------------------------------


def across(update: Vector, *others: Vector) -> Tensor:
    return flat(without_directions(state(update), [state(g) for g in others]))


@pytest.mark.parametrize(
    ("update", "others", "expected"),
    [
        ((3.0, 4.0), [], (3.0, 4.0)),
        ((3.0, 4.0), [(0.0, 0.0)], (3.0, 4.0)),
        ((3.0, 4.0), [(2.0, 0.0)], (0.0, 5.0)),  # (0, 4), at length 5
        ((3.0, 4.0), [(-2.0, 0.0)], (0.0, 5.0)),  # also what would have helped
        ((1.0, 0.0), [(1.0, 1.0)], (0.5**0.5, -(0.5**0.5))),
        ((3.0, 4.0), [(6.0, 8.0)], (0.0, 0.0)),
        ((3.0, 4.0), [(1.0, 0.0), (0.0, 1.0)], (0.0, 0.0)),
        ((1.0, 2.0, 2.0), [(0.0, 0.0, 1.0), (0.0, 0.0, 7.0)], (3 / 5**0.5, 6 / 5**0.5, 0.0)),
    ],
)
def test_across_by_hand(update: Vector, others: list[Vector], expected: Vector) -> None:
    assert across(update, *others).tolist() == pytest.approx(expected, abs=1e-9)


@given(problems())
def test_what_is_left_is_orthogonal_and_as_long_or_nothing(
    problem: tuple[Vector, list[Vector]],
) -> None:
    update, others = problem
    d, length = across(update, *others), math.hypot(*update)
    assert float(d.norm()) == pytest.approx(length, rel=1e-6) or float(d.norm()) == 0.0
    for g in others:
        assert abs(float(d @ torch.tensor(g, dtype=torch.float64))) <= 1e-5 * length * math.hypot(*g)
