"""The models without one client each: by hand, what they are after one round, who gets them and when not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_run import prepared, run_small, small_config, without_times
from tiny_model import TinyModel, forget_set

from fedunlearn.client.steps import with_unknown
from fedunlearn.engines.engine import play
from fedunlearn.messages.update import Update
from fedunlearn.models.cnn import CnnModel
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.server.left_out import PULL, LeftOut, keep_left_out
from fedunlearn.unlearning.log_odds import log_odds_of

TRAINED = ("weight",)


def update(client: int, examples: int, *values: float) -> Update:
    return Update(client, examples, {"weight": torch.tensor(values), "norm.mean": torch.zeros(1)})


def after_round(*updates: Update, eta: float = 1.0) -> LeftOut:
    left_out, total = LeftOut(), sum(u.examples for u in updates)
    for one in updates:
        left_out.add(one, TRAINED)
    mean = sum(u.examples * u.difference["weight"].double() for u in updates) / total
    left_out.end_round({"weight": torch.as_tensor(mean)}, eta)
    return left_out


def test_a_round_by_hand() -> None:
    """The mean of 2 (one example) and 6 (three) is 5; without the first it is 6, without the second 2."""
    left_out = after_round(update(0, 1, 2.0), update(1, 3, 6.0))
    assert left_out.differences[0]["weight"].item() == pytest.approx(0.96 * 1.0)
    assert left_out.differences[1]["weight"].item() == pytest.approx(0.96 * -3.0)
    left_out.end_round(None, 1.0)
    assert left_out.differences[0]["weight"].item() == pytest.approx(0.96 * 0.96)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-5, 5)), min_size=2, max_size=6), st.floats(0.1, 3))
def test_after_one_round_it_is_the_others_step_less_the_pull(of: list[tuple[int, float]], eta: float) -> None:
    updates = [update(client, n, value) for client, (n, value) in enumerate(of)]
    left_out, total = after_round(*updates, eta=eta), sum(n for n, _ in of)
    mean = sum(n * value for n, value in of) / total
    for client, own in left_out.differences.items():
        others = [pair for number, pair in enumerate(of) if number != client]
        without = sum(n * value for n, value in others) / sum(n for n, _ in others)
        assert own["weight"].item() == pytest.approx((1 - PULL) * eta * (without - mean), abs=1e-4)


def test_who_has_none() -> None:
    """Who trains alone, who has not trained yet, and for good whose data were purged."""
    assert after_round(update(3, 5, 1.0)).differences == {}
    left_out = after_round(update(0, 1, 2.0), update(1, 3, 6.0))
    left_out.forget(1)
    for client, value in ((0, 1.0), (1, 2.0), (2, 3.0)):
        left_out.add(update(client, 2, value), TRAINED)
    left_out.end_round({"weight": torch.tensor([2.0])}, 1.0)
    assert sorted(left_out.differences) == [0, 2] and left_out.forgotten == {1}


def test_it_comes_back_from_tensors() -> None:
    left_out = after_round(update(10, 1, 2.0, 1.0), update(2, 3, 6.0, 0.5))
    left_out.forget(2)
    read = LeftOut.from_tensors(TRAINED, left_out.as_tensors())
    assert read is not None and read.forgotten == {2} and list(read.differences) == [10]
    assert torch.equal(read.differences[10]["weight"], left_out.differences[10]["weight"])
    assert LeftOut.from_tensors(TRAINED, {}) is None


@pytest.mark.parametrize(
    ("settings", "hidden", "kept"),
    [
        ({}, 8, True),
        ({"unlearning__left_out_models": False}, 8, False),
        ({"training__server_optimizer": "adam"}, 8, False),
        ({"training__server_optimizer": "momentum"}, 8, False),
        ({}, 4096, False),  # 6 clients of 12 MB
    ],
)
def test_when_they_are_kept(settings: dict[str, Any], hidden: int, kept: bool) -> None:
    found = keep_left_out(small_config(**settings), FunctionalsModel(6, hidden))
    assert (found is not None) == kept


def test_they_are_kept_for_models_for_which_they_were_measured() -> None:
    assert keep_left_out(small_config(), CnnModel(6)) is None


def test_the_requester_reads_the_log_odds_of_the_model_without_it() -> None:
    model = TinyModel(torch.tensor([[1.0], [-1.0]]))
    data = forget_set([torch.tensor([[2.0]]), torch.tensor([[0.5]])], [0, 1])
    there = with_unknown(model, data, {"weight": torch.tensor([[0.5], [-0.5]])})
    assert there.unknown is not None
    torch.testing.assert_close(there.unknown, torch.tensor([6.0, -1.5], dtype=torch.float64))
    torch.testing.assert_close(log_odds_of(model, data.examples).float(), torch.tensor([4.0, -1.0]))
    assert with_unknown(model, data, None).unknown is None


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, True),
        ({"unlearning__left_out_models": False}, False),
        ({"unlearning__method": "random-label"}, False),
    ],
    ids=["calm", "switched off", "a method that does not read it"],
)
def test_who_is_sent_it(settings: dict[str, Any], sent: bool, tmp_path: Path) -> None:
    kinds = set[str]()

    def watch(message: Message, context: Context, call_next: Any) -> Message:
        if "left_out" in message.content.array_records:
            kinds.add(message.metadata.message_type)
        reply: Message = call_next(message, context)
        return reply

    results = play(prepared(tmp_path / "run", small_config(**settings), tmp_path / "cache"), [watch])
    assert kinds == ({"train.unlearn", "train.rehearse"} if sent else set())
    assert all(("left_out" in (request.scalars_read or ())) == sent for request in results.requests)


@pytest.mark.slow
def test_an_original_from_the_cache_brings_them(tmp_path: Path) -> None:
    """One that was trained without them is trained again."""
    without = small_config(unlearning__left_out_models=False)
    run_small(tmp_path / "without", without, cache=tmp_path / "cache")
    first = run_small(tmp_path / "first", small_config(), cache=tmp_path / "cache")
    again = run_small(tmp_path / "again", small_config(), cache=tmp_path / "cache")
    origins = [found["times"]["references"]["original"] for found in (first, again)]
    assert origins == ["trained", "cached"]
    assert without_times(first) == without_times(again)


def test_what_is_kept_of_the_others_leaves_the_folder_of_a_finished_run(tmp_path: Path) -> None:
    """It holds the mean of all updates, that of the deleted speech too; the reference cache has it."""
    run_small(tmp_path / "run", small_config(), cache=tmp_path / "cache")
    newest = sorted((tmp_path / "run" / "checkpoints" / "standing").glob("*.safetensors"))[-1]
    (sealed,) = (tmp_path / "cache").glob("sealed-*.safetensors")
    held = [{name for name in load_file(file) if "left_out." in name} for file in (newest, sealed)]
    assert held[0] == set() and held[1]
