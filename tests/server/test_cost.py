"""What a run cost, by phase and role: seconds add up, and bytes are those of the messages that were sent."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Context, Message

from fedunlearn.messages.flower_internals import recorddict_to_proto
from fedunlearn.server.cost import PhaseCost
from tests.small_run import run_small, small_config

ASKING = {"train.unlearn", "train.forget_part", "query.purge"}


class Wire:
    """A Flower mod that serialises what goes over it and adds up the bytes: (role, direction) -> bytes."""

    def __init__(self) -> None:
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.kinds: set[str] = set()

    def __call__(self, message: Message, context: Context, app: Callable[..., Message]) -> Message:
        kind, down = message.metadata.message_type, recorddict_to_proto(message.content).SerializeToString()
        reply = app(message, context)
        if kind != "query.population":  # the roll call, before there is any phase
            role = "requesters" if kind in ASKING else "others"
            self.kinds.add(kind)
            self.bytes[role, "bytes_down"] += len(down)
            self.bytes[role, "bytes_up"] += len(recorddict_to_proto(reply.content).SerializeToString())
        return reply


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wire, dict[str, Any]]:
    wire = Wire()
    config = small_config(evaluation__retrained_seeds=1)
    return wire, run_small(tmp_path_factory.mktemp("cost") / "run", config, [wire])


def test_bytes_are_those_of_the_serialised_messages(played: tuple[Wire, dict[str, Any]]) -> None:
    wire, results = played
    assert {"train", "train.calibrate", "train.unlearn", "query.deletions", "query.purge"} <= wire.kinds
    for (role, direction), sent in wire.bytes.items():
        booked = sum(phase["roles"][role][direction] for phase in results["cost"].values())
        assert booked == sent > 0


def test_roles_add_up_to_the_phase(played: tuple[Wire, dict[str, Any]]) -> None:
    for phase in played[1]["cost"].values():
        for name in ("client_seconds", "bytes_up", "bytes_down"):
            assert phase[name] == sum(role[name] for role in phase["roles"].values())


def test_only_requesters_are_counted_as_such(played: tuple[Wire, dict[str, Any]]) -> None:
    cost = played[1]["cost"]
    for name in ("learn", "recover", "retrain"):
        assert not any(cost[name]["roles"]["requesters"].values())
        assert all(cost[name]["roles"]["others"].values())
    asking = cost["unlearn"]["roles"]["requesters"]
    assert asking["client_seconds"] > 0 and asking["bytes_up"] > 0 and asking["bytes_down"] > 0


def test_a_cost_comes_back_as_it_went_out() -> None:
    cost = PhaseCost(rounds=2, wall_seconds=3.5, bytes_stored=7)
    for kind, up in (("train.unlearn", 100), ("query.purge", 10), ("train", 1000)):
        cost.share(kind).bytes_up += up
        cost.share(kind).client_seconds += up / 8
    written = json.loads(json.dumps(cost.as_dict()))
    assert PhaseCost.of(written) == cost
    assert (cost.bytes_up, cost.client_seconds) == (1110, 138.75)
    assert (cost.requesters.bytes_up, cost.others.bytes_up) == (110, 1000)
    later = copy.deepcopy(cost)
    later.share("train").bytes_down += 1
    assert cost.bytes_down == 0
