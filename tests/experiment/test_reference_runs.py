"""Whole small runs of the privileged baselines: who takes part, what is left out, and what equals what."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from small_run import prepared, run_small, small_config, weights_of, without_times
from spoiled_replies import Spoil
from torch import Tensor

import fedunlearn.server.procedures
from fedunlearn.blockwise import StateDict
from fedunlearn.checkpoints import load_checkpoint
from fedunlearn.client.app import make_client_app
from fedunlearn.client.device import Device
from fedunlearn.config import Config
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.engines.engine import run_inline
from fedunlearn.errors import RunFailed
from fedunlearn.examples import Examples
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.experiment.references import retrained_stream
from fedunlearn.ledger import Ledger
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.records import unpack
from fedunlearn.models import build_model
from fedunlearn.models.contract import trained_names
from fedunlearn.seeding import rng_for
from fedunlearn.server.availability import Availability
from fedunlearn.server.clients import Clients
from fedunlearn.server.context import ServerContext
from fedunlearn.server.history import History
from fedunlearn.server.privileged import PrivilegedServer
from fedunlearn.server.procedures import Procedure
from fedunlearn.server.state import ServerState
from fedunlearn.unlearning import PRIVILEGED
from fedunlearn.unlearning.privileged.contract import HistoryCard, RoundsCard
from fedunlearn.vault.vault import Vault

ALL = sorted(PRIVILEGED)
FORGETTING = ["fedosd", "neggrad-plus", "oracle-matching", "regun", "scrub"]
SAME = dict(rounds=2, steps=2, lr=0.05)
FEW: dict[str, Any] = {
    "unlearning.fine_tune.rounds": 2,
    "unlearning.neggrad_plus.rounds": 2,
    "unlearning.scrub.rounds": 3,
    "unlearning.scrub.max_rounds": 2,
    "unlearning.scrub.forget.max_steps": 20,
    "unlearning.not_.rounds": 2,
    "unlearning.fed_eraser.interval": 1,
    "unlearning.regun.rounds": 1,
    "unlearning.fedosd.rounds": 2,
    "unlearning.fedosd.forget_rounds": 1,
    "unlearning.rewind_to_delete.rounds": 3,
    "unlearning.oracle_matching.rounds": 1,
}
SEES_HISTORY = {"fed-eraser", "rewind-to-delete"}
TEACHING = {"oracle-matching", "scrub"}


def config_of(method: str, **overrides: Any) -> Config:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return small_config(**(FEW | {"unlearning.method": method} | dotted))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Originals and retrained models are shared by all runs here."""
    return tmp_path_factory.mktemp("references")


def states(out: Path, name: str, cache: Path | None = None) -> dict[str, Tensor]:
    """A model of a run; the exact original is in the cache, the run folder's is blurred."""
    if name == "original":
        assert cache is not None
        key = json.loads((out / "results.json").read_text())["references"]["original"]
        learned = ReferenceCache(cache).find(key)
        assert learned is not None
        return dict(learned.state)
    return load_checkpoint(out / "checkpoints" / f"{name}.safetensors")[0]


