"""Named streams of randomness: independent, and the same everywhere."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.seeding import rng_for, stream_key, torch_rng_for

PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5)), max_size=4)


def test_streams_stay_what_they_were() -> None:
    """Values of the first release: results.json files and cached references depend on them."""
    assert stream_key(1, "client", 3, "round", 7) == 0x6AEE6010B401F0AAEDF64FA07ADAF651
    assert rng_for(1, "partition").integers(2**62, size=2).tolist() == [
        3544411421600862982,
        1476681433421486411,
    ]
    assert torch.randint(2**62, (2,), generator=torch_rng_for(1, "x")).tolist() == [
        334314954575330026,
        4317057322111326693,
    ]


@given(PARTS, PARTS)
def test_different_names_are_different_streams(a: list[int | str], b: list[int | str]) -> None:
    assert (stream_key(0, *a) == stream_key(0, *b)) == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [(("a", "b"), ("ab",)), ((1,), ("1",)), ((), ("",)), (("a", ""), ("a",)), ((1, 2), (12,)), ((1,), (-1,))],
)
def test_names_that_look_alike_are_different_streams(a: tuple[int | str], b: tuple[int | str]) -> None:
    assert stream_key(5, *a) != stream_key(5, *b)


def test_the_seed_is_part_of_the_name() -> None:
    assert len({stream_key(seed, "x") for seed in range(100)}) == 100


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    first = rng_for(3, "a").random(4)
    rng_for(3, "b").random(1000)
    np.random.default_rng(0).random()
    assert np.array_equal(rng_for(3, "a").random(4), first)
    noise = torch.rand(4, generator=torch_rng_for(3, "a"))
    torch.rand(100)
    assert torch.equal(torch.rand(4, generator=torch_rng_for(3, "a")), noise)


def test_numpy_and_torch_globals_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    rng_for(3, "a").random()
    torch.rand(3, generator=torch_rng_for(3, "a"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sibling_streams_are_uncorrelated() -> None:
    """100 streams of 200 uniform numbers; r of two independent ones has a standard error of 200 ** -.5 = .07.

    Of 4,950 pairs the greatest |r| is expected near .07 * sqrt(2 ln 4950) = .29; .4 is 5.6 standard errors.
    """
    draws = np.stack([rng_for(1, "client", client).random(200) for client in range(100)])
    r = np.corrcoef(draws) - np.eye(100)
    assert np.abs(r).max() < 0.4


def test_numpy_integers_and_text_name_the_same_streams_as_pythons() -> None:
    assert stream_key(np.int64(1), np.int32(3), np.str_("a")) == stream_key(1, 3, "a")


@pytest.mark.parametrize("part", [0.5, None, b"a", ("a",)])
def test_other_parts_of_a_name_are_refused(part: object) -> None:
    with pytest.raises(TypeError, match="whole numbers and text"):
        stream_key(1, part)  # type: ignore[arg-type]


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    script = "from fedunlearn.seeding import *; print(stream_key(1, 'é', 2), rng_for(1, 'é', 2).random())"
    here = f"{stream_key(1, 'é', 2)} {rng_for(1, 'é', 2).random()}"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    there = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
