"""Speech that is recorded in the course of a run: it joins when it is there, and goes unlearned if unused."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from small_run import prepared, run_small, small_config, weights_of, without_times

from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.messages.records import MessageConfig, number
from fedunlearn.partition import partition_corpus, recorded_later
from fedunlearn.vault.vault import Vault


class Counted:
    """How many utterances each client trained on, after how many rounds: a Flower mod."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int], set[int]] = {}

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == "train":
            settings = MessageConfig(message.content)
            key = int(context.node_config["partition-id"]), settings.integer("rounds_done")
            self.counts.setdefault(key, set()).add(int(number(reply.content, "examples")))
        return reply


def test_recordings_join_in_their_round_in_the_run_and_in_its_references(tmp_path: Path) -> None:
    counted = Counted()
    config = small_config(partition__recordings=[{"client": 2, "count": 5, "round": 2}])
    results = run_small(tmp_path / "run", config, [counted])
    assert results["status"] == "complete"
    whole = len(prepared(tmp_path / "other", config).partition.clients[2].train)
    assert max(counted.counts[2, 0]) == whole - 5
    assert max(counted.counts[2, 1]) == whole - 5 and max(counted.counts[2, 2]) == whole


def test_recordings_from_the_start_are_the_ordinary_run(tmp_path: Path, inline_run: tuple[Path, Any]) -> None:
    plain = deepcopy(inline_run[1])
    start = run_small(
        tmp_path / "start", small_config(partition__recordings=[{"client": 2, "count": 5, "round": 0}])
    )
    del plain["config"]["partition"], start["config"]["partition"]
    assert without_times(plain) == without_times(start)
    assert weights_of(inline_run[0]) == weights_of(tmp_path / "start")


def test_new_audio_after_a_deletion_is_welcome(tmp_path: Path) -> None:
    """Client 1 deletes everything, leaves, records five utterances a round later, and trains again."""
    counted = Counted()
    config = small_config(
        training__rounds=5,
        recovery__rounds=0,
        partition__recordings=[{"client": 1, "count": 5, "round": 3}],
        deletions__schedule=[{"client": 1, "what": "all", "round": 1}],
    )
    experiment = prepared(tmp_path / "run", config)
    whole = len(experiment.partition.clients[1].train)
    results = play(experiment, [counted]).to_json()
    assert results["status"] == "complete"
    (request,) = results["requests"]
    assert request["state"] == "verified" and request["utterances"] == whole - 5
    assert experiment.state.last_trained[1] == 4
    assert experiment.state.examples[1] == 5
    assert len(Vault(tmp_path / "run" / "vaults" / "client-0001").ids("train")) == 5
    # Learned from it in the original and, as the first of its life, once in the main line; then as new.
    assert 5 in counted.counts[1, 3] and 5 in counted.counts[1, 4]


@pytest.fixture
def one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retrained model has the original's random stream, so that they can be compared bit for bit."""
    monkeypatch.setattr("fedunlearn.experiment.references.retrained_stream", lambda seed, _: seed)


@pytest.mark.usefixtures("one_stream")
def test_what_no_model_was_trained_on_is_purged_at_once(tmp_path: Path) -> None:
    """It is recorded at round 2 and taken back at round 2: nobody has to unlearn anything."""
    base = small_config(partition__recordings=[{"client": 2, "count": 4, "round": 2}])
    experiment = prepared(tmp_path / "names", base)
    late = sorted(recorded_later(experiment.partition, base.partition, base.seed))
    experiment.close()
    schedule = [{"client": 2, "what": "named", "utterances": late, "round": 2}]
    config = base.model_copy(
        update={
            "deletions": small_config(
                partition__recordings=[{"client": 2, "count": 4, "round": 2}], deletions__schedule=schedule
            ).deletions
        }
    )
    results = run_small(tmp_path / "run", config)
    assert results["status"] == "complete"
    (request,) = results["requests"]
    assert [step["state"] for step in request["history"]] == ["raised", "accepted", "purged", "verified"]
    assert request["learned"] == 0 and request["rounds_waited"] is None
    assert results["cost"]["unlearn"]["rounds"] == 0 and results["cost"]["recover"]["rounds"] == 0
    # The main line never saw them, nor did the retrained model: they are the same.
    weights = weights_of(tmp_path / "run")
    assert weights["recovered.safetensors"] == weights["retrained.safetensors"]
    assert weights["recovered.safetensors"] != weights["original.safetensors"]