class Listener:
    """A Flower mod that writes down every message of some kinds: (kind, client, what was sent, reply)."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.exchanged: list[tuple[str, int, RecordDict, RecordDict]] = []

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        kind = message.metadata.message_type
        if kind in self.kinds:
            client = int(context.node_config["partition-id"])
            self.exchanged.append((kind, client, message.content, reply.content))
        return reply

    def clients(self, kind: str) -> set[int]:
        return {client for k, client, _, _ in self.exchanged if k == kind}


# ---- a run of each ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ALL)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> tuple[str, Path, dict[str, Any], Listener]:
    method: str = request.param
    out = tmp_path_factory.mktemp(method) / "run"
    listener = Listener("train", "train.calibrate", "train.unlearn", "train.forget_part", "train.retain_part")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "kept", _without_requests)
        results = run_small(out, config_of(method), [listener], cache)
    return method, out, results, listener


def _without_requests(
    self: Device, content: RecordDict, kept: Callable[[Device, RecordDict], Examples] = Device.kept
) -> Examples:
    """A client that leaves something out trains on exactly what it does not have to delete."""
    examples = kept(self, content)
    if "withheld" in content.config_records:
        open_ = {u for r in RequestStore(self.vault.folder).open() for u in r.utterances}
        ids = self.vault.ids("train")
        assert open_ and open_ <= set(ids)
        expected = self.vault.examples([u for u in ids if u not in open_], self.model)
        assert torch.equal(examples.features, expected.features)
        assert torch.equal(examples.labels, expected.labels)
    return examples


def test_it_completes_and_says_what_it_sees(run: tuple[str, Path, dict[str, Any], Listener]) -> None:
    method, out, results, _ = run
    assert results["status"] == "complete" and results["faults"] == []
    assert results["unlearning"]["method"] == method
    assert results["unlearning"]["sees"] == ("history" if method in SEES_HISTORY else "retain")
    assert json.loads((out / "results.json").read_text())["unlearning"] == results["unlearning"]
    assert {name for row in results["ranking"] for name in [row["name"]]} >= {f"unlearned ({method})"}


def test_requests_go_through_every_state_and_wait_for_the_rounds(
    run: tuple[str, Path, dict[str, Any], Listener],
) -> None:
    method, out, results, _ = run
    ledger = Ledger(out / "ledger.sqlite")
    rounds = {"fine-tune": 2, "neggrad-plus": 2, "scrub": 3, "not": 2, "fed-eraser": 3, "retrained": 3}
    rounds |= {"regun": 1, "fedosd": 2, "rewind-to-delete": 3, "oracle-matching": 3 + 1}
    for request in results["requests"]:
        states_ = list(ledger.states(request["id"], request["client"]))
        assert states_ == ["raised", "accepted", "unlearned", "applied", "purged", "verified"]
        assert request["rounds_waited"] == rounds[method]
        assert (request["steps"] > 0) == (method in FORGETTING)
    ledger.close()
    rows = [row for row in results["timeline"] if row["phase"] == "unlearn"]
    assert [row["round"] for row in rows if row["loss"] is not None] == [
        *range(4, 4 + rounds[method]),
        *range(5 + rounds[method], 5 + 2 * rounds[method]),
    ]
    assert [len(row["requests"]) for row in rows if row["requests"]] == [1, 2]


def test_its_cost_is_counted_under_unlearn(
    run: tuple[str, Path, dict[str, Any], Listener], cache: Path
) -> None:
    method, _, results, listener = run
    cost = results["cost"]["unlearn"]
    rounds = {"fine-tune": 4, "neggrad-plus": 8, "scrub": 10, "not": 4, "fed-eraser": 6, "retrained": 6}
    rounds |= {"regun": 4, "fedosd": 2 * (2 + 1), "rewind-to-delete": 6, "oracle-matching": 2 * (3 + 2)}
    assert cost["rounds"] == rounds[method]
    assert cost["client_seconds"] > 0 and cost["wall_seconds"] > 0
    weights = sum(v.numel() * v.element_size() for v in states(run[1], "original", cache).values())
    replies = [m for m in listener.exchanged if m[0].endswith("_part") or "withheld" in m[2].config_records]
    assert cost["bytes_up"] > weights * len(replies) > 0
    assert results["cost"]["learn"]["rounds"] == 3


def test_no_client_unlearns_alone_and_a_client_without_data_no_longer_trains(
    run: tuple[str, Path, dict[str, Any], Listener],
) -> None:
    """Client 1 deletes everything; 2 and 3 later delete some."""
    method, _, _, listener = run
    card = PRIVILEGED[method]
    assert not listener.clients("train.unlearn")
    training_kind = "train.retain_part" if isinstance(card, RoundsCard) else "train"
    withheld = [
        (client, content.config_records["withheld"]["requests"], reply.metric_records["metrics"]["examples"])
        for kind, client, content, reply in listener.exchanged
        if kind == training_kind and "withheld" in content.config_records
    ]
    assert {client for client, _, _ in withheld} == {2, 3}
    assert {(client, examples) for client, _, examples in withheld} == {(2, 10), (3, 11)}
    if isinstance(card, RoundsCard):
        assert listener.clients("train.retain_part") == {0, 2, 3, 4, 5}
        assert listener.clients("train.forget_part") == ({1, 2, 3} if card.forget else set())
    teachers = {kind for kind, _, content, _ in listener.exchanged if "teacher" in content.array_records}
    assert teachers == ({"train.forget_part", "train.retain_part"} if method in TEACHING else set())


def test_what_was_requested_is_gone(run: tuple[str, Path, dict[str, Any], Listener]) -> None:
    _, out, results, _ = run
    for request in results["requests"]:
        vault = Vault(out / "vaults" / f"client-{request['client']:04d}")
        store = RequestStore(vault.folder).all()
        assert not {u for r in store for u in r.utterances} & vault.entries.keys()


@pytest.mark.parametrize("method", ["scrub", pytest.param("fed-eraser", marks=pytest.mark.slow)])
def test_the_same_run_twice_is_the_same_run(tmp_path: Path, cache: Path, method: str) -> None:
    results = [run_small(tmp_path / name, config_of(method), cache=cache) for name in "ab"]
    results[1]["times"] = results[0]["times"]
    assert without_times(results[0]) == without_times(results[1])
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


# ---- what equals what ------------------------------------------------------------------------------------


def unlearned_by(tmp_path: Path, cache: Path, name: str, method: str, **chosen: Any) -> dict[str, str]:
    run_small(tmp_path / name, config_of(method, recovery__rounds=0, **chosen), cache=cache)
    return weights_of(tmp_path / name)


@pytest.mark.parametrize("method", ["fine_tune", "scrub", "fedosd"])
def test_no_rounds_leave_the_original(tmp_path: Path, cache: Path, method: str) -> None:
    name = method.replace("_", "-")
    chosen = {f"unlearning__{method}__rounds": 0}
    weights = unlearned_by(tmp_path, cache, "run", name, **chosen)
    assert len({weights[f"{m}.safetensors"] for m in ("original", "unlearned", "recovered")}) == 1


def test_not_without_rounds_is_the_original_negated_and_two_requests_undo_it(
    tmp_path: Path, cache: Path
) -> None:
    once = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    twice = [*once, {"client": 3, "what": "some", "count": 3, "after_learning": 1}]
    chosen: dict[str, Any] = {"unlearning.not_.rounds": 0, "recovery.rounds": 0}
    run_small(tmp_path / "once", config_of("not", deletions__schedule=once, **chosen), cache=cache)
    run_small(tmp_path / "twice", config_of("not", deletions__schedule=twice, **chosen), cache=cache)
    before, after = states(tmp_path / "once", "original", cache), states(tmp_path / "once", "unlearned")
    assert torch.equal(after["head.0.weight"], -before["head.0.weight"])
    assert all(torch.equal(after[k], v) for k, v in before.items() if k != "head.0.weight")
    undone = states(tmp_path / "twice", "unlearned")
    assert all(torch.equal(undone[k], v) for k, v in before.items())


def test_neggrad_plus_and_scrub_reduce_to_fine_tuning(tmp_path: Path, cache: Path) -> None:
    def same(section: str, **more: Any) -> dict[str, Any]:
        return {f"unlearning__{section}__{key}": value for key, value in (SAME | more).items()}

    tuned = unlearned_by(tmp_path, cache, "tuned", "fine-tune", **same("fine_tune"))
    plus = unlearned_by(tmp_path, cache, "plus", "neggrad-plus", **same("neggrad_plus", alpha=1.0))
    scrubbed = same("scrub", max_rounds=0, alpha=0.0, gamma=1.0)
    obedient = unlearned_by(tmp_path, cache, "scrub", "scrub", **scrubbed)
    assert plus == tuned and obedient == tuned
    assert tuned["unlearned.safetensors"] != tuned["original.safetensors"]


def test_fedosd_without_forget_rounds_is_a_round_of_fine_tuning(tmp_path: Path, cache: Path) -> None:
    """The model has not moved yet, so that nothing is taken out of the first round's updates."""
    one = {key: value for key, value in (SAME | {"rounds": 1}).items()}
    tuned = unlearned_by(
        tmp_path, cache, "tuned", "fine-tune", **{f"unlearning__fine_tune__{k}": v for k, v in one.items()}
    )
    across = {f"unlearning__fedosd__{k}": v for k, v in (one | {"forget_rounds": 0}).items()}
    assert unlearned_by(tmp_path, cache, "across", "fedosd", **across) == tuned


