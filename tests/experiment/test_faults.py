"""Clients that fail in every way: refused, counted, named; a quorum on every round; honest endings."""

import re
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message
from small_run import prepared, run_small, small_config, weights_of
from spoiled_replies import FAULTY, Spoil

from fedunlearn.engines.engine import play
from fedunlearn.errors import RunFailed
from fedunlearn.ledger import COMMITTED, LedgerReader
from fedunlearn.vault.vault import Vault

WAYS = [
    ("raise", "the disk is full"),
    ("nan", "not finite"),
    ("infinity", "not finite"),
    ("shape", r"\(3, 3, 3\)"),
    ("type", "float64"),
    ("key", "other keys"),
    ("count", "claims 1000000 utterances"),
    ("negative count", "examples is -5; a count was expected"),
    ("no update", "holds no update"),
    ("no metrics", "not a finite number"),
    ("pickle", "cannot be read"),
]


class SpoilInTurn:
    """A Flower mod that spoils each reply of a client to be trained in the next of all ways."""

    def __init__(self) -> None:
        self._spoils = cycle(Spoil("train", how) for how, _ in WAYS)

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type != "train" or context.node_config["partition-id"] != FAULTY:
            return call_next(message, context)  # type: ignore[no-any-return]
        return next(self._spoils)(message, context, call_next)


def test_a_bad_reply_is_refused_counted_and_named(tmp_path: Path) -> None:
    """One of six fails in every round; five of six are more than the quorum of 0.8."""
    results = run_small(tmp_path / "run", mods=[SpoilInTurn()])
    assert results["status"] == "complete"
    faults = results["faults"]
    assert {f["client"] for f in faults} == {FAULTY}
    # Asked twice in each of 3 + 2 + 3 rounds.
    assert len(faults) == 16
    for fault, (how, reason) in zip(faults, cycle(WAYS), strict=False):
        assert re.search(reason, fault["reason"]), (how, fault)
    assert all(row["refused"] == 2 for row in results["timeline"] if row["phase"] == "learn")
    for file in (tmp_path / "run" / "checkpoints").glob("*.safetensors"):
        assert file.stat().st_size > 0


def test_a_refused_client_leaves_the_mean_of_the_others(tmp_path: Path) -> None:
    """Refusing a client's NaN is the same as its never having answered."""
    run_small(tmp_path / "nan", mods=[Spoil("train", "nan")])
    run_small(tmp_path / "silent", mods=[Spoil("train", "raise")])
    assert weights_of(tmp_path / "nan") == weights_of(tmp_path / "silent")


def test_a_client_that_fails_once_is_sent_the_message_again_and_nothing_is_lost(
    tmp_path: Path, inline_run: tuple[Path, Any]
) -> None:
    results = run_small(tmp_path / "run", mods=[Spoil("train", "raise", times=1)])
    assert len(results["faults"]) == 1
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])


def test_a_run_with_faults_is_not_kept_as_a_reference(tmp_path: Path) -> None:
    run_small(tmp_path / "run", mods=[Spoil("train", "raise")])
    kept = [file.name for file in (tmp_path / "run-references").glob("*")]
    assert len(kept) == 2 and all(name.startswith("sealed-") for name in kept), "what this run alone needs"


def test_below_the_quorum_the_run_fails_and_says_so(tmp_path: Path) -> None:
    mods = [Spoil("train", "raise", client=c) for c in (0, 5)]
    experiment = prepared(tmp_path / "run")
    with pytest.raises(RunFailed, match=r"round 1 \(learn\): 4 of 6 clients answered properly, 80%"):
        play(experiment, mods)
    assert experiment.results is None


def test_one_survivor_never_becomes_the_model(tmp_path: Path) -> None:
    mods = [Spoil("train", "raise", client=c) for c in range(5)]
    with pytest.raises(RunFailed, match="1 of 6"):
        run_small(tmp_path / "run", mods=mods)
    assert weights_of(tmp_path / "run") == {}


def test_two_of_six_are_the_least_whatever_the_quorum(tmp_path: Path) -> None:
    mods = [Spoil("train", "raise", client=c) for c in range(5)]
    with pytest.raises(RunFailed, match="1 of 6"):
        run_small(tmp_path / "run", small_config(federation__quorum=0.01), mods)


