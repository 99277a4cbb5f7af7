"""Hostile replies: every field of every message has a range, and what is out of it is refused and named."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from small_run import prepared, run_small, small_config

from fedunlearn.deletion.request import RequestState
from fedunlearn.engines import engine
from fedunlearn.messages.records import Refused, pack, unpack
from fedunlearn.messages.rehearsals import read_rehearsal
from fedunlearn.messages.replies import (
    EVERY_REPLY,
    MOST_REQUESTS,
    RANGES,
    REQUEST_RANGES,
    Range,
    UpdateForm,
    read_moments,
    read_population,
    read_reply_cost,
    read_training,
    read_update,
)
from fedunlearn.messages.scalars import read_evaluation, read_log_odds
from fedunlearn.server.requests import TrackedRequest, read_outcome, read_purged, read_requests

HELD, HELD_OUT, CLIENTS, DIMS = 12, 4, 6, 3
WEIGHTS = {"norm.mean": torch.ones(3), "norm.std": torch.ones(3), "head.weight": torch.full((2, 3), 0.5)}
FORM = UpdateForm.of(WEIGHTS, ["head.weight"], 100.0)
SUMS = {"count": 12.0, "total": 6.0, "squares": 30.0}
TRAINING: dict[str, Any] = {"examples": HELD, "loss": 1.5}
FORGETTING: dict[str, Any] = {
    "examples": 5,
    "steps": 10,
    "adversarial": 5,
    "forget_before": 1.0,
    "forget_after": 0.25,
    "attack_success": 0.5,
}
HONEST: dict[str, dict[str, Any]] = {
    "query.population": {"client": 3, "train": HELD, "test": HELD_OUT},
    "train.calibrate": {"examples": HELD},
    "train": TRAINING,
    "train.retain_part": TRAINING,
    "evaluate": {
        "examples": HELD_OUT,
        "right": 3,
        **{f"trained_{part}": value for part, value in SUMS.items()},
        **{f"held_out_{part}": value for part, value in (SUMS | {"count": 4.0}).items()},
    },
    "evaluate.log_odds": {f"log_odds_{part}": value for part, value in SUMS.items()},
    "query.deletions": {"train": HELD, "added": 0},
    "train.unlearn": FORGETTING,
    "train.forget_part": FORGETTING,
    "train.rehearse": {"norm": 1.5, "silenced": 0.25, "before": 3, "after": 2},
    "query.purge": {"removed": 5, "verified": 1, "train": HELD - 5, "held": HELD_OUT, "added": 0},
}
LISTS: dict[str, list[Any]] = {
    "ids": ["0123456789abcdef", "f" * 16],
    "counts": [5, 3],
    "states": ["raised", "withdrawn"],
    "deadlines": [4, -1],
    "devices": [1, 2],
    "learned": [5, 0],
}


def reply_of(
    kind: str,
    metrics: Mapping[str, Any] | None = None,
    lists: Mapping[str, Any] | None = None,
    update: Mapping[str, torch.Tensor] | None = None,
    moments: Mapping[str, torch.Tensor] | None = None,
) -> RecordDict:
    """An honest reply to a kind of message, with some parts replaced."""
    reply = RecordDict({"metrics": MetricRecord({**HONEST[kind], **(metrics or {})})})
    reply["update"] = pack(update or {k: v * 0 for k, v in WEIGHTS.items()})
    flat = torch.ones(DIMS, dtype=torch.float64)
    reply["moments"] = pack(moments or {"mean": flat, "mean_square": 2 * flat})
    reply["requests"] = ConfigRecord({**LISTS, **(lists or {})})
    reply["outcome"] = ConfigRecord({"stopped": "all forgotten", "scalars_read": "share"})
    return reply


READERS: dict[str, Callable[[RecordDict], object]] = {
    "query.population": lambda reply: read_population(reply, CLIENTS),
    "train.calibrate": lambda reply: read_moments(reply, 3, DIMS, HELD),
    "train": lambda reply: read_training(reply, 3, "train", HELD, FORM),
    "train.retain_part": lambda reply: read_training(reply, 3, "train.retain_part", HELD, FORM),
    "evaluate": lambda reply: read_evaluation(reply, HELD, HELD_OUT, log_odds=True),
    "evaluate.log_odds": lambda reply: read_log_odds(reply, HELD),
    "query.deletions": lambda reply: read_requests(reply, HELD, CLIENTS, {}),
    "train.unlearn": lambda reply: read_outcome(reply, 3, "train.unlearn", 5, FORM),
    "train.forget_part": lambda reply: read_outcome(reply, 3, "train.forget_part", 5, FORM),
    "train.rehearse": lambda reply: read_rehearsal(reply, HELD_OUT),
    "query.purge": lambda reply: read_purged(reply, 0, HELD - 5, HELD_OUT),
}
HOSTILE: dict[str, Any] = {
    "huge": 1e300,
    "huge and negative": -1e300,
    "more than 64 bits": 10**40,
    "largest of 64 bits": 2**63 - 1,
    "below zero": -1e10,
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "not a number": math.nan,
    "a list": [1.0, 1.0],
    "no list": [],
}
FIELDS = [(kind, name) for kind, ranges in RANGES.items() for name in ranges]


def refuses(kind: str, **metrics: Any) -> str:
    """Why a reply with these metrics is refused."""
    with pytest.raises(Refused) as caught:
        READERS[kind](reply_of(kind, metrics))
    return str(caught.value)


def test_every_kind_of_message_has_a_reader_that_takes_an_honest_reply() -> None:
    assert READERS.keys() == RANGES.keys() == HONEST.keys()
    for kind, read in READERS.items():
        read(reply_of(kind))


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_out_of_its_range_is_refused_and_named(kind: str, name: str, value: Any) -> None:
    assert name in refuses(kind, **{name: value})


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_is_missed_and_a_part_of_a_count_is_not_cut(kind: str, name: str) -> None:
    """The sums of log-odds, too, which are optional where they were not requested."""
    range_ = RANGES[kind][name]
    reply = reply_of(kind)
    del reply.metric_records["metrics"][name]
    if range_.optional and "_count" not in name and "_total" not in name and "_squares" not in name:
        READERS[kind](reply)
    else:
        with pytest.raises(Refused, match=name):
            READERS[kind](reply)
    if range_.whole:
        assert name in refuses(kind, **{name: HONEST[kind][name] + 0.7})


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", EVERY_REPLY)
def test_what_a_reply_cost_has_a_range_too(name: str, value: Any) -> None:
    with pytest.raises(Refused, match=name):
        read_reply_cost(RecordDict({"metrics": MetricRecord({name: value})}))


@given(st.one_of(st.integers(), st.floats()), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.booleans())
def test_whatever_passes_is_within_the_range(value: float, least: float, width: float, whole: bool) -> None:
    range_ = Range(least, least + width, whole=whole)
    reply = RecordDict({"metrics": MetricRecord({"n": value})})
    try:
        read = range_.read(reply, "n")
    except Refused:
        assert not (least <= value <= least + width and (not whole or value == int(value)))
    else:
        assert read == value and least <= value <= least + width


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("query.population", {"client": CLIENTS}),
        ("train.calibrate", {"examples": HELD + 1}),
        ("train", {"examples": HELD - 1}),
        ("train", {"loss": -0.5}),
        ("evaluate", {"right": HELD_OUT + 1}),
        ("evaluate", {"examples": HELD_OUT + 1}),
        ("evaluate", {"trained_count": HELD - 1.0}),
        ("evaluate.log_odds", {"log_odds_count": HELD + 1.0}),
        ("evaluate.log_odds", {"log_odds_total": 1e4}),  # larger than the squares allow
        ("query.deletions", {"train": HELD + 1}),
        ("query.deletions", {"train": 4}),  # and 5 of them are still requested
        ("query.deletions", {"train": 0}),
        ("train.unlearn", {"examples": 6}),
        ("train.rehearse", {"before": HELD_OUT + 1}),
        ("train.rehearse", {"after": HELD_OUT + 1}),
        ("train.rehearse", {"silenced": 1.01}),
        ("train.rehearse", {"norm": -0.01}),
        ("train.unlearn", {"forget_before": 1.01}),
        ("train.unlearn", {"attack_success": -0.01}),
        ("query.purge", {"train": HELD}),
        ("query.purge", {"held": HELD_OUT + 1}),
        ("query.purge", {"verified": 2}),
    ],
)
def test_what_the_server_knows_of_a_client_bounds_its_numbers(kind: str, metrics: dict[str, Any]) -> None:
    refuses(kind, **metrics)


# ---- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REQUEST_RANGES)
@pytest.mark.parametrize("value", [-2, -(2**62), 2**62, 1e300, 0.5, "7", True, math.nan, None, b"1"])
def test_a_number_of_a_request_out_of_its_range_is_refused_and_named(name: str, value: Any) -> None:
    reply = reply_of("query.deletions")
    rows = {key: list(values) for key, values in LISTS.items()}
    rows[name][0] = value
    reply.config_records["requests"] = _Anything(rows)
    with pytest.raises(Refused, match=name):
        READERS["query.deletions"](reply)


class _Anything(ConfigRecord):
    """A record of which Flower has checked nothing, as a stranger's bytes may give it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__()
        self._values = values

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"ids": ["0123456789abcdef", "0123456789abcdef"]}, "twice"),
        ({"ids": ["0123456789ABCDEF", "f" * 16]}, "16 hexadecimal"),
        ({"ids": ["../../somewhere", "f" * 16]}, "16 hexadecimal"),
        ({"ids": ["f" * 17, "f" * 16]}, "16 hexadecimal"),
        ({"ids": ["0123456789abcde\n", "f" * 16]}, "16 hexadecimal"),
        ({"ids": [1, 2]}, "16 hexadecimal"),
        ({"states": ["verified", "raised"]}, "state is 'verified'"),
        ({"states": ["raised", "x" * 500]}, "state is"),
        ({"counts": [-1, 3]}, "counts"),
        ({"counts": [0, 3]}, "learned has 5, but it counts 0"),
        ({"counts": [13, 3], "learned": [13, 0]}, "its requests name 13"),
        ({"states": ["raised", "raised"], "counts": [7, 6]}, "its requests name 13"),
        ({"learned": [6, 0]}, "learned has 6"),
        ({"devices": [CLIENTS + 1, 1]}, "devices of 6"),
        ({"devices": [0, 1]}, "devices has 0"),
        ({"deadlines": [4]}, "list of requests is not one"),
        ({"counts": 5}, "list of requests is not one"),
    ],
)
def test_a_list_of_requests_that_cannot_be_is_refused(lists: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        READERS["query.deletions"](reply_of("query.deletions", lists=lists))


def test_more_requests_than_anybody_has_are_refused() -> None:
    many = MOST_REQUESTS + 1
    lists = {
        "ids": [f"{n:016x}" for n in range(many)],
        "states": ["refused"] * many,
        **{name: [0] * many for name in ("counts", "learned")},
        "deadlines": [-1] * many,
        "devices": [1] * many,
    }
    with pytest.raises(Refused, match="lists 10001 requests"):
        READERS["query.deletions"](reply_of("query.deletions", lists=lists))


def served(count: int, state: RequestState, learned: int = 1) -> TrackedRequest:
    return TrackedRequest(LISTS["ids"][0], 3, count, 1, state=state, learned=learned)


def test_a_known_request_does_not_change_its_size_nor_vanish_with_its_utterances() -> None:
    """What is being purged need not be there any more; all else that a request names must be."""
    name = LISTS["ids"][0]
    with pytest.raises(Refused, match="counted 4"):
        read_requests(reply_of("query.deletions"), HELD, CLIENTS, {name: served(4, RequestState.ACCEPTED)})
    nothing = {key: [] for key in LISTS}
    silent = reply_of("query.deletions", {"train": 2}, nothing)
    with pytest.raises(Refused, match="its requests name 5"):
        read_requests(silent, HELD, CLIENTS, {name: served(5, RequestState.ACCEPTED)})
    for going in (
        served(5, RequestState.APPLIED),
        served(5, RequestState.PURGED),
        served(5, RequestState.ACCEPTED, learned=0),
    ):
        assert read_requests(silent, HELD, CLIENTS, {name: going}).train == 2
        again = reply_of("query.deletions", {"train": 2})
        assert len(read_requests(again, HELD, CLIENTS, {name: going}).requests) == 2


@pytest.mark.parametrize(
    "outcome",
    [
        {},
        {"stopped": "done"},
        {"stopped": "x" * 101, "scalars_read": ""},
        {"stopped": "two\nlines", "scalars_read": ""},
        {"stopped": 3, "scalars_read": ""},
    ],
)
def test_how_an_unlearning_ended_is_a_few_words(outcome: dict[str, Any]) -> None:
    reply = reply_of("train.unlearn")
    reply["outcome"] = ConfigRecord(outcome)
    with pytest.raises(Refused, match="in a few words"):
        READERS["train.unlearn"](reply)


# ---- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("norm.std", -1.0, "norm.std is not trained"),
        ("norm.mean", 1e-30, "norm.mean is not trained"),
        ("head.weight", -3e38, "at most"),
        ("head.weight", 1e30, "at most"),
        ("head.weight", math.nan, "not finite"),
        ("head.weight", math.inf, "not finite"),
    ],
)
@pytest.mark.parametrize("kind", ["train", "train.retain_part", "train.unlearn", "train.forget_part"])
def test_no_update_moves_what_nobody_trains_or_is_absurdly_long(
    kind: str, name: str, value: float, reason: str
) -> None:
    update = {key: torch.zeros_like(w) for key, w in WEIGHTS.items()}
    update[name] += value
    with pytest.raises(Refused, match=reason):
        READERS[kind](reply_of(kind, update=update))