def test_fedosd_steps_across_what_all_would_learn_and_recovers_across_that_step(
    tmp_path: Path, cache: Path
) -> None:
    """From the messages alone: the joint step has the length of the requesters' sum, and is orthogonal to
    each update of what is kept; the next round's mean is orthogonal to the step.
    """
    listener = Listener("train.forget_part", "train.retain_part")
    schedule = [{"client": c, "what": "some", "count": 4, "after_learning": 0} for c in (1, 2)]
    config = config_of("fedosd", deletions__schedule=schedule, recovery__rounds=0)
    run_small(tmp_path / "run", config, [listener], cache)
    halves = [[m for m in listener.exchanged if m[0] == kind] for kind in listener.kinds]
    assert [len(half) for half in halves] == [2, 2 * 6]

    def flat(state: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([state[name].double().flatten() for name in sorted(state)])

    def vector(record: RecordDict, part: str) -> Tensor:
        return flat(unpack(record.array_records[part]))

    start = flat(states(tmp_path / "run", "original", cache))
    assert all(torch.equal(vector(m[2], "weights"), start) for m in (*halves[0], *halves[1][:6]))
    moved = vector(halves[1][6][2], "weights") - start
    wanted = sum((vector(m[3], "update") for m in halves[0]), torch.zeros(()))
    assert float(moved.norm()) == pytest.approx(float(wanted.norm()), rel=1e-4)
    for m in halves[1][:6]:
        update = vector(m[3], "update")
        assert abs(float(moved @ update)) < 1e-4 * float(moved.norm() * update.norm())
    back = flat(states(tmp_path / "run", "unlearned")) - start - moved
    assert abs(float(back @ moved)) + float(back.norm()) > 0 and float(back.norm()) > 0
    assert abs(float(back @ moved)) < 1e-4 * float(moved.norm() * back.norm())


def test_the_oracle_is_a_retrained_model(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the judge's stream it is the judge's, to the bit, and everybody is sent it."""
    listener = Listener("train.forget_part", "train.retain_part")
    only = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    config = config_of("oracle-matching", deletions__schedule=only, recovery__rounds=0)
    judges = retrained_stream(config.seed, 0)
    monkeypatch.setattr(fedunlearn.server.procedures, "stream_key", lambda *_: judges)
    run_small(tmp_path / "run", config, [listener], cache)
    retrained = states(tmp_path / "run", "retrained")
    assert len(listener.exchanged) == 1 + 6
    for _, _, content, _ in listener.exchanged:
        teacher = unpack(content.array_records["teacher"])
        assert all(torch.equal(teacher[name], value) for name, value in retrained.items())


def test_retraining_as_a_method_is_the_judges_with_another_stream(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the judge's own stream it is the judge's model to the bit: vaults that still hold D_f and leave it
    out are as good as vaults without it.
    """
    schedule = [
        {"client": 1, "what": "all", "after_learning": 0},
        {"client": 2, "what": "some", "count": 4, "after_learning": 0},
    ]
    other = unlearned_by(tmp_path, cache, "other", "retrained", deletions__schedule=schedule)
    assert other["unlearned.safetensors"] != other["retrained.safetensors"]
    judges = retrained_stream(config_of("retrained").seed, 0)
    monkeypatch.setattr(fedunlearn.server.procedures, "stream_key", lambda *_: judges)
    same = unlearned_by(tmp_path, cache, "same", "retrained", deletions__schedule=schedule)
    assert same["retrained.safetensors"] == other["retrained.safetensors"]
    assert same["unlearned.safetensors"] == same["retrained.safetensors"]


class NoDigests:
    """Digests that nobody notes."""

    def on_update(self, *_: Any) -> None: ...
    def on_model(self, *_: Any) -> None: ...
    def on_commitments(self, *_: Any) -> None: ...


class Nobody:
    """Callbacks that do nothing."""

    digests = NoDigests()

    def on_round_end(self, row: Mapping[str, Any], weights: StateDict | None) -> None: ...
    def on_request_state(self, *_: Any) -> None: ...
    def ledger_head(self) -> str:
        return ""

    def on_first_request(self) -> None: ...
    def on_unlearn_updates(self, *_: Any) -> dict[int, Any]:
        return {}

    def checkpoint(self, copies: int = 1) -> None: ...


def with_server(
    out: Path, config: Config, body: Callable[[PrivilegedServer, dict[str, Tensor]], None]
) -> None:
    """Call with a server among the devices of a prepared run, and with random weights to start from."""
    experiment = prepared(out, config)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _: Context) -> None:
        template = build_model(config.model, 6, rng_for(0, "template"))
        initial = build_model(config.model, 6, rng_for(config.seed, "initial weights")).state_dict()
        card = PRIVILEGED[config.unlearning.method]
        state = ServerState(History(trained_names(template)))
        clients = Clients(grid, config.federation, 6, threading.Event(), state)
        availability = Availability(config.availability, config.seed, 6)
        context = ServerContext(clients, config, template, state, Nobody(), availability)
        body(PrivilegedServer(context, card), initial)

    client_app = make_client_app(str(out.resolve()))
    run_inline(app, client_app, 6, config.federation, experiment.run.log)
    experiment.close()


def played_by(server: PrivilegedServer) -> Procedure:
    """Its procedure, where nobody has requested anything."""
    return server.procedure(server.rounds_for([]))


@pytest.mark.parametrize("optimizer", [pytest.param("average", marks=pytest.mark.slow), "adam"])
def test_fed_eraser_with_nothing_to_erase_learns_the_same_again(tmp_path: Path, optimizer: str) -> None:
    """All rounds, all epochs, the streams of learning: the new updates have the old sizes already."""
    every: dict[str, Any] = {
        "unlearning__fed_eraser__interval": 1,
        "unlearning__fed_eraser__calibration_ratio": 1.0,
        "training__server_optimizer": optimizer,
        "training__local__lr_schedule": "cosine",
        "training__local__batch_size": 4,
    }
    config = config_of("fed-eraser", **every)
    distances: list[float] = []

    def body(server: PrivilegedServer, initial: dict[str, Tensor]) -> None:
        server.begin(initial)
        learned = server.state.model
        assert learned is not None
        for number in range(1, 4):
            learned, _ = server.rounds.train_round(learned, config.seed, number, Phase.LEARN)
        card = PRIVILEGED["fed-eraser"]
        assert isinstance(card, HistoryCard)
        for stream in (config.seed, config.seed + 1):
            again = played_by(server).relearn_from_history(card, learned, stream)
            assert again.learning_rounds == 3
            distances.append(
                max(float((again.weights[k] - v).abs().max()) for k, v in learned.weights.items())
            )
        scratch = played_by(server).train_from_scratch(learned, config.seed)
        distances.append(max(float((scratch.weights[k] - v).abs().max()) for k, v in learned.weights.items()))

    with_server(tmp_path / "run", config, body)
    assert distances[0] < 1e-5 < 1e-3 < distances[1]
    assert distances[2] == 0.0


def test_rewinding_with_nothing_to_delete_learns_the_same_again(tmp_path: Path) -> None:
    """By one round, with the streams of learning; from the first weights where no model was kept."""
    config = config_of("rewind-to-delete", unlearning__rewind_to_delete__rounds=1)
    found: list[tuple[bool, int]] = []

    def body(server: PrivilegedServer, initial: dict[str, Tensor]) -> None:
        server.begin(initial)
        learned, history = server.state.model, server.state.history
        assert learned is not None and history.rewind_to == 2
        for number in range(1, 4):
            learned, _ = server.rounds.train_round(learned, config.seed, number, Phase.LEARN)
            history.keep_model(learned.weights, number)

        def again(stream: int) -> tuple[bool, int]:
            before = server.state.timeline_round
            weights = played_by(server).rewind(learned, stream).weights
            same = all(torch.equal(weights[name], value) for name, value in learned.weights.items())
            return same, server.state.timeline_round - before

        found.extend([again(config.seed), again(config.seed + 1)])
        history.forget(0, left=False)
        found.append(again(config.seed))

    with_server(tmp_path / "run", config, body)
    assert found == [(True, 1), (False, 1), (True, 3)]


def test_a_kept_original_without_the_model_to_go_back_to_is_learned_anew(tmp_path: Path) -> None:
    """The same original in all three runs; the second needs more of its history than the first had kept."""
    only = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]

    def origin(name: str, back: int) -> str:
        config = config_of(
            "rewind-to-delete",
            deletions__schedule=only,
            recovery__rounds=0,
            unlearning__rewind_to_delete__rounds=back,
        )
        results = run_small(tmp_path / name, config, cache=tmp_path / "cache")
        assert results["status"] == "complete"
        assert results["cost"]["unlearn"]["rounds"] == back
        return str(results["times"]["references"]["original"])

    assert [origin("all", 3), origin("one", 1), origin("again", 1), origin("all again", 3)] == [
        "trained",
        "trained",
        "cached",
        "cached",
    ]


