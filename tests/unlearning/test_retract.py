"""Retract: what its tickets say of the forget set is taken back, no more and no less."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import SCHEDULE, assert_replayed, prepared, run_small, small_config, weights_of
from tiny_model import speechless, tiny
from torch import Tensor

from fedunlearn.config import LocalSettings
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import trained_tensors
from fedunlearn.seeding import rng_for
from fedunlearn.server.tickets import ticket_terms
from fedunlearn.training import train
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed, UnlearnResult


def retract(model: torch.nn.Module, forget_set: ForgetSet, strength: float = 1.0) -> UnlearnResult:
    chosen = UnlearningSettings(method="retract", retract={"strength": strength})  # type: ignore[arg-type]
    return METHODS["retract"].unlearn(
        model,  # type: ignore[arg-type]
        forget_set,
        chosen,
        np.random.default_rng(0),
        ServerScalars(),
    )


def test_all_that_was_learned_taken_back_is_the_model_before_learning() -> None:
    """One client that learns once, of a linear model: nothing fades, and nobody else pulls."""
    model, data = tiny(), speechless(9)
    start = {name: value.clone() for name, value in trained_tensors(model).items()}
    noted = torch.zeros(9, model.ticket_size)
    train(model, data.examples, LocalSettings(steps=40), 0.05, rng_for(1, "train"), noted=noted)
    found = retract(model, replace(data, tickets=noted)).state
    for name, value in start.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_half_the_strength_goes_half_the_way_and_none_nowhere() -> None:
    model, data = tiny(), speechless(6)
    data = replace(data, tickets=torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    before = copy.deepcopy(model.state_dict())
    whole, half, none = (retract(model, data, strength).state for strength in (1.0, 0.5, 0.0))
    for name, value in before.items():
        torch.testing.assert_close(half[name], (whole[name] + value) / 2)
        assert torch.equal(none[name], value)
        assert torch.equal(model.state_dict()[name], value)


def test_two_requests_together_take_back_what_each_would() -> None:
    model, data = tiny(), speechless(6)
    tickets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    parts = []
    for index in (torch.tensor([0, 1]), torch.tensor([2, 3, 4, 5])):
        own = ForgetSet(data.examples.take(index), data.waveform[index], data.samples[index])
        parts.append(moved(model, retract(model, replace(own, tickets=tickets[index]))))
    together = moved(model, retract(model, replace(data, tickets=tickets)))
    for name, value in together.items():
        torch.testing.assert_close(value, parts[0][name] + parts[1][name], atol=1e-6, rtol=1e-4)


def moved(model: torch.nn.Module, result: UnlearnResult) -> dict[str, Tensor]:
    return {name: result.state[name] - value for name, value in model.state_dict().items()}


def test_without_tickets_it_fails_in_one_line() -> None:
    with pytest.raises(UnlearnFailed, match="noted no tickets"):
        retract(tiny(), replace(speechless(3), tickets=None))


def test_an_empty_forget_set_changes_nothing() -> None:
    model = tiny()
    empty = speechless(2)
    nobody = torch.zeros(0, dtype=torch.int64)
    none = ForgetSet(empty.examples.take(nobody), empty.waveform[:0], empty.samples[:0])
    assert retract(model, none).stopped == "empty forget set"


# ---- how devices note ----------------------------------------------------------------------------------


def test_weight_and_fading_by_hand() -> None:
    """Ten utterances of two clients, batches of 4: 2 steps a pass on 5 of each, 3 passes; lr .1, momentum .5:
    6 * .1 / .5 = 1.2 travelled; the server's momentum of .75 quadruples it."""
    config = small_config(
        unlearning__method="retract",
        unlearning__tickets__fading=0.5,
        training__server_optimizer="momentum",
        training__server_momentum=0.75,
        training__local__steps=0,
        training__local__epochs=3,
        training__local__batch_size=4,
        training__local__lr=0.1,
        training__local__momentum=0.5,
    )
    terms = ticket_terms(config, learning_round=1, trained_on=10, clients=2)
    assert terms.weight == pytest.approx(4.0 / 10)
    assert terms.fading == pytest.approx(1 - np.exp(-0.5 * 4.8))
    assert ticket_terms(small_config(), 1, 10, 2).weight == 0.0


