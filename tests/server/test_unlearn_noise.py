"""Clipping and noise on the unlearn update, and what they are worth: values worked out elsewhere."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import run_small, small_config, weights_of

from fedunlearn.client.privacy import delta_of, epsilon_of, guarantee, privatize, redact
from fedunlearn.config.guard import PrivacySettings
from fedunlearn.errors import BadInput
from fedunlearn.unlearning.contract import UnlearnResult

UPDATE = {"w": torch.tensor([[3.0, 0.0]]), "norm.mean": torch.tensor([100.0]), "b": torch.tensor([4.0])}
TRAINED = ("w", "b")


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(5))


def test_off_is_the_update_itself() -> None:
    sent = privatize(UPDATE, TRAINED, PrivacySettings(), rng())
    assert list(sent) == list(UPDATE) and all(sent[k] is UPDATE[k] for k in UPDATE)


def test_clipping_shortens_the_trained_weights_alone() -> None:
    """They are (3, 0, 4), 5 long; constants count for nothing and stay."""
    sent = privatize(UPDATE, TRAINED, PrivacySettings(clip=2.5), rng())
    assert sent["w"].tolist() == [[1.5, 0.0]] and sent["b"].tolist() == [2.0]
    assert sent["norm.mean"] is UPDATE["norm.mean"]


def test_a_shorter_update_is_not_made_longer() -> None:
    sent = privatize(UPDATE, TRAINED, PrivacySettings(clip=5.0), rng())
    assert all(torch.equal(sent[k], UPDATE[k]) for k in UPDATE)


def test_noise_has_the_standard_deviation_that_is_claimed_around_the_clipped_update() -> None:
    """20,000 weights at 0.1 are 14.1 long, clipped to 2 at .01414 each; noise of 1.5 x 2 = 3.

    The mean's standard error is 3 / sqrt(20000) = .021, the deviation's .015: five of each are allowed.
    """
    update = {"w": torch.full((20_000,), 0.1), "norm.std": torch.ones(3)}
    sent = privatize(update, ("w",), PrivacySettings(clip=2.0, noise=1.5), rng())
    assert float(sent["w"].mean()) == pytest.approx(2 / math.sqrt(20_000), abs=0.106)
    assert float(sent["w"].std()) == pytest.approx(3.0, abs=0.075)
    assert sent["w"].dtype == torch.float32 and torch.equal(sent["norm.std"], torch.ones(3))
    # Gaussian: 4.55 % lie beyond two deviations.
    assert float((sent["w"].abs() > 6).double().mean()) == pytest.approx(0.0455, abs=0.0075)


def test_a_zero_update_gets_noise_all_the_same() -> None:
    """Whether anything was unlearned must not show."""
    sent = privatize({"w": torch.zeros(1000)}, ("w",), PrivacySettings(clip=1.0, noise=1.0), rng())
    assert float(sent["w"].std()) == pytest.approx(1.0, abs=0.12)


def test_noise_without_a_clip_is_refused() -> None:
    with pytest.raises(BadInput, match=r"privacy .*give a clip > 0"):
        small_config(privacy__noise=1.0)


def test_what_was_measured_on_the_forget_set_is_not_reported_beside_noise() -> None:
    result = UnlearnResult({}, 17, "level", (1.0, 0.4), 30, 0.9, ("test_accuracy",), {"moved": 2.0})
    assert redact(result, PrivacySettings(clip=1.0)) is result
    silent = redact(result, PrivacySettings(clip=1.0, noise=1.0))
    assert (silent.steps, silent.stopped, silent.adversarial) == (0, "not told", 0)
    assert all(math.isnan(v) for v in (*silent.forget_accuracy, silent.attack_success))
    assert silent.scalars_read == ("test_accuracy",) and not silent.notes


# ---- epsilon ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "ratio", "delta"),
    [
        (0.0, 1.0, 0.3829249225480262),  # 2 Phi(1/2) - 1
        (0.0, 0.2, 0.0796556745540579),  # 2 Phi(1/10) - 1
        (1.0, 1.0, 0.12693673750664397),  # Phi(-1/2) - e Phi(-3/2)
        (2.0, 2.0, 0.3318980),  # Phi(0) - e^2 Phi(-2) = .5 - 7.389056 x .0227501
    ],
)
def test_delta_of_the_gaussian_mechanism(epsilon: float, ratio: float, delta: float) -> None:
    assert delta_of(epsilon, ratio) == pytest.approx(delta, rel=1e-5)


def test_epsilon_against_the_published_calibration() -> None:
    """Epsilon 1 at delta 1e-5 takes noise of 3.7306 sensitivities; the classical bound asks for 4.8448."""
    assert epsilon_of(1 / 3.730631634816464, 1e-5) == pytest.approx(1.0, abs=1e-6)
    assert epsilon_of(1 / math.sqrt(2 * math.log(1.25e5)), 1e-5) < 1.0


def test_little_noise_is_worth_next_to_nothing_and_overflows_nowhere() -> None:
    """Phi(r/2 - e/r) = delta is a bound from above: e = r^2/2 + r z, z = 4.2649 at 1e-5; r = 400."""
    assert epsilon_of(400.0, 1e-5) == pytest.approx(80_000 + 400 * 4.2649, rel=1e-4)


def test_enough_noise_needs_no_epsilon() -> None:
    """2 Phi(r/2) - 1 <= delta at r = 1e-6: all of it is delta's."""
    assert epsilon_of(1e-6, 1e-5) == 0.0