def test_the_server_weighs_both_halves_of_neggrad_plus(tmp_path: Path, cache: Path) -> None:
    """From the messages alone: w + (1 - alpha) * sum of the requesters' steps goes out to be trained on what
    is kept, and alpha * the mean of what comes back, weighted by utterances kept, is added.
    """
    listener = Listener("train.forget_part", "train.retain_part")
    schedule = [
        {"client": 1, "what": "all", "after_learning": 0},
        {"client": 2, "what": "some", "count": 4, "after_learning": 0},
    ]
    config = config_of(
        "neggrad-plus", unlearning__neggrad_plus__alpha=0.25, deletions__schedule=schedule, recovery__rounds=0
    )
    run_small(tmp_path / "run", config, [listener], cache)
    halves = [[m for m in listener.exchanged if m[0] == kind] for kind in listener.kinds]
    assert [len(half) for half in halves] == [2 * 2, 2 * 5]

    def name(record: RecordDict, part: str) -> Tensor:
        return unpack(record.array_records[part])["head.0.weight"].double()

    now = states(tmp_path / "run", "original", cache)["head.0.weight"].double()
    for turn in range(2):
        away = halves[0][2 * turn : 2 * turn + 2]
        assert all(torch.equal(name(m[2], "weights"), now) for m in away)
        now = (now + 0.75 * sum(name(m[3], "update") for m in away)).float().double()
        kept = halves[1][5 * turn : 5 * turn + 5]
        assert all(torch.equal(name(m[2], "weights"), now) for m in kept)
        counts = [int(m[3].metric_records["metrics"]["examples"]) for m in kept]  # type: ignore[arg-type]
        assert counts == [14, 10, 14, 14, 14]
        mean = sum(n * name(m[3], "update") for n, m in zip(counts, kept, strict=True)) / sum(counts)
        now = (now + 0.25 * mean).float().double()
    torch.testing.assert_close(states(tmp_path / "run", "unlearned")["head.0.weight"].double(), now)