@pytest.mark.usefixtures("one_stream")
def test_taken_back_before_the_first_round(tmp_path: Path) -> None:
    """All of a client in round 0: it never takes part in training."""
    config = small_config(deletions__schedule=[{"client": 1, "what": "all", "round": 0}])
    results = run_small(tmp_path / "run", config)
    assert results["status"] == "complete" and results["requests"][0]["learned"] == 0
    weights = weights_of(tmp_path / "run")
    assert weights["recovered.safetensors"] == weights["retrained.safetensors"]


@pytest.mark.parametrize(
    ("recordings", "line"),
    [
        (
            [{"client": 9, "count": 1, "round": 1}],
            "partition.recordings.0.client is 9, but the clients are 0 to 5",
        ),
        ([{"client": 1, "count": 99, "round": 1}], "partition.recordings.0.count is 99, but client 1 has"),
    ],
)
def test_recordings_that_cannot_be(tmp_path: Path, recordings: list[dict[str, int]], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        prepared(tmp_path / "run", small_config(partition__recordings=recordings))


def test_no_utterance_is_recorded_twice() -> None:
    from fedunlearn import corpora
    from fedunlearn.experiment.preparation import resolve

    late = [{"client": 1, "count": 5, "round": 2}, {"client": 1, "count": 5, "round": 4}]
    config = resolve(small_config(partition__recordings=late))
    partition = partition_corpus(corpora.load(config.corpus, config.seed), config.partition, config.seed)
    later = recorded_later(partition, config.partition, config.seed)
    assert sorted(later.values()) == [2] * 5 + [4] * 5
    assert set(later) <= {u.id for u in partition.clients[1].train}


@pytest.mark.parametrize("method", ["retrained", "fed-eraser", pytest.param("scrub", marks=pytest.mark.slow)])
def test_a_privileged_baseline_learns_again_from_what_there_was_in_each_round(
    tmp_path: Path, method: str
) -> None:
    """In an earlier round a client held less than it holds now; that is no reason to refuse its reply."""
    config = small_config(
        partition__recordings=[{"client": 4, "count": 5, "round": 2}], unlearning__method=method
    )
    results = run_small(tmp_path / "run", config)
    assert results["status"] == "complete" and not results["faults"]


def test_data_that_only_a_privileged_baseline_trained_on_must_be_unlearned(tmp_path: Path) -> None:
    """Recorded after learning, when the others' unlearning has all clients train: no model is without it."""
    config = small_config(
        unlearning__method="scrub",
        recovery__rounds=0,
        partition__recordings=[{"client": 4, "count": 5, "round": 4}],
        deletions__schedule=[
            {"client": 1, "what": "some", "count": 3, "after_learning": 1},
            {"client": 4, "what": "all", "after_learning": 2},
        ],
    )
    experiment = prepared(tmp_path / "run", config)
    whole = len(experiment.partition.clients[4].train)
    results = play(experiment).to_json()
    assert [(r["state"], r["learned"]) for r in results["requests"]] == [("verified", 3), ("verified", whole)]


def test_what_leaves_with_the_last_of_a_speaker_is_held_out_no_more(tmp_path: Path) -> None:
    """Client 1 has two people; one goes, held-out speech and all, and the client's word counts as before."""
    config = small_config(
        corpus__speakers=10,
        deletions__schedule=[
            {"client": 1, "what": "speaker", "speaker": "s006", "round": 1},
            {"client": 2, "what": "some", "count": 3, "after_learning": 0},
        ],
    )
    experiment = prepared(tmp_path / "run", config)
    held_out = len(experiment.partition.clients[1].test)
    results = play(experiment).to_json()
    assert results["status"] == "complete" and not results["faults"]
    left = len(Vault(tmp_path / "run" / "vaults" / "client-0001").ids("test"))
    assert experiment.state.held_out[1] == left < held_out


def test_a_client_that_records_twice_is_believed_each_time(tmp_path: Path) -> None:
    late = [{"client": 2, "count": 4, "round": 1}, {"client": 2, "count": 3, "round": 2}]
    results = run_small(tmp_path / "run", small_config(partition__recordings=late))
    assert results["status"] == "complete" and results["faults"] == []