def test_the_longest_update_is_measured_by_the_trained_weights() -> None:
    """Six weights of 1/2 have a norm of sqrt(1.5); with the constants it would be sqrt(7.5)."""
    assert pytest.approx(100 * (1 + math.sqrt(1.5))) == FORM.longest
    reply = reply_of("train", update={k: v * 0 for k, v in WEIGHTS.items()})
    assert read_update(reply, 3, HELD, FORM).norm == 0.0


@pytest.mark.parametrize(
    ("mean", "mean_square", "reason"),
    [
        (1.0, 0.5, "less than the square"),
        (0.0, -1.0, "less than the square"),
        (1e7, 1e14, "larger than"),
        (0.0, 1e300, "larger than"),
        (math.nan, 1.0, "not finite"),
        (1.0, math.inf, "not finite"),
    ],
)
def test_moments_that_no_features_have_are_refused(mean: float, mean_square: float, reason: str) -> None:
    one = torch.ones(DIMS, dtype=torch.float64)
    with pytest.raises(Refused, match=reason):
        moments = {"mean": mean * one, "mean_square": mean_square * one}
        READERS["train.calibrate"](reply_of("train.calibrate", moments=moments))


def test_moments_of_a_constant_feature_are_possible() -> None:
    values = torch.full((7, DIMS), -11.513, dtype=torch.float32).double()
    moments = {"mean": values.mean(0), "mean_square": values.square().mean(0)}
    READERS["train.calibrate"](reply_of("train.calibrate", moments=moments))