# ---- at the edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "when"),
    [
        ("fed-eraser", {"after_learning": 0}),
        ("scrub", {"round": 1}),
        ("retrained", {"round": 1}),
        *(pytest.param(m, {"after_learning": 0}, marks=pytest.mark.slow) for m in ALL if m != "fed-eraser"),
    ],
)
def test_everybody_takes_everything_back(
    tmp_path: Path, cache: Path, method: str, when: dict[str, int]
) -> None:
    everybody = [{"client": c, "what": "all", **when} for c in range(6)]
    results = run_small(tmp_path / "run", config_of(method, deletions__schedule=everybody), cache=cache)
    assert results["status"] == "complete"
    assert {r["state"] for r in results["requests"]} == {"verified"}
    assert all(not Vault(p).entries for p in sorted((tmp_path / "run" / "vaults").iterdir()))


@pytest.mark.parametrize("method", ["fed-eraser", "scrub", pytest.param("retrained", marks=pytest.mark.slow)])
def test_a_request_during_learning_is_served_and_learning_goes_on(tmp_path: Path, method: str) -> None:
    early = [{"client": 2, "what": "some", "count": 4, "round": 2}]
    results = run_small(tmp_path / "run", config_of(method, deletions__schedule=early))
    assert results["status"] == "complete"
    again = {"fed-eraser": 2, "retrained": 2, "scrub": 3}[method]  # no more rounds than were done
    phases = [row["phase"] for row in results["timeline"]]
    assert phases == ["learn", "learn", *["unlearn"] * (again + 1), "recover", "learn"]


