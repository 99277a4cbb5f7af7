"""'Take it back' reaches all that a device stores, and nobody trains on what is still to be forgotten."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from small_run import assert_replayed, prepared, run_small, small_config, weights_of, without_times
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.config import Config
from fedunlearn.deletion.receipts import receipt_of
from fedunlearn.deletion.request import RequestState
from fedunlearn.engines.engine import play
from fedunlearn.experiment.preparation import read_speech, resolve
from fedunlearn.experiment.request_contents import close_requests
from fedunlearn.messages.records import pack, unpack
from fedunlearn.partition import ClientShare, Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import Index

REASON = "my lawyer said so"
QUICK: dict[str, Any] = {"training__local__steps": 1, "federation__checkpoint_every": 1}


def call(*arguments: str | Path | int) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def vault_of(run: RunFolder, client: int) -> set[str]:
    return {e.id for e in Index.read(run.vault(client)).entries}


def requests_of(share: ClientShare, what: str, part: str) -> dict[str, Any]:
    """A deletion of a schedule. ``part``: of "named", which splits are named."""
    held_out = [u.id for u in share.test]
    named = {"training": [], "held-out": held_out, "both": held_out[:2]}
    trained = [] if part == "held-out" else [u.id for u in share.train[:3]]
    kinds: dict[str, dict[str, Any]] = {
        "some": {"count": 3},
        "emotion": {"emotion": share.test[0].emotion},
        "speaker": {"speaker": share.test[0].speaker},
        "named": {"utterances": (*trained, *named.get(part, ()))},
    }
    return {"client": share.client, "what": what, "round": 1, **kinds.get(what, {})}


def meant(share: ClientShare, request: Mapping[str, Any]) -> set[str]:
    """What a deletion names, by the corpus; of "some", nothing in particular."""
    everything = {u.id: u for u in (*share.train, *share.test)}
    return {
        "all": set(everything),
        "some": set[str](),
        "emotion": {i for i, u in everything.items() if u.emotion == request.get("emotion")},
        "speaker": {i for i, u in everything.items() if u.speaker == request.get("speaker")},
        "named": set(request.get("utterances", ())),
    }[request["what"]]


WHAT = [
    ("all", "both"),
    ("speaker", "both"),
    ("emotion", "both"),
    ("some", "training"),
    ("named", "training"),
    ("named", "held-out"),
    ("named", "both"),
]
"""one kind of deletion for each client: which utterances, and of which splits"""


def everybody_requests() -> tuple[Config, Partition, list[dict[str, Any]]]:
    """Seven clients; some have two speakers, and 5 deletes all its held-out speech and nothing else."""
    base = {**QUICK, "partition__clients": len(WHAT), "corpus__speakers": len(WHAT) + 4}
    _, partition = read_speech(resolve(small_config(**base, deletions__schedule=[])))
    shares = zip(partition.clients, WHAT, strict=True)
    schedule = [requests_of(share, what, part) for share, (what, part) in shares]
    return small_config(**base, deletions__schedule=schedule), partition, schedule


def texts_of(run: RunFolder) -> dict[str, str]:
    """All of a run that must name nobody's deleted speech. The receipt, which is the person's, may."""
    files = [*run.vaults.rglob("*"), *run.standings.glob("*.json"), run.log, run.metrics]
    kept = [f for f in files if f.is_file() and f.suffix in {".json", ".txt", ".jsonl"}]
    return {str(f): f.read_text() for f in kept if f.parent.name != "receipts"}


def strip_schedule(text: str, schedule: list[dict[str, Any]]) -> str:
    """Without the schedule, which is the experimenter's own writing in the experiment's settings."""
    for event in schedule:
        for utterance in event.get("utterances", ()):
            text = text.replace(f'"{utterance}"', "")
    return text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_nothing_of_what_was_named_is_left_on_the_device_or_in_its_store(tmp_path: Path) -> None:
    """Every kind of deletion, through the command line; then one person more, who gives a reason."""
    config, partition, schedule = everybody_requests()
    (tmp_path / "c.toml").write_text(config.to_toml())
    out = tmp_path / "run"
    assert call("run", "--config", tmp_path / "c.toml", "--out", out)[0] == 0
    run = RunFolder(out)
    results = json.loads(run.results.read_text())
    assert [r["state"] for r in results["requests"]] == ["verified"] * len(WHAT) and not results["faults"]
    gone = assert_gone(run, partition, schedule)
    # What is forgotten is training speech alone: held-out speech has taught no model.
    trained = {u.id for u in partition.train}
    assert results["models"]["retrained"]["forget"]["n"] == len(gone & trained)
    assert sum(r["utterances"] for r in results["requests"]) == len(gone & trained)
    held_out = next(r for r in results["requests"] if r["client"] == 5)
    states = [step["state"] for step in held_out["history"]]
    assert states == ["raised", "accepted", "purged", "verified"] and held_out["utterances"] == 0
    assert results["traces"]["found"] == [] and results["models"]["original"]["test"]["n"] == len(
        partition.test
    )

    (left,) = (u.id for u in partition.clients[6].test[2:3])
    code, output = call("delete", "--run", out, "--client", 6, "--utterances", left, "--reason", REASON)
    assert code == 0 and "1 held-out utterance" in output
    with (run.vault(6) / "log.txt").open("a") as log:
        log.write(f"KeyError: '{left}'\n")
    assert call("run", "--resume", "--out", out)[0] == 0
    person = next(
        r
        for r in json.loads(run.results.read_text())["requests"]
        if r["what"] == "named" and r["client"] == 6 and not r["utterances"]
    )
    assert person["state"] == "verified" and left not in vault_of(run, 6)
    assert "KeyError: '(deleted)'" in (run.vault(6) / "log.txt").read_text()
    gone = assert_gone(run, partition, schedule) | {left}

    # Resumed with nothing new to do, all is judged again, without the ids in the stores.
    before, weights = json.loads(run.results.read_text()), weights_of(out)
    assert call("run", "--resume", "--out", out)[0] == 0
    assert without_times(json.loads(run.results.read_text())) == without_times(before)
    assert weights_of(out) == weights
    code, output = call("delete", "--run", out, "--client", 6, "--utterances", left)
    assert code == 2 and "holds no utterance" in output


def assert_gone(run: RunFolder, partition: Partition, schedule: list[dict[str, Any]]) -> set[str]:
    """Of each request: nothing in the vault, all of it in the receipt, no id and no word elsewhere.

    Returns:
        everything that has gone
    """
    everywhere: set[str] = set()
    for share, request in zip(partition.clients, schedule, strict=True):
        assigned = {u.id for u in (*share.train, *share.test)}
        gone, named = assigned - vault_of(run, share.client), meant(share, request)
        assert named <= gone and gone
        stores = json.loads((run.vault(share.client) / "requests.json").read_text())
        assert all(not r["utterances"] and not r["held_out"] and not r["reason"] for r in stores)
        receipts = [json.loads(receipt_of(run.vault(share.client), r["id"]).read_text()) for r in stores]
        of_training = {u for r in receipts for u in r["removed"]["utterances"]}
        held_out = {u for r in receipts for u in r["removed"]["held_out"]}
        assert of_training == gone & {u.id for u in share.train} and held_out == gone - of_training
        assert sum(r["removed"]["count"] for r in receipts) == len(gone)
        if request["what"] in {"named", "emotion"} and len(stores) == 1:
            assert gone == named
        everywhere |= gone
    for name, text in texts_of(run).items():
        bare = strip_schedule(text, schedule)
        assert REASON not in bare and not [u for u in everywhere if re.search(rf"{u}(?!\d)", bare)], name
    assert not list(run.vaults.rglob("inbox/*.json"))
    return everywhere


def test_a_store_is_closed_only_when_the_run_has_judged_its_requests(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "run")
    results = play(experiment).to_json()
    store = tmp_path / "run/vaults/client-0002/requests.json"
    before = store.read_text()
    assert json.loads(before)[0]["utterances"]
    experiment.record.finished = False
    close_requests(experiment.run, experiment.partition, experiment.saved)
    assert store.read_text() == before
    experiment.record.finished = True
    served = next(r for r in experiment.state.requests.values() if r.client == 2)
    served.state = RequestState.PURGED  # its speech was found somewhere: it will be looked for again
    close_requests(experiment.run, experiment.partition, experiment.saved)
    assert store.read_text() == before
    assert not json.loads(store.with_name("requests.json").read_text())[0]["dropped"]
    others = json.loads((tmp_path / "run/vaults/client-0003/requests.json").read_text())
    assert others[0]["utterances"] == [] and others[0]["dropped"] == 3 and results["status"] == "complete"


def test_federations_gone_through_again_hold_what_the_devices_held(tmp_path: Path) -> None:
    """Held-out speech goes in the middle of learning: the replay has the run's weights, bit for bit."""
    _, partition = read_speech(resolve(small_config(deletions__schedule=[])))
    held_out = [u.id for u in partition.clients[4].test]
    schedule = [
        {"client": 4, "what": "named", "round": 0, "utterances": held_out},
        {"client": 5, "what": "emotion", "round": 2, "emotion": partition.clients[5].test[0].emotion},
        {"client": 3, "what": "some", "count": 3, "after_learning": 0},
    ]
    config = small_config(deletions__schedule=schedule, unlearning__aggregation="projected")
    experiment = prepared(tmp_path / "run", config)
    results = play(experiment).to_json()
    assert results["status"] == "complete"
    assert_replayed(experiment)
    # Held-out speech changes no model: the original was trained on until more than that was requested.
    assert results["cost"]["counterfactual"]["rounds"] == 1


