"""Clients that join learning late: who they are, what they are not asked, and what is measured on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from hypothesis import given
from hypothesis import strategies as st
from killed_runs import Death, assert_same
from small_run import prepared, replay_data_of, resumed, run_small, small_config, weights_of, without_times

from fedunlearn import config as configuration
from fedunlearn.client.steps import sum_log_odds
from fedunlearn.config import Config
from fedunlearn.engines.engine import play
from fedunlearn.examples import Examples
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.replay import Replay
from fedunlearn.experiment.replayed_clients import ReplayData
from fedunlearn.messages.records import MessageConfig
from fedunlearn.messages.scalars import Sums
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.server.clients import Clients
from fedunlearn.server.late_clients import LateClients
from fedunlearn.unlearning.log_odds import log_odds_of

ROUNDS = 12
LATE = (1, 2)
"""with the seed of small runs; they join after two of the twelve rounds"""
UNTIL = 2


def late_config(**overrides: Any) -> Config:
    return small_config(**({"training__rounds": ROUNDS, "training__late_clients": 0.25} | overrides))


class SentMessages:
    """A Flower mod that lists all messages: type, client, and the round of those to train."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int]] = []

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        kind, client = message.metadata.message_type, int(context.node_config["partition-id"])
        number = MessageConfig(message.content).integer("round") if kind == "train" else 0
        if kind != "train" or MessageConfig(message.content).text("phase") == "learn":
            self.sent.append((kind, client, number))
        reply: Message = call_next(message, context)
        return reply

    def trained_in(self, learning_round: int) -> set[int]:
        return {client for kind, client, number in self.sent if kind == "train" and number == learning_round}