@pytest.mark.parametrize("how", [pytest.param("mean", marks=pytest.mark.slow), "sequential"])
def test_every_aggregation_joins_the_forget_halves(tmp_path: Path, cache: Path, how: str) -> None:
    results = run_small(tmp_path / "run", config_of("scrub", unlearning__aggregation=how), cache=cache)
    assert results["status"] == "complete"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("scrub", "train.retain_part"),
        pytest.param("fed-eraser", "train", marks=pytest.mark.slow),
    ],
)
def test_a_round_of_a_reference_has_its_quorum(tmp_path: Path, cache: Path, method: str, kind: str) -> None:
    class Late(Spoil):
        """Well while learning, which has the run's own stream."""

        def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
            learning = kind == "train" and message.metadata.message_type == kind
            if learning and message.content.config_records["settings"]["stream"] == config.seed:
                return call_next(message, context)
            return super().__call__(message, context, call_next)

    only = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    config = config_of(method, deletions__schedule=only, recovery__rounds=0)
    one = run_small(tmp_path / "one", config, [Late(kind, "nan", client=4)], cache)
    assert one["status"] == "complete"
    assert {(f["client"], f["phase"]) for f in one["faults"]} == {(4, "unlearn")}
    assert len(one["faults"]) == 2 * 3  # repeated once in each of three rounds
    with pytest.raises(RunFailed, match=r"\(unlearn\): 4 of 6 clients answered properly"):
        run_small(tmp_path / "two", config, [Late(kind, "nan", client=c) for c in (4, 5)], cache)


