"""Malicious clients: they do the intended damage, and the guard stops it, in whole small runs."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MetricRecord
from small_run import prepared, run_small, small_config, weights_of
from tiny_model import separable

from fedunlearn.client.adversaries import BEHAVIOURS, Adversary, craft_update
from fedunlearn.config import LocalSettings
from fedunlearn.config.guard import AttackerSettings
from fedunlearn.errors import BadInput
from fedunlearn.experiment.checkpoint import from_checkpoint, to_checkpoint
from fedunlearn.report.run_page import render
from fedunlearn.results_schema import Results
from fedunlearn.training import predict

OFF: dict[str, Any] = {"guard__norm": 0, "guard__together": 0, "guard__drop": 0, "guard__silenced": 0}
WRECK: dict[str, Any] = {
    "attackers__clients": (1,),
    "attackers__kind": "scaled",
    "attackers__factor": 200.0,
    "recovery__rounds": 0,
}


def adversary(target: int = 2, seed: int = 1) -> Adversary:
    model, whole = separable(40)
    honest = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    honest["weight"] = torch.full((4, 4), 0.5)
    honest["bias"] = torch.arange(4.0)
    local = LocalSettings(steps=0, epochs=20, batch_size=8, lr=0.5)
    rng = np.random.Generator(np.random.PCG64(seed))
    return Adversary(model, honest, whole.examples, local, target, rng)


@pytest.mark.parametrize(("kind", "sign"), [("scaled", 1), ("flipped", -1)])
def test_scaled_and_flipped_are_multiples_of_the_honest_update(kind: str, sign: int) -> None:
    one = adversary()
    sent = craft_update(AttackerSettings(clients=(0,), kind=kind, factor=3.0), one)
    assert all(torch.equal(sent[name], sign * 3.0 * one.honest[name]) for name in one.honest)


def test_a_random_direction_has_the_stated_length() -> None:
    """16 x .25 + 0 + 1 + 4 + 9 = 18: the honest update is sqrt(18) long; constants stand still."""
    settings = AttackerSettings(clients=(0,), kind="random", factor=2.0)
    sent, again, other = (craft_update(settings, adversary(seed=s)) for s in (1, 1, 2))
    length = math.sqrt(sum(float(v.double().square().sum()) for v in sent.values()))
    assert length == pytest.approx(2 * math.sqrt(18), rel=1e-5)
    assert not sent["norm.mean"].any() and not sent["norm.std"].any()
    assert torch.equal(sent["weight"], again["weight"])
    assert not torch.equal(sent["weight"], other["weight"])


@pytest.mark.parametrize("target", [2, 3, 7])
def test_a_targeted_update_takes_one_class_for_the_next_and_leaves_the_others(target: int) -> None:
    """Class 7 of four is class 3, whose next is class 0."""
    one = adversary(target)
    update = craft_update(AttackerSettings(clients=(0,), kind="targeted", factor=1.0, target=target), one)
    model = copy.deepcopy(one.model)
    model.load_state_dict({name: v + update[name] for name, v in one.model.state_dict().items()})
    called, labels = predict(model, one.own).argmax(1), one.own.labels
    target %= 4
    assert bool((called[labels == target] == (target + 1) % 4).all())
    assert bool((called[labels != target] == labels[labels != target]).all())


@pytest.mark.parametrize("kind", BEHAVIOURS)
def test_a_forged_update_has_the_form_of_an_update_and_changes_no_model(kind: str) -> None:
    one = adversary()
    before = copy.deepcopy(one.model.state_dict())
    sent = craft_update(AttackerSettings(clients=(0,), kind=kind, factor=1.0), one)
    assert list(sent) == list(before)
    for name, value in sent.items():
        assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)
        assert torch.equal(one.model.state_dict()[name], before[name])


def test_a_client_that_does_not_exist_cannot_be_malicious(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"attackers.clients: there is no client 6 \(0 to 5 are there\)"):
        run_small(tmp_path / "run", small_config(attackers__clients=(1, 6)))


# ---- whole runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_default_guard_changes_no_bit_of_an_honest_run(
    tmp_path: Path, cache: Path, inline_run: tuple[Path, dict[str, Any]]
) -> None:
    out, guarded = inline_run
    run_small(tmp_path / "open", small_config(**OFF), cache=cache)
    assert guarded["guard"] == [] and guarded["attackers"] is None
    assert weights_of(out) == weights_of(tmp_path / "open")


@pytest.mark.slow
def test_what_clients_without_a_request_rehearse_is_in_the_results(tmp_path: Path, cache: Path) -> None:
    """Client 1 deletes everything first, five others rehearse; then 2 and 3 delete 4 and 3 utterances."""
    kinds: list[tuple[str, int]] = []

    def listen(message: Message, context: Context, call_next: Any) -> Message:
        kinds.append((message.metadata.message_type, int(context.node_config["partition-id"])))
        reply: Message = call_next(message, context)
        if message.metadata.message_type == "train.rehearse":
            assert not reply.content.array_records, "no weights leave"
        return reply

    results = run_small(tmp_path / "run", cache=cache, mods=[listen])
    first, second = results["rehearsals"]
    assert (first["clients"], second["clients"], second["size"]) == (3, 3, 4)
    rehearsing = {c for kind, c in kinds if kind == "train.rehearse"}
    assert len(rehearsing) >= 3 and rehearsing <= {0, 2, 3, 4, 5}  # client 1 has requested something
    assert first["longest"] > 0 and first["distance"] > 0 and 0 <= first["silenced"] <= 1
    without = run_small(tmp_path / "off", small_config(guard__rehearsals=0), cache=cache)
    assert without["rehearsals"] == [] and without["guard"] == []
    assert weights_of(tmp_path / "off") == weights_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("raise", "failed"),
        ("too many right", "refused"),
        pytest.param("no metrics", "refused", marks=pytest.mark.slow),
    ],
)
def test_a_rehearsal_that_fails_is_a_fault_and_the_others_count(
    tmp_path: Path, cache: Path, how: str, kind: str
) -> None:
    def spoil(message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type != "train.rehearse" or context.node_config["partition-id"] != 5:
            return call_next(message, context)
        if how == "raise":
            raise OSError("the disk is full")
        reply = call_next(message, context)
        if how == "no metrics":
            reply.content["metrics"] = MetricRecord({})
        else:
            reply.content.metric_records["metrics"]["after"] = 1000
        return reply

    results = run_small(tmp_path / "run", cache=cache, mods=[spoil])
    assert results["status"] == "complete" and results["guard"] == []
    assert [each["clients"] for each in results["rehearsals"]] == [2, 2]
    assert {(f["client"], f["phase"], f["kind"]) for f in results["faults"]} == {(5, "guard", kind)}


def test_a_liar_among_those_that_rehearse_changes_no_honest_update(
    tmp_path: Path, cache: Path, inline_run: tuple[Path, dict[str, Any]]
) -> None:
    def lie(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == "train.rehearse" and context.node_config["partition-id"] == 5:
            reply.content.metric_records["metrics"] |= {"norm": 1e-12, "silenced": 0.0}
        return reply

    lied = run_small(tmp_path / "lied", cache=cache, mods=[lie])
    assert lied["guard"] == inline_run[1]["guard"] == []
    assert weights_of(tmp_path / "lied") == weights_of(inline_run[0])


def test_a_forged_update_that_equals_the_honest_one_changes_no_bit(
    tmp_path: Path, cache: Path, inline_run: tuple[Path, dict[str, Any]]
) -> None:
    honest = small_config(attackers__clients=(1, 2, 3), attackers__kind="scaled", attackers__factor=1.0)
    results = run_small(tmp_path / "malicious", honest, cache=cache)
    assert weights_of(inline_run[0]) == weights_of(tmp_path / "malicious")
    assert results["attackers"]["clients"] == [1, 2, 3]


@pytest.mark.usefixtures("undrawn")
def test_a_malicious_client_ruins_the_model_and_the_guard_prevents_it(tmp_path: Path, cache: Path) -> None:
    alone = [{"client": 1, "what": "all", "after_learning": 0}]
    wreck = WRECK | {"deletions__schedule": alone}
    open_ = run_small(tmp_path / "open", small_config(**wreck, **OFF), cache=cache)
    guarded = run_small(tmp_path / "guarded", small_config(**wreck, guard__norm=2.0), cache=cache)
    kept = {n: r["models"]["unlearned"]["retain"]["accuracy"] for n, r in (("o", open_), ("g", guarded))}
    known = open_["models"]["original"]["retain"]["accuracy"]
    assert kept["o"] < 0.5 * known and kept["g"] > 0.75 * known
    (first, *_) = guarded["guard"]
    assert (first["client"], first["what"], first["round"]) == (1, "clipped", 3)
    assert first["factor"] == pytest.approx(first["limit"] / first["norm"])
    assert first["requests"] == [guarded["requests"][0]["id"]]
    assert open_["guard"] == []
    # What the device sent is reported as it came.
    assert guarded["requests"][0]["update_norm"] == first["norm"]
    page = render(Results.model_validate(json.loads(json.dumps(guarded))))
    assert "What the guard did" in page and "clipped" in page
    assert "test client 1 is malicious (scaled, factor 200)" in page
    assert "3 clients without a request rehearsed the unlearn step" in page


def test_whoever_is_refused_waits_and_the_run_says_so(tmp_path: Path, cache: Path) -> None:
    refusing = small_config(**WRECK, guard__too_long="refuse", guard__norm=2.0)
    results = run_small(tmp_path / "run", refusing, cache=cache)
    assert results["status"] == "partial"
    states = {r["client"]: r["state"] for r in results["requests"]}
    assert states == {1: "accepted", 2: "verified", 3: "verified"}
    assert "client 1 is accepted, not verified (guard: refused," in results["failure"]
    refusals = [i for i in results["guard"] if i["what"] == "refused"]
    # As often as there were listenings: nobody is worn down into letting it pass.
    assert len(refusals) == results["requests"][0]["attempts"] > 3
    assert {i["client"] for i in refusals} == {1}
    assert len(results["faults"]) == len(refusals)
    assert all(f["reason"].startswith("guard: refused, ") for f in results["faults"])


def test_what_the_guard_did_is_part_of_a_checkpoint(tmp_path: Path, cache: Path) -> None:
    """A resumed run goes on with it."""
    experiment = prepared(tmp_path / "run", small_config(), cache)
    experiment.state.guarded.append({"client": 1, "what": "clipped"})
    experiment.state.rehearsals.append({"round": 3, "clients": 5, "longest": 1.5})
    tensors, about = to_checkpoint(experiment.saved)
    about = json.loads(json.dumps(about))
    taken = from_checkpoint(experiment.config, [], tensors, about)
    assert taken.state.guarded == [{"client": 1, "what": "clipped"}]
    assert taken.state.rehearsals == [{"round": 3, "clients": 5, "longest": 1.5}]
    experiment.close()
