"""The guard never touches an honest update: every method, on several corpora and models, of any size."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from honest_updates import METHOD_NAMES, WHOLE, Federation, Step
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_run import small_config
from tiny_encoders import tiny_encoder

from fedunlearn import config as configuration
from fedunlearn.config.unlearning import CalmSettings
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.update import Update
from fedunlearn.server.steps import StepRehearsals, distance_travelled

DIVERGING = {"gradient-ascent", "pga"}
"""Nothing stops these but a count of steps: some of their updates go further than half of learning did."""


def assert_untouched(federation: Federation, method: str, requests: dict[int, int]) -> None:
    step = Step(federation, method, requests)
    assert len(step.updates) == len(requests)
    far = distance_travelled(step.weights, federation.history) / 2
    if method in DIVERGING and any(update.norm > far for update in step.updates):
        return
    _, passed, done = step.take(step.updates)
    assert done == [] and all(kept is sent for kept, sent in zip(passed, step.updates, strict=True))


LEARNED: dict[str, Any] = {
    "corpus__utterances": 48,
    "training__rounds": 12,
    "training__local__steps": 15,
    "model__hidden": 32,
    "unlearning__calm__max_steps": CalmSettings().max_steps,
}
"""clients that hold out more than two utterances each, a model that has learned something, and each method as
it is by default
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("small"), small_config(**LEARNED)).learn(12)


FAST = ("calm", "l2ul", "gradient-ascent", "jit")
"""of all kinds: towards targets, away from a wrong label, without a bound, without labels"""
FAST_AND_SLOW = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHOD_NAMES
]


@pytest.mark.parametrize("size", [5, WHOLE])
@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_an_honest_update_passes_as_it_is(small: Federation, method: str, size: int) -> None:
    assert_untouched(small, method, {1: size})


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_honest_updates_pass_together(small: Federation, method: str) -> None:
    assert_untouched(small, method, {0: 8, 2: 8, 3: 8})