# ---- whole runs --------------------------------------------------------------------------------------------

SCHEMA = json.loads((files("fedunlearn") / "schemas" / "results.schema.json").read_text(encoding="utf-8"))


def check(results: dict[str, Any]) -> None:
    """Results are as the schema says and hold no number that JSON has not."""
    jsonschema.validate(json.loads(json.dumps(results, allow_nan=False)), SCHEMA)


class TamperedReplies:
    """A Flower mod that tampers with one client's replies to one type of message, each in another way.

    Args:
        kind: message type.
        client: whose replies.
        tampers: what to do to each reply; after the last, the client is honest.
    """

    def __init__(self, kind: str, client: int, tampers: list[Callable[[RecordDict], None]]) -> None:
        self.kind, self.client, self.tampers = kind, client, iter(tampers)
        self.left = len(tampers)

    def __call__(self, message: Message, context: Any, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == self.kind and context.node_config["partition-id"] == self.client:
            for tamper in self.tampers:
                self.left -= 1
                tamper(reply.content)
                break
        return reply


def metrics(**values: Any) -> Callable[[RecordDict], None]:
    def tamper(content: RecordDict) -> None:
        for name, value in values.items():
            content.metric_records["metrics"][name] = value

    return tamper


def update(name: str, value: float) -> Callable[[RecordDict], None]:
    def tamper(content: RecordDict) -> None:
        honest = unpack(content.array_records["update"])
        content["update"] = pack({k: v * 0 + value if k == name else v for k, v in honest.items()})

    return tamper


def test_no_number_of_one_client_ends_a_run(tmp_path: Path) -> None:
    """Each tampered reply is one fault of its client, whose message is repeated; the run has results
    anyway."""
    of_training = [
        (metrics(seconds=1.7e308), "seconds"),
        (metrics(seconds=-1e9), "seconds"),
        (metrics(loss=1.7e308), "loss"),
        (update("norm.std", -1.0), "not trained"),
        (update("head.0.weight", 1e30), "long"),
        (metrics(examples=14.5), "examples"),
    ]
    of_unlearning = [
        (metrics(forget_before=math.inf), "forget_before"),
        (metrics(forget_after=-3.0), "forget_after"),
        (metrics(forget_before=[1.0, 1.0]), "forget_before"),
        (metrics(attack_success=math.inf), "attack_success"),
        (metrics(steps=-5), "steps"),
        (update("head.0.weight", -3e38), "long"),
        (update("norm.mean", 1.0), "not trained"),
    ]
    others = [
        ("train.calibrate", metrics(examples=1e300), "examples"),
        ("train.calibrate", metrics(examples=10**9), "examples"),
        ("evaluate", metrics(right=10**6), "right"),
        ("query.purge", metrics(train=10**6), "train"),
        ("query.deletions", metrics(train=10**6), "claims"),
    ]
    mods = [
        TamperedReplies("train", 4, [tamper for tamper, _ in of_training]),
        TamperedReplies("train.unlearn", 2, [tamper for tamper, _ in of_unlearning]),
        *(
            TamperedReplies(
                kind, 2 if kind == "query.purge" else 5, [tamper for k, tamper, _ in others if k == kind]
            )
            for kind in dict.fromkeys(kind for kind, _, _ in others)
        ),
    ]
    results = run_small(tmp_path / "run", small_config(deletions__patience=6), mods)
    check(results)
    assert results["status"] == "complete" and all(mod.left == 0 for mod in mods)
    reasons = [f["reason"] for f in results["faults"]]
    expected = [*(r for _, r in of_training), *(r for _, r in of_unlearning), *(r for _, _, r in others)]
    for reason in expected:
        assert any(reason in found for found in reasons), reason
    assert len(reasons) == len(expected)
    assert {f["kind"] for f in results["faults"]} == {"refused"}


@pytest.mark.slow
def test_an_honest_run_says_nothing_without_a_declared_range(tmp_path: Path) -> None:
    """And none of it is refused, of a method that reads log-odds."""
    seen: dict[str, set[str]] = {}

    def listen(message: Message, context: Any, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        names = seen.setdefault(message.metadata.message_type, set())
        names |= reply.content.metric_records["metrics"].keys()
        return reply

    results = run_small(tmp_path / "run", small_config(unlearning__method="calm"), [listen])
    assert not results["faults"] and seen.keys() == RANGES.keys() - {"train.retain_part", "train.forget_part"}
    assert {k: v - RANGES[k].keys() - EVERY_REPLY.keys() for k, v in seen.items()} == {k: set() for k in seen}


def test_a_client_that_claims_to_hold_nothing_and_requests_is_refused(tmp_path: Path) -> None:
    def tamper(message: Message, context: Any, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if (
            message.metadata.message_type == "query.deletions"
            and context.node_config["partition-id"] == 2
            and message.content.config_records["settings"]["rounds_done"] > 3
        ):
            reply.content.metric_records["metrics"]["train"] = 0
        return reply

    results = run_small(tmp_path / "run", mods=[tamper])
    check(results)
    assert results["status"] == "partial" and "client 2 did not say" in results["failure"]
    assert "claims 0 utterances, but its requests name 4" in results["faults"][0]["reason"]


@pytest.mark.parametrize("window", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_no_client_keeps_the_server_listening(tmp_path: Path, window: int) -> None:
    """Each time a new request of two devices with a far deadline, the one before it withdrawn.

    Planned until date 4; then the window, patience 3, a recovery round and three more for what was applied.
    """
    rounds_seen: list[int] = []
    ids: Iterator[str] = (f"{n:016x}" for n in range(1, 10**6))
    reported: list[str] = []

    def tamper(message: Message, context: Any, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == "query.deletions" and context.node_config["partition-id"] == 5:
            rounds_seen.append(int(message.content.config_records["settings"]["rounds_done"]))
            reported.append(next(ids))
            states = ["withdrawn"] * (len(reported) - 1) + ["raised"]
            many = len(reported)
            reply.content["requests"] = ConfigRecord(
                {
                    "ids": list(reported),
                    "counts": [1] * many,
                    "states": states,
                    "deadlines": [10**6] * many,
                    "devices": [2] * many,
                    "learned": [1] * many,
                }
            )
            assert many < 40, "the server listens on and on"
        return reply

    results = run_small(tmp_path / "run", small_config(deletions__window=window), [tamper])
    check(results)
    assert max(rounds_seen) <= 4 + window + window + 3 + 1 + 1
    assert {r["state"] for r in results["requests"] if r["client"] in {1, 2, 3}} == {"verified"}


@pytest.mark.slow
def test_doubled_replies_have_one_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = run_small(tmp_path / "once", cache=tmp_path / "cache")

    class Twice(engine.InlineGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            come = list(super().pull_messages(message_ids))
            return come + come

    monkeypatch.setattr(engine, "InlineGrid", Twice)
    twice = engine.play(prepared(tmp_path / "twice", cache=tmp_path / "other")).to_json()
    check(twice)
    assert twice["status"] == "complete" and twice["models"] == once["models"]
    assert {f["kind"] for f in twice["faults"]} == {"repeated"}
    bytes_up = [phase["bytes_up"] for phase in once["cost"].values()]
    assert [phase["bytes_up"] for phase in twice["cost"].values()] == bytes_up


def test_nodes_that_never_say_who_they_are_end_the_run_in_order(tmp_path: Path) -> None:
    mod = TamperedReplies("query.population", 4, [metrics(client=math.nan)] * 9)
    with pytest.raises(engine.RunFailed, match=r"clients \[4\] did not say who they are.*node 5: .*client"):
        run_small(tmp_path / "run", mods=[mod])


def test_a_garbled_introduction_is_counted_and_requested_again(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", mods=[TamperedReplies("query.population", 4, [metrics(client=2)])])
    check(results)
    assert results["status"] == "complete"
    assert {(f["phase"], f["client"], f["kind"]) for f in results["faults"]} == {("meet", -1, "refused")}
    assert all("it says that it is client 2, as another node does" in f["reason"] for f in results["faults"])


@pytest.mark.parametrize(("train", "added", "taken"), [(14, 2, True), (15, 2, False), (12, 12, True)])
def test_added_recordings_are_counted_on_top_of_what_a_client_held(
    train: int, added: int, taken: bool
) -> None:
    """The client held 12, none of them added: with two added ones it may hold 14."""
    reply = reply_of("query.deletions", {"train": train, "added": added})
    if taken:
        report = read_requests(reply, HELD, CLIENTS, {})
        assert (report.train, report.added) == (train, added)
    else:
        with pytest.raises(Refused, match="claims 15 utterances, but it holds 14 at most"):
            read_requests(reply, HELD, CLIENTS, {})