class Late:
    """A run in which two clients join learning late, all of its messages, and what replays it."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.cache, self.messages = folder / "cache", SentMessages()
        self.run: Experiment = prepared(folder / "run", late_config(**overrides), self.cache)
        self.results = play(self.run, [self.messages]).to_json()

    def data(self, rounds: int | None = None) -> ReplayData:
        return replay_data_of(self.run, rounds)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Late:
    return Late(tmp_path_factory.mktemp("late"))


# ---- who is late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "rounds", "share", "late", "until"),
    [
        (20, 30, 0.25, 5, 5),
        (8, 30, 0.25, 2, 5),
        (5, 30, 0.25, 1, 5),
        (20, 35, 0.01, 1, 5),  # at least one
        (3, 30, 0.9, 1, 5),  # two others must train
        (4, 6, 0.9, 2, 1),
        (2, 30, 0.25, 0, 0),
        (20, 5, 0.25, 0, 0),  # too few rounds
        (20, 30, 0.0, 0, 0),
    ],
)
def test_how_many_are_late_and_until_when(
    clients: int, rounds: int, share: float, late: int, until: int
) -> None:
    settings = {"partition.clients": clients, "training.rounds": rounds, "training.late_clients": share}
    schedule: dict[str, Any] = {"deletions.schedule": []}
    drawn = LateClients.of(configuration.load(None, settings | schedule))
    assert (len(drawn.clients), drawn.rounds) == (late, until)
    assert drawn.are_measured_after(until) == bool(late)
    assert not drawn.are_measured_after(until + 1)


@given(st.integers(0, 2**40), st.integers(4, 60), st.integers(1, 60), st.floats(0.0, 0.99))
def test_they_are_drawn_from_the_seed_and_two_others_are_left(
    seed: int, clients: int, rounds: int, share: float
) -> None:
    settings = {"seed": seed, "partition.clients": clients, "training.rounds": rounds}
    config = configuration.load(None, settings | {"training.late_clients": share})
    drawn = LateClients.of(config)
    assert drawn == LateClients.of(config.model_copy(update={"unlearning": config.unlearning}))
    assert drawn.clients <= set(range(clients)) and clients - len(drawn.clients) >= 2
    assert bool(drawn.clients) == bool(drawn.rounds) == (share > 0.0 and rounds >= 6)
    assert drawn.absent(0) == drawn.clients and drawn.absent(drawn.rounds) == frozenset()


# ---- what is summed up -------------------------------------------------------------------------------------


def test_sums_of_three_utterances_or_fewer_are_not_sent() -> None:
    """Held-out and training speech of a late client count together."""
    model, generator = FunctionalsModel(4, hidden=4).eval(), torch.Generator().manual_seed(0)

    def speech(n: int) -> Examples:
        features = torch.randn(n, 1, FunctionalsModel.dims, generator=generator)
        return Examples(features, torch.ones(n, dtype=torch.int64), torch.arange(n) % 4)

    two, three, none = speech(2), speech(3), speech(0)
    assert sum_log_odds(model, [three]) == sum_log_odds(model, [three, none]) == Sums()
    sums, values = sum_log_odds(model, [two, three]), torch.cat([log_odds_of(model, s) for s in (two, three)])
    assert sums.count == 5
    assert sums.total == pytest.approx(float(values.sum()))
    assert sums.squares == pytest.approx(float(values.square().sum()))


# ---- in a run ----------------------------------------------------------------------------------------------


def test_late_clients_train_only_when_they_have_joined(late: Late) -> None:
    """In learning and in the retrained model alike. Calibration asks them as it asks all."""
    assert LateClients.of(late.run.config) == LateClients(frozenset(LATE), UNTIL)
    everybody, (first, second) = set(range(6)), LATE
    for learning_round in range(1, ROUNDS + 1):
        early = everybody - {first, second}
        assert late.messages.trained_in(learning_round) == (early if learning_round <= UNTIL else everybody)
    assert {c for kind, c, _ in late.messages.sent if kind == "train.calibrate"} == everybody


def test_all_are_asked_once_for_sums_right_after_the_last_round_without_them(late: Late) -> None:
    sent = [m for m in late.messages.sent if m[0] in ("train", "evaluate.log_odds")]
    asked = [n for n, (kind, _, _) in enumerate(sent) if kind == "evaluate.log_odds"]
    assert [sent[n][1] for n in asked] == list(range(6))
    assert sent[asked[0] - 1][2] == UNTIL and sent[asked[-1] + 1][2] == UNTIL + 1
    assert "evaluate" not in {kind for kind, _, _ in late.messages.sent[: asked[0]]}


def test_the_two_numbers_are_those_of_the_model_before_they_joined(late: Late) -> None:
    """From weights that a replay of the first rounds gives, and with the judge's features of the speech."""
    judge, partition = late.run.judge, late.run.partition
    weights = Replay(late.data(UNTIL), late.run.config.seed).play()["recovered"]
    model = Replay(late.data(0), late.run.config.seed).model
    model.load_state_dict(weights)
    known, unknown = list[str](), list[str]()
    for share in partition.clients:
        (unknown if share.client in LATE else known).extend(u.id for u in share.test)
        if share.client in LATE:
            unknown += [u.id for u in share.train]
    k, u = (log_odds_of(model, judge.examples(ids)).numpy() for ids in (known, unknown))
    found = late.results["unknown_speakers"]
    assert found["drop"] == pytest.approx((k.mean() - u.mean()) / k.std(), rel=1e-6)
    assert found["spread"] == pytest.approx(u.std() / k.std(), rel=1e-6)
    assert late.run.state.unknown is not None and late.run.state.unknown.drop == found["drop"]


def test_what_late_clients_say_changes_nothing_before_they_join(late: Late) -> None:
    """Other emotions for all of their speech: the same model when they join, another one a round later."""
    data = late.data()
    own = [data.place[u] for c in LATE for u in (*data.train[c], *data.test[c])]
    labels = data.labels.copy()
    labels[own] = (labels[own] + 1) % data.classes

    def weights(rounds: int, labels: Any) -> dict[str, torch.Tensor]:
        return Replay(replace(late.data(rounds), labels=labels), late.run.config.seed).play()["recovered"]

    for rounds, equal in ((UNTIL, True), (UNTIL + 1, False)):
        one, other = weights(rounds, data.labels), weights(rounds, labels)
        assert all(torch.equal(one[k], v) for k, v in other.items()) == equal


def test_a_replay_finds_the_same_numbers_bit_for_bit(late: Late) -> None:
    federation = Replay(late.data(), late.run.config.seed)
    federation.play()
    assert federation.unknown == late.run.state.unknown is not None