@pytest.mark.parametrize(
    ("method", "spared"), [pytest.param("neggrad-plus", 0, marks=pytest.mark.slow), ("scrub", 1)]
)
def test_a_requester_that_fails_its_half_stays_accepted_and_the_others_are_served(
    tmp_path: Path, cache: Path, method: str, spared: int
) -> None:
    class AfterSome(Spoil):
        def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
            mine = message.metadata.message_type == self.kind
            if mine and context.node_config["partition-id"] == self.client and left:
                left.pop()
                return call_next(message, context)
            return super().__call__(message, context, call_next)

    left = [None] * spared
    mods = [AfterSome("train.forget_part", "nan", client=2)]
    results = run_small(tmp_path / "run", config_of(method), mods, cache)
    assert results["status"] == "partial"
    assert {r["client"]: r["state"] for r in results["requests"]} == {
        1: "verified",
        2: "accepted",
        3: "verified",
    }
    assert len(Vault(tmp_path / "run" / "vaults" / "client-0002").ids("train")) == 14


def test_if_no_requester_forgets_the_original_stands(tmp_path: Path, cache: Path) -> None:
    only = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    config = config_of("neggrad-plus", deletions__schedule=only)
    results = run_small(tmp_path / "run", config, [Spoil("train.forget_part", "raise", client=2)], cache)
    assert results["status"] == "partial"
    weights = weights_of(tmp_path / "run")
    assert weights["recovered.safetensors"] == weights["original.safetensors"]


def test_a_late_purge_is_left_out_until_it_comes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 1's first purge fails; when client 2 requests deletion a round later, both leave their own
    out."""
    some = [{"client": c, "what": "some", "count": 4, "after_learning": c - 1} for c in (1, 2)]
    config = config_of("fine-tune", deletions__schedule=some, recovery__rounds=0)
    monkeypatch.setattr(Device, "kept", _without_requests)
    listener = Listener("train.retain_part")
    mods = [listener, Spoil("query.purge", "raise", times=2, client=1)]
    results = run_small(tmp_path / "run", config, mods, cache)
    assert results["status"] == "complete"
    sums = [
        (client, "withheld" in content.config_records, reply.metric_records["metrics"]["examples"])
        for _, client, content, reply in listener.exchanged
        if client in (1, 2)
    ]
    assert sums == [(1, True, 10), (2, False, 14)] * 2 + [(1, True, 10), (2, True, 10)] * 2


def test_a_device_answers_no_message_of_another_kind_of_method(tmp_path: Path, cache: Path) -> None:
    """Asked for a part that the configured method does not have, it refuses."""
    for method, kind in (
        ("l2ul", "train.retain_part"),
        ("fine-tune", "train.unlearn"),
        ("none", "train.forget_part"),
    ):
        experiment = prepared(tmp_path / method, config_of(method), cache)
        app = ServerApp()
        messages: list[str] = []

        @app.main()
        def main(grid: Grid, context: Context, kind: str = kind, messages: list[str] = messages) -> None:
            message = Message(RecordDict(), dst_node_id=1, message_type=kind)
            messages.extend(r.error.reason for r in grid.send_and_receive([message]))

        client_app = make_client_app(str((tmp_path / method).resolve()))
        run_inline(app, client_app, 6, experiment.config.federation, experiment.run.log)
        experiment.close()
        assert len(messages) == 1 and "DeviceFailed: KeyError" in messages[0], messages