def test_the_fault_of_a_damaged_vault_does_not_name_its_path(tmp_path: Path) -> None:
    """The device cannot even open its vault; what leaves it names no file."""
    experiment = prepared(tmp_path / "run")
    index = tmp_path / "run" / "vaults" / "client-0004" / "index.json"

    def damage(message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == FAULTY:
            index.write_text("{}")
        return call_next(message, context)

    results = play(experiment, [damage]).to_json()
    assert {f["client"] for f in results["faults"]} == {FAULTY}
    assert all(str(tmp_path) not in f["reason"] and "/" not in f["reason"] for f in results["faults"])


def test_a_failed_run_still_reports_requests_and_faults(tmp_path: Path) -> None:
    """The deletions of round 1 were served; then two devices are lost for good in round 3."""
    early = [{"client": 2, "what": "some", "count": 4, "round": 1}]
    experiment = prepared(tmp_path / "run", small_config(deletions__schedule=early))

    def lost(message: Message, context: Context, call_next: Any) -> Message:
        settings = message.content.config_records.get("settings", ConfigRecord())
        late = settings.get("round") == 3 and settings.get("phase") == "learn"
        counterfactual = not (tmp_path / "run" / "vaults" / "client-0002" / "audio-2.i16").exists()
        if late and not counterfactual and context.node_config["partition-id"] in {0, 5}:
            raise OSError("gone")
        return call_next(message, context)

    with pytest.raises(RunFailed) as failure:
        play(experiment, [lost])
    results = experiment.write_failure(str(failure.value)).to_json()
    assert [(r["client"], r["state"]) for r in results["requests"]] == [(2, "verified")]
    assert {f["client"] for f in results["faults"]} == {0, 5}
    assert results["cost"]["learn"]["rounds"] >= 3
    with LedgerReader(experiment.run.ledger) as ledger:
        rows = ledger.entries()
    assert sum(row.is_of_request for row in rows) == 6
    # Each of six devices commits at first, and one again after its purge. Models: the first, two rounds of
    # learning, the unlearn step, the purge, and one round of recovery.
    assert [sum(row.state == COMMITTED for row in rows), sum(row.is_of_model for row in rows)] == [7, 6]
    assert results["ledger"]["entries"] == len(rows) == 19


def test_even_a_quorum_of_next_to_nothing_needs_one_answer(tmp_path: Path) -> None:
    mods = [Spoil("train", "raise", client=c) for c in range(6)]
    with pytest.raises(RunFailed, match="0 of 6"):
        run_small(tmp_path / "run", small_config(federation__quorum=0.01), mods)


@pytest.mark.parametrize("how", ["nan", *(pytest.param(h, marks=pytest.mark.slow) for h in ("raise", "key"))])
def test_a_requester_that_never_succeeds_leaves_an_unfulfilled_request(tmp_path: Path, how: str) -> None:
    results = run_small(tmp_path / "run", mods=[Spoil("train.unlearn", how, client=2)])
    assert results["status"] == "partial"
    assert "client 2 is accepted, not verified" in results["failure"]
    states = {r["client"]: r["state"] for r in results["requests"]}
    assert states == {1: "verified", 2: "accepted", 3: "verified"}
    # Nothing is purged that the model may still know.
    vault = Vault(tmp_path / "run" / "vaults" / "client-0002")
    assert len(vault.ids("train")) > len(Vault(tmp_path / "run" / "vaults" / "client-0003").ids("train"))


def test_a_requester_that_fails_for_a_while_is_served_later(tmp_path: Path) -> None:
    """Two failures are one round's attempt and retry; the next listening serves it."""
    results = run_small(tmp_path / "run", mods=[Spoil("train.unlearn", "raise", times=2, client=2)])
    assert results["status"] == "complete"
    waited = {r["client"]: r["rounds_waited"] for r in results["requests"]}
    assert waited[3] == 0 and waited[2] == 1


def test_a_purge_that_fails_is_tried_again(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", mods=[Spoil("query.purge", "raise", times=2, client=2)])
    assert results["status"] == "complete"
    assert {r["state"] for r in results["requests"]} == {"verified"}


def test_a_garbled_list_of_requests_is_refused(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", mods=[Spoil("query.deletions", "requests", client=5)])
    # Asked again for three more rounds, and still nobody knows what it wanted.
    assert results["status"] == "partial"
    assert results["failure"] == "client 5 did not say whether it has deletions"
    assert {(f["phase"], f["client"]) for f in results["faults"]} == {("listen", 5)}


def test_a_client_that_cannot_say_who_it_is_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"clients \[4\] did not say who they are"):
        run_small(tmp_path / "run", mods=[Spoil("query.population", "raise")])