# ---- accepted means that nobody trains on it -------------------------------------------------------------


class Stubborn:
    """Client 2 answers one kind of message with nonsense, so that its request stays open: a Flower mod.

    Args:
        kind: of message.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.accepted = False
        self.trained_on: list[int] = []

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        kind = message.metadata.message_type
        if context.node_config["partition-id"] != 2:
            return call_next(message, context)  # type: ignore[no-any-return]
        if kind == self.kind == "query.purge":
            self.accepted = True
            raise OSError("not now")
        reply: Message = call_next(message, context)
        if kind == self.kind:
            self.accepted = True
            update = unpack(reply.content.array_records["update"])
            reply.content["update"] = pack({k: v * float("nan") for k, v in update.items()})
        elif self.accepted and kind in {"train", "train.retain_part"}:
            examples = reply.content.metric_records["metrics"]["examples"]
            assert isinstance(examples, int | float)
            self.trained_on.append(int(examples))
        return reply


@pytest.mark.parametrize(
    ("method", "kind", "state"),
    [
        ("calm", "train.unlearn", "accepted"),
        ("calm", "query.purge", "applied"),
        ("scrub", "train.forget_part", "accepted"),
        pytest.param("fed-eraser", "query.purge", "applied", marks=pytest.mark.slow),
        pytest.param("retrained", "query.purge", "applied", marks=pytest.mark.slow),
        pytest.param("neggrad-plus", "train.forget_part", "accepted", marks=pytest.mark.slow),
        pytest.param("fine-tune", "query.purge", "applied", marks=pytest.mark.slow),
        pytest.param("not", "query.purge", "applied", marks=pytest.mark.slow),
    ],
)
def test_what_is_still_to_be_forgotten_is_trained_on_by_nobody(
    tmp_path: Path, method: str, kind: str, state: str
) -> None:
    """Recovery, privileged baselines and retrained models; the device still holds it until the end."""
    few = {"unlearning__scrub__max_rounds": 1, "unlearning__neggrad_plus__rounds": 1}
    config = small_config(
        **QUICK, **few, unlearning__method=method, federation__retries=0, deletions__patience=1
    )
    client = Stubborn(kind)
    experiment = prepared(tmp_path / "run", config)
    results = play(experiment, [client]).to_json()
    request = next(r for r in results["requests"] if r["client"] == 2)
    held = len(experiment.partition.clients[2].train)
    assert request["state"] == state and len(vault_of(experiment.run, 2)) > held
    # Three rounds at least are the retrained model's.
    assert len(client.trained_on) >= 3 and set(client.trained_on) == {held - 4}
    # What is measured as forgotten is what has gone.
    assert results["models"]["retrained"]["forget"]["n"] == sum(
        r["utterances"] for r in results["requests"] if r["state"] == "verified"
    )
    if method == "calm" and state == "accepted":
        assert_known_by_what_it_was_trained_on(tmp_path, config, results)


def assert_known_by_what_it_was_trained_on(folder: Path, config: Config, results: Mapping[str, Any]) -> None:
    """A reference in the cache is found by what it was trained on, open requests left out."""
    cache = folder / "run-references"
    schedule = [event for event in config.deletions.schedule if event.client != 2]
    without = config.model_copy(
        update={"deletions": config.deletions.model_copy(update={"schedule": tuple(schedule)})}
    )
    other = run_small(folder / "other", without, cache=cache)
    assert other["references"]["retrained-0"] != results["references"]["retrained-0"]
    assert other["times"]["references"]["retrained-0"] == "trained"
    served = run_small(folder / "served", config, cache=cache)
    assert served["references"]["retrained-0"] == results["references"]["retrained-0"]
    assert served["times"]["references"]["retrained-0"] == "cached"