CORPORA: dict[str, dict[str, Any]] = {
    "generated": {},
    "ravdess": {"corpus.name": "ravdess"},
    "nemo": {"corpus.name": "nemo"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Callable[[str], Federation]:
    """A corpus -> its federation at the end of learning, made once."""
    made: dict[str, Federation] = {}

    def federation(corpus: str) -> Federation:
        if corpus not in made:
            chosen = {"seed": 1, "federation.engine": "inline", **CORPORA[corpus]}
            if corpus != "generated":
                if not (speech / corpus).is_dir():
                    pytest.skip(f"no real speech: {speech / corpus} is missing")
                chosen["corpus.path"] = str(speech / corpus)
            config = configuration.load(None, chosen)
            folder = tmp_path_factory.mktemp(corpus)
            made[corpus] = Federation(folder, config).learn(config.training.rounds)
        return made[corpus]

    return federation


@pytest.mark.parametrize("size", [5, 20, WHOLE])
@pytest.mark.parametrize("method", FAST_AND_SLOW)
@pytest.mark.parametrize(
    "corpus",
    [
        pytest.param("generated", marks=pytest.mark.slow),
        pytest.param("ravdess", marks=pytest.mark.corpus),
        pytest.param("nemo", marks=pytest.mark.corpus),
    ],
)
def test_an_honest_update_passes_on_every_corpus(
    trained: Callable[[str], Federation], corpus: str, method: str, size: int
) -> None:
    """Of each of four requesters alone, and of all of them together."""
    for client in range(4):
        assert_untouched(trained(corpus), method, {client: size})
    assert_untouched(trained(corpus), method, dict.fromkeys(range(3), size))


@pytest.mark.slow
@pytest.mark.parametrize("method", FAST_AND_SLOW)
@pytest.mark.parametrize("model", ["cnn", "encoder"])
def test_an_honest_update_passes_with_every_model(tmp_path: Path, model: str, method: str) -> None:
    name = model if model == "cnn" else str(tiny_encoder(tmp_path / "encoder"))
    federation = Federation(tmp_path, small_config(**LEARNED | {"model__name": name})).learn(6)
    for size in (8, WHOLE):
        assert_untouched(federation, method, {1: size})


def test_the_limits_do_not_vanish_as_training_converges(tmp_path: Path) -> None:
    """After rounds of next to no learning, what was an ordinary update is nothing."""
    federation = Federation(tmp_path, small_config(**LEARNED)).learn(12)
    before = federation.history.usual_norm(range(6))
    federation.learn(10, lr=1e-7)
    assert federation.history.usual_norm(range(6)) < 1e-3 * before
    for method in ("calm", "l2ul", "salun"):
        assert_untouched(federation, method, {1: 8})


# ---- malicious updates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [20.0, pytest.param(-20.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_a_multiple_of_an_honest_update_is_cut(small: Federation, method: str, factor: float) -> None:
    """What is left is no longer than twice the longest rehearsal or half the distance, whichever is more."""
    step = Step(small, method, {0: 8})
    (honest,) = step.updates
    forged = Update(0, honest.examples, {k: factor * v for k, v in honest.difference.items()})
    _, passed, done = step.take([forged])
    reach = max(r.norm for r in step.rehearse(8)), distance_travelled(small.weights, small.history) / 4
    assert done and all(update.norm <= 2 * max(reach) * (1 + 1e-5) for update in passed)


def test_a_random_direction_is_cut(small: Federation) -> None:
    step = Step(small, "calm", {1: 8})
    (honest,) = step.updates
    drawn = {name: torch.randn_like(value) for name, value in honest.difference.items()}
    moved = {n: v if n in small.history.trained else 0 * v for n, v in drawn.items()}
    forged = Update(1, honest.examples, moved)
    _, _, (done, *_) = step.take([forged])
    assert done.what == "clipped" and done.norm == forged.norm


# ---- who rehearses, and how often ------------------------------------------------------------------------


def test_a_rehearsal_is_the_same_each_time_and_changes_no_model(small: Federation) -> None:
    step = Step(small, "calm", {1: 20})
    before = {name: value.clone() for name, value in step.weights.items()}
    first, again = (step.rehearse(20) for _ in range(2))
    assert first == again and len(first) == 3
    assert all(torch.equal(before[name], value) for name, value in step.weights.items())
    assert len({each.norm for each in first}) == 3  # each its own speech


def test_who_has_requested_something_does_not_rehearse(small: Federation) -> None:
    assert len(Step(small, "calm", dict.fromkeys(range(4), 5)).rehearse(5)) == 2
    assert Step(small, "calm", dict.fromkeys(range(6), 5)).rehearse(5) == []


def test_no_more_rehearse_than_the_settings_say(small: Federation) -> None:
    guard = small.config.guard.model_copy(update={"rehearsals": 2})
    config = small.config.model_copy(update={"guard": guard})
    assert len(Step(small, "calm", {1: 5}, config).rehearse(5)) == 2


@hypothesis_settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_a_step_is_rehearsed_again_only_for_a_larger_request(sizes: list[int]) -> None:
    asked: list[int] = []

    def rehearse(size: int) -> list[Rehearsal]:
        asked.append(size)
        return [Rehearsal(float(size), 0.0, 0, 0, 0)]

    rehearsals = StepRehearsals(rehearse)
    for number, size in enumerate(sizes):
        (found,) = rehearsals(size)
        assert found.norm == max(sizes[: number + 1])
    assert asked == sorted(set(asked))


def test_who_has_learned_nothing_has_travelled_nowhere(small: Federation) -> None:
    assert distance_travelled(small.history.initial, small.history) == math.inf
    far = {n: v + 3.0 if n == "head.0.bias" else v for n, v in small.history.initial.items()}
    assert distance_travelled(far, small.history) == pytest.approx(3.0 * math.sqrt(32), rel=1e-6)