def test_other_ways_to_train_are_refused_before_anything_starts(tmp_path: Path) -> None:
    config = small_config(
        unlearning__method="retract",
        training__local__optimizer="adamw",
        training__server_optimizer="adam",
    )
    with pytest.raises(BadInput) as refused:
        run_small(tmp_path / "run", config)
    assert [p.split(":")[0] for p in refused.value.problems] == [
        "training.local.optimizer",
        "training.server_optimizer",
    ]
    assert not (tmp_path / "run").exists()


# ---- whole runs ----------------------------------------------------------------------------------------

LONGER = {
    "corpus__utterances": 40,
    "training__rounds": 20,
    "training__local__steps": 10,
    "model__hidden": 128,
    "deletions__schedule": [{"client": c, "what": "some", "count": 12, "after_learning": 0} for c in (1, 2)],
    "recovery__rounds": 4,
}


@pytest.fixture(scope="module")
def ended_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small runs on the same requests."""
    folder = tmp_path_factory.mktemp("ended")
    for method in ("retract", "none"):
        run_small(folder / method, small_config(unlearning__method=method), cache=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def ended(ended_in: Path) -> dict[str, dict[str, Any]]:
    """Their results."""
    files = {method: ended_in / method / "results.json" for method in ("retract", "none")}
    return {method: json.loads(file.read_text(encoding="utf-8")) for method, file in files.items()}


@pytest.mark.slow
def test_it_comes_nearer_to_the_retrained_model_than_nothing_and_than_destroying(tmp_path: Path) -> None:
    gaps = {}
    for method in ("retract", "none", "destroy"):
        config = small_config(**{**LONGER, "unlearning__method": method})
        results = run_small(tmp_path / method, config, cache=tmp_path / "cache")
        gaps[method] = results["gap"]["recovered"]["mean"]
    assert gaps["retract"] < 0.5 * min(gaps["none"], gaps["destroy"])


def test_no_message_grows_by_a_byte_of_tickets(ended: dict[str, dict[str, Any]]) -> None:
    sent = [ended[method]["cost"]["learn"] for method in ("retract", "none")]
    assert sent[0]["bytes_up"] == sent[1]["bytes_up"]
    assert sent[0]["bytes_down"] == sent[1]["bytes_down"]


def test_the_cost_of_learning_counts_the_tickets(ended: dict[str, dict[str, Any]]) -> None:
    """16 hidden units and 6 emotions: 16 * 7 + 6 float32 for each training utterance."""
    size, left = divmod(ended["retract"]["cost"]["learn"]["bytes_noted"], 4 * 118)
    assert left == 0 and 6 * 18 * 0.7 < size < 6 * 18
    assert "bytes_noted" not in ended["none"]["cost"]["learn"]


def test_a_receipt_says_that_tickets_were_deleted_with_the_speech(ended_in: Path) -> None:
    for method, derived in (("retract", ["functionals", "tickets"]), ("none", ["functionals"])):
        receipts = [
            json.loads(p.read_text()) for p in (ended_in / method / "vaults").glob("*/receipts/*.json")
        ]
        assert receipts and all(receipt["removed"]["derived"] == derived for receipt in receipts)


def test_results_say_what_it_sees(ended: dict[str, dict[str, Any]]) -> None:
    assert ended["retract"]["unlearning"]["sees"] == "forget + ticket"
    assert ended["retract"]["traces"]["found"] == []


EVENTFUL = {
    "unlearning__method": "retract",
    "deletions__schedule": [{"client": 4, "what": "some", "count": 3, "round": 1}, *SCHEDULE],
    "availability__offline": 0.2,
    "training__rounds": 6,
    "training__late_clients": 0.5,
}


def test_a_replay_gives_the_weights_of_a_run_with_absent_and_late_clients(tmp_path: Path) -> None:
    """One request comes while the model learns, so that the original is trained beside it."""
    experiment = prepared(tmp_path / "run", small_config(**EVENTFUL))
    play(experiment)
    assert_replayed(experiment)


@pytest.mark.slow
def test_on_ray_it_is_the_same(tmp_path: Path) -> None:
    config = small_config(**EVENTFUL, federation__checkpoint_every=1)
    run_small(tmp_path / "inline", config)
    ray = config.model_copy(update={"federation": config.federation.model_copy(update={"engine": "ray"})})
    run_small(tmp_path / "ray", ray)
    assert weights_of(tmp_path / "inline") == weights_of(tmp_path / "ray")