@pytest.mark.parametrize(
    "overrides",
    [
        {"deletions__schedule": [{"client": c, "what": "some", "count": 4, "round": 1} for c in (1, 3)]},
        pytest.param({"availability__offline": 0.3}, marks=pytest.mark.slow),
        pytest.param(
            {"partition__recordings": [{"client": c, "count": 4, "round": 1} for c in (1, 3)]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_so_it_does_whatever_the_run_met(tmp_path: Path, overrides: dict[str, Any]) -> None:
    met = Late(tmp_path, **overrides)
    federation = Replay(met.data(), met.run.config.seed)
    stages, model = federation.play(), met.run.state.model
    assert federation.unknown == met.run.state.unknown is not None and model is not None
    assert all(torch.equal(stages["recovered"][k], v) for k, v in model.weights.items())


@pytest.mark.parametrize("when", [1, *(pytest.param(when, marks=pytest.mark.slow) for when in (0, 2))])
def test_a_late_client_may_ask_for_deletion_before_it_has_joined(tmp_path: Path, when: int) -> None:
    schedule = [
        {"client": 1, "what": "all", "round": when},
        {"client": 2, "what": "some", "count": 4, "round": when},
        {"client": 4, "what": "some", "count": 3, "after_learning": 0},
    ]
    results = run_small(tmp_path / "run", late_config(deletions__schedule=schedule))
    assert results["status"] == "complete"
    assert [r["state"] for r in results["requests"]] == ["verified"] * 3
    assert results["unknown_speakers"]["spread"] > 0, "client 2 keeps some speech, and still is unknown"


def test_nothing_is_measured_in_too_few_rounds(inline_run: tuple[Path, dict[str, Any]]) -> None:
    assert inline_run[1]["config"]["training"]["rounds"] == 3
    assert inline_run[1]["unknown_speakers"] is None


def test_an_original_from_the_cache_brings_its_numbers_and_its_cost(late: Late, tmp_path: Path) -> None:
    again = run_small(tmp_path / "run", late_config(unlearning__method="none"), cache=late.cache)
    assert again["unknown_speakers"] == late.results["unknown_speakers"]
    ways = ("bytes_up", "bytes_down")
    assert [again["cost"]["learn"][w] for w in ways] == [late.results["cost"]["learn"][w] for w in ways]


def test_the_sums_are_a_cost_of_learning(tmp_path: Path, late: Late) -> None:
    """The model goes to each client once more, but to a late one not in the two rounds that it missed."""
    all_train = run_small(tmp_path / "run", late_config(training__late_clients=0.0))
    model = late.run.state.model
    assert model is not None and all_train["unknown_speakers"] is None
    size = sum(v.numel() * v.element_size() for v in model.weights.values())
    down = [r["cost"]["learn"]["bytes_down"] for r in (late.results, all_train)]
    assert (down[1] - down[0]) / size == pytest.approx(UNTIL * len(LATE) - 6, abs=0.2)


@pytest.mark.slow
def test_a_server_that_dies_between_two_clients_joining_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: Late
) -> None:
    """When the sums have been sent and nobody has read them, and in the round after."""
    config = late_config(federation__checkpoint_every=1)
    whole = run_small(tmp_path / "whole", config, cache=tmp_path / "one"), weights_of(tmp_path / "whole")
    ask, out = Clients.ask, tmp_path / "run"
    for kind, asked in (("evaluate.log_odds", 1), ("train", 1)):
        left = asked

        def dies(self: Clients, of: str, *rest: Any, kind: str = kind, **more: Any) -> Any:
            nonlocal left
            answers = ask(self, of, *rest, **more)
            left -= of == kind
            if left == 0:
                raise Death
            return answers

        with monkeypatch.context() as patched:
            patched.setattr(Clients, "ask", dies)
            with pytest.raises(Death):
                resumed(out, config, tmp_path / "cache")
    assert_same(out, resumed(out, config, tmp_path / "cache"), whole)
    assert whole[0]["unknown_speakers"] == late.results["unknown_speakers"]


@pytest.mark.slow
def test_ray_measures_the_same_bits(tmp_path: Path, late: Late) -> None:
    results = run_small(
        tmp_path / "run", late_config(federation__engine="ray", federation__workers=2), cache=tmp_path / "c"
    )
    assert results["unknown_speakers"] == late.results["unknown_speakers"]
    assert without_times(results) == without_times(late.results)