@given(st.floats(0.01, 50), st.floats(1e-9, 0.5))
def test_epsilon_is_the_smallest_that_delta_allows(ratio: float, delta: float) -> None:
    epsilon = epsilon_of(ratio, delta)
    assert delta_of(epsilon, ratio) <= delta
    if epsilon > 1e-6:
        assert delta_of(epsilon * (1 - 1e-6), ratio) > delta * (1 - 1e-9)


def test_the_guarantee_takes_two_clips_for_its_sensitivity() -> None:
    """Two clipped updates may stand opposite each other: noise of 7.4613 clips is 3.7306 sensitivities."""
    worth = guarantee(PrivacySettings(clip=0.3, noise=2 * 3.730631634816464, delta=1e-5))
    assert worth.epsilon == pytest.approx(1.0, abs=1e-6) and worth.delta == 1e-5
    assert guarantee(PrivacySettings(clip=0.3)).epsilon == math.inf


# ---- whole runs ------------------------------------------------------------------------------------------


def test_a_clip_that_nothing_reaches_changes_no_bit(
    tmp_path: Path, inline_run: tuple[Path, dict[str, Any]]
) -> None:
    run_small(tmp_path / "wide", small_config(privacy__clip=1e9))
    assert weights_of(inline_run[0]) == weights_of(tmp_path / "wide")


@pytest.mark.slow
def test_noise_is_the_same_twice_and_another_with_another_seed(tmp_path: Path) -> None:
    noisy = small_config(privacy__clip=0.1, privacy__noise=0.01)
    first = run_small(tmp_path / "a", noisy, cache=tmp_path / "cache")
    run_small(tmp_path / "b", noisy, cache=tmp_path / "cache")
    run_small(tmp_path / "quiet", small_config(privacy__clip=0.1), cache=tmp_path / "cache")
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")
    unlearned = "unlearned.safetensors"
    assert weights_of(tmp_path / "a")[unlearned] != weights_of(tmp_path / "quiet")[unlearned]
    for request in first["requests"]:
        worth = pytest.approx(20_850, rel=0.01)
        assert request["noise"] == {"clip": 0.1, "multiplier": 0.01, "epsilon": worth, "delta": 1e-5}
        assert request["forget_accuracy"] == [None, None] and request["stopped"] == "not told"
