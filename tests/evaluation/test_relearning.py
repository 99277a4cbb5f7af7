"""Relearn time: by hand, at its edges, and beside a model that never knew the forget set."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import prepared, small_config
from tiny_model import TinyModel, forget_set, separable, tiny

from fedunlearn.config import LocalSettings
from fedunlearn.engines.engine import play
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.examples import Examples
from fedunlearn.experiment.references import untrained_weights
from fedunlearn.results_schema import RelearnTime
from fedunlearn.seeding import rng_for


def orders(count: int = 5) -> list[np.random.Generator]:
    return [rng_for(1, "relearn", number) for number in range(count)]


def measured(model: TinyModel, examples: Examples, **more: Any) -> RelearnTime | None:
    given: dict[str, Any] = {"target": 1.0, "settings": LocalSettings(), "limit": 50, "rngs": orders()} | more
    return relearn(
        model, model.state_dict(), examples, given["target"], given["settings"], given["limit"], given["rngs"]
    )


def by_hand() -> tuple[TinyModel, Examples]:
    """One example x = 1 of class 0; two classes with weights -a and a, a = 0.5, no bias to begin with.

    p_0 = 1 / (1 + e^(z_1 - z_0)). A step of plain SGD moves both the weight and the bias of class 0 by
    lr * (1 - p_0) and those of class 1 by as much the other way: z_0 - z_1 grows by 4 lr (1 - p_0).
    """
    return TinyModel(torch.tensor([[-0.5], [0.5]])), forget_set([torch.ones(1, 1)], [0]).examples


def test_a_case_by_hand() -> None:
    """z_0 - z_1 = -1: 1 - p_0 = .731; with lr .2 it goes to -.415, then to +.067: two steps."""
    model, examples = by_hand()
    settings = LocalSettings(lr=0.2, momentum=0.0)
    found = measured(model, examples, settings=settings)
    assert found and found.to_json() == {
        "steps": 2.0,
        "low": 2,
        "high": 2,
        "reached": True,
        "target": 1.0,
        "limit": 50,
    }


def test_steps_gather_no_momentum() -> None:
    """lr .1: -1, -.708, -.440, -.196, +.024: four. With momentum .9 it would be three."""
    model, examples = by_hand()
    for momentum in (0.0, 0.9):
        found = measured(model, examples, settings=LocalSettings(lr=0.1, momentum=momentum))
        assert found and found.steps == 4.0


def test_what_is_known_takes_no_step_and_what_is_lost_takes_some() -> None:
    model, known = separable()
    there = measured(model, known.examples)
    assert there and (there.steps, there.low, there.high, there.reached) == (0.0, 0, 0, True)
    lost = measured(tiny(dims=4), known.examples, settings=LocalSettings(lr=0.5), limit=200)
    assert lost and 0 < lost.low <= lost.steps <= lost.high and lost.reached


def test_not_within_the_limit_is_reported() -> None:
    model, examples = by_hand()
    slow = measured(model, examples, settings=LocalSettings(lr=1e-6), limit=3)
    assert slow and (slow.steps, slow.reached, slow.limit) == (3.0, False, 3)
    last = measured(model, examples, settings=LocalSettings(lr=0.2, momentum=0.0), limit=2)
    assert last and (last.steps, last.reached) == (2.0, True), "the last step counts"


def test_a_loss_out_of_bounds_is_not_reached() -> None:
    model, examples = by_hand()
    two = Examples(examples.features.repeat(2, 1, 1), examples.frames.repeat(2), torch.tensor([0, 1]))
    settings = LocalSettings().model_copy(update={"lr": 1e38, "momentum": 0.0})  # beyond what may be set
    wild = measured(model, two, settings=settings, limit=9)
    assert wild and (wild.steps, wild.reached) == (9.0, False)


def test_nothing_to_measure() -> None:
    model, examples = by_hand()
    assert measured(model, examples.take(torch.arange(0))) is None
    assert measured(model, examples, limit=0) is None and measured(model, examples, rngs=[]) is None


def test_a_target_of_zero_is_there_already() -> None:
    model, examples = by_hand()
    there = measured(model, examples, target=0.0)
    assert there and there.steps == 0.0


def test_orders_differ_the_result_does_not_and_nothing_is_touched() -> None:
    model, known = tiny(dims=4), separable()[1]
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    settings = LocalSettings(lr=0.5, batch_size=3)
    first, second = (measured(model, known.examples, settings=settings, limit=200) for _ in range(2))
    assert first == second and first and first.low < first.high
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state()) and model.training


def test_random_weights_take_longer_than_the_retrained_model(tmp_path: Path) -> None:
    """Of a small run: the original needs none, the retrained model some, random weights more."""
    experiment = prepared(tmp_path / "run", small_config(training__rounds=6))
    play(experiment)
    record, judge = experiment.record, experiment.judge
    forget = experiment.forget_set(experiment.recorder.read_deletions())
    examples, settings = judge.examples(forget), experiment.config.training.local
    original = record.original
    assert original is not None
    target = judge.retain_and_forget(judge.predictions(original), forget)[1]
    assert target is not None
    states = {
        "original": original,
        "retrained": record.retrained[0].state,
        "random": untrained_weights(experiment.config, judge.classes, original),
    }
    steps = {}
    for name, state in states.items():
        found = relearn(experiment.template, state, examples, target, settings, 200, orders())
        assert found is not None and found.reached, name
        steps[name] = found.steps
    assert target > 0.9 and steps["original"] == 0 < steps["retrained"] < steps["random"]


@pytest.mark.parametrize("target", [1 / 3, 2 / 3])
def test_a_share_is_reached_where_so_many_are_right(target: float) -> None:
    """Of three examples of class 0, so many lie on the right side: rounding of the share asks for no step."""
    right = round(3 * target)
    features = [torch.full((1, 1), -1.0 if i < right else 1.0) for i in range(3)]
    model, examples = TinyModel(torch.tensor([[-1.0], [1.0]])), forget_set(features, [0, 0, 0]).examples
    there = measured(model, examples, target=target)
    more = measured(model, examples, target=target + 0.1)
    assert there and more and there.steps == 0 < more.steps
