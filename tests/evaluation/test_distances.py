"""Distances to a retrained model, against values derived by hand."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance
from torch.nn.functional import kl_div

from fedunlearn.evaluation.distances import jensen_shannon, kolmogorov_smirnov, tug_of_war, wasserstein
from fedunlearn.results_schema import ModelScores

EMPTY = np.array([], np.float64)
INFINITE = np.array([0.0, np.inf])


def record(forget: float | None, retain: float | None, test: float | None) -> ModelScores:
    values = {"forget": forget, "retain": retain, "test": test}
    known = {name: {"accuracy": value, "n": 10} for name, value in values.items()}
    return ModelScores.model_validate(known)


# ---- accuracies ------------------------------------------------------------------------------------------


def test_tug_of_war_by_hand() -> None:
    """(1 - 0.5)(1 - 0.1)(1 - 0.2) = 0.36, whichever is the larger."""
    a, b = record(1.0, 0.9, 0.4), record(0.5, 1.0, 0.6)
    assert tug_of_war(a, b) == pytest.approx(0.36)
    assert tug_of_war(b, a) == pytest.approx(0.36)
    assert tug_of_war(a, a) == 1.0
    assert tug_of_war(record(1.0, 0.9, 0.4), record(0.0, 0.9, 0.4)) == 0.0
    assert tug_of_war(record(None, 0.9, 0.4), b) is None
    assert tug_of_war(a, record(0.5, 1.0, None)) is None


# ---- losses ----------------------------------------------------------------------------------------------


def test_distances_of_losses_by_hand() -> None:
    """{0, 1} against {0, 3}: the distribution functions differ by 1/2 from 1 to 3, an area of 1."""
    a, b = np.array([0.0, 1.0]), np.array([3.0, 0.0])
    assert kolmogorov_smirnov(a, b) == pytest.approx(0.5)
    assert wasserstein(a, b) == pytest.approx(1.0)
    # Of different sizes: {0} against {0, 2, 4} differs by 2/3 and 1/3 for 2 each.
    assert wasserstein(np.array([0.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(2.0)
    assert kolmogorov_smirnov(np.array([0.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(2 / 3)


def test_a_shift_moves_the_wasserstein_distance_and_any_full_shift_is_one_to_kolmogorov() -> None:
    losses = np.linspace(0.0, 1.0, 50)
    for shift in (2.0, 20.0):
        assert wasserstein(losses, losses + shift) == pytest.approx(shift)
        assert kolmogorov_smirnov(losses, losses + shift) == 1.0


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 8), st.integers(0, 999))
def test_distances_of_losses_are_those_of_scipy(n: int, m: int, digits: int, seed: int) -> None:
    """To the last bit, with ties (few digits) and without."""
    rng = np.random.default_rng(seed)
    a, b = (np.round(rng.exponential(1.0, size), digits) for size in (n, m))
    with np.errstate(divide="ignore", invalid="ignore"):  # of the p-value
        assert kolmogorov_smirnov(a, b) == ks_2samp(a, b, method="asymp").statistic
    assert wasserstein(a, b) == wasserstein_distance(a, b)


def test_losses_that_are_infinite_missing_or_no_numbers() -> None:
    finite = np.array([0.0, 1.0])
    for measure in (kolmogorov_smirnov, wasserstein):
        assert measure(EMPTY, finite) is None and measure(finite, EMPTY) is None
        with pytest.raises(ValueError, match="NaN"):
            measure(finite, np.array([np.nan]))
    # {0, 1} against {0, inf}: by order alone, the functions differ by a half.
    assert kolmogorov_smirnov(finite, INFINITE) == pytest.approx(0.5)
    assert kolmogorov_smirnov(INFINITE, INFINITE) == 0.0
    assert wasserstein(finite, INFINITE) is None and wasserstein(INFINITE, INFINITE) is None
    one = np.array([2.0])
    assert (kolmogorov_smirnov(one, one), wasserstein(one, one)) == (0.0, 0.0)
    assert kolmogorov_smirnov(np.full(9, 0.5), np.full(4, 0.5)) == 0.0


LOSSES = arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 20))


@given(LOSSES, LOSSES)
def test_distances_of_losses_are_symmetric_and_nought_to_themselves(a: np.ndarray, b: np.ndarray) -> None:
    for measure in (kolmogorov_smirnov, wasserstein):
        assert measure(a, b) == pytest.approx(measure(b, a), abs=1e-9)
        assert measure(a, a) == pytest.approx(0.0, abs=1e-12)
    largest = kolmogorov_smirnov(a, b)
    assert largest is not None and 0.0 <= largest <= 1.0


# ---- outputs ---------------------------------------------------------------------------------------------


def test_jensen_shannon_by_hand() -> None:
    """p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): 0.5 ln(4/3) + 0.5 (0.5 ln(2/3) + 0.5 ln 2) = 0.2158."""
    p, q = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    by_hand = 0.5 * log(4 / 3) + 0.5 * (0.5 * log(2 / 3) + 0.5 * log(2))
    assert jensen_shannon(p, q) == pytest.approx(by_hand)
    # The mean is over utterances: a second one, alike, halves it.
    assert jensen_shannon(np.vstack([p, p]), np.vstack([q, p])) == pytest.approx(by_hand / 2)


def test_jensen_shannon_of_the_same_is_nought_and_of_opposites_ln_2() -> None:
    one_hot = np.eye(3)
    assert jensen_shannon(one_hot, one_hot) == 0.0
    assert jensen_shannon(one_hot, np.roll(one_hot, 1, 1)) == pytest.approx(log(2))


def test_jensen_shannon_is_neither_the_square_root_nor_a_mean_over_classes() -> None:
    """The traps: SciPy's function is the root; torch's default reduction divides by the classes as well."""
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(8), 20), rng.dirichlet(np.ones(8), 20)
    ours = jensen_shannon(p, q)
    assert ours == pytest.approx(np.mean(jensenshannon(p, q, axis=1) ** 2))
    m = torch.from_numpy(0.5 * (p + q)).log()
    halves = [torch.from_numpy(x) for x in (p, q)]
    torchs = [float(kl_div(m, x, reduction="batchmean")) for x in halves]
    assert ours == pytest.approx(sum(torchs) / 2)
    trapped = [float((x * (x.log() - m)).mean()) for x in halves]
    assert ours == pytest.approx(8 * sum(trapped) / 2)


@given(st.integers(1, 5), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_jensen_shannon_lies_between_nought_and_ln_2(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.full(classes, 0.05), n) for _ in range(2))
    there, back = jensen_shannon(p, q), jensen_shannon(q, p)
    assert there is not None and 0.0 <= there <= log(2)
    assert there == pytest.approx(back)


def test_outputs_that_are_no_distributions_are_refused() -> None:
    good = np.full((2, 4), 0.25)
    assert jensen_shannon(np.zeros((0, 4)), np.zeros((0, 4))) is None
    for bad in (good * 2, np.full((2, 4), np.nan), good + np.array([0.5, -0.5, 0, 0])):
        with pytest.raises(ValueError, match="not a distribution"):
            jensen_shannon(bad, good)
    with pytest.raises(ValueError, match="shapes"):
        jensen_shannon(good, good[:1])
