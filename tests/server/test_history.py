"""What the server remembers: sizes by hand, the same from the cache, nothing of the purged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import prepared, run_small, small_config, weights_of, without_times
from torch import Tensor

import fedunlearn.experiment.reference_cache
from fedunlearn.config import Config
from fedunlearn.engines.engine import play
from fedunlearn.experiment.reference_cache import Learned, ReferenceCache
from fedunlearn.messages.update import Update
from fedunlearn.server.app import Server
from fedunlearn.server.history import History

TRAINED = ("head.weight", "head.bias")
FUNCTIONALS = ("head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias")


def difference(scale: float) -> dict[str, Tensor]:
    return {
        "norm.mean": torch.zeros(2),
        "head.weight": scale * torch.tensor([[3.0], [4.0]]),
        "head.bias": torch.tensor([-scale]),
    }


def example() -> History:
    history = History(TRAINED, {"norm.mean": torch.tensor([7.0, 0.1]), **difference(0.0)})
    for round_ in (1, 2):
        for client in (0, 10, 2):
            history.remember(Update(client, 1, difference(0.1 * round_ * (client + 1))), round_)
    history.remember(Update(2, 1, difference(-5.0)), None)
    return history


# ---- remembering -----------------------------------------------------------------------------------------


def test_sizes_and_the_last_difference_by_hand() -> None:
    """|2 * (3, 4)| = 10, |-2| = 2; a recovery round replaces the last difference and adds no size."""
    history = History(TRAINED)
    history.remember(Update(4, 1, difference(2.0)), 1)
    history.remember(Update(4, 1, difference(1.0)), None)
    assert history.norms == {1: {4: {"head.weight": 10.0, "head.bias": 2.0}}}
    assert list(history.last) == [4] and tuple(history.last[4]) == TRAINED
    assert torch.equal(history.last[4]["head.weight"], torch.tensor([[3.0], [4.0]]))


def test_the_model_to_go_back_to_is_kept_and_comes_back_until_a_purge() -> None:
    """Only that of its round; with it everything that it has learned, which is why a purge drops it."""
    history = History(TRAINED, difference(0.0), rewind_to=2)
    models = {n: difference(float(n)) for n in (1, 2, 3)}
    before = history.bytes_stored
    assert History.from_tensors(TRAINED, history.as_tensors(), models[1]).rewind_to == 2
    for learning_round, weights in models.items():
        history.keep_model(weights, learning_round)
    assert history.bytes_stored == 2 * before
    again = History.from_tensors(TRAINED, history.as_tensors(), models[1])
    assert again.rewind_to == 2 and list(again.earlier) == list(models[2])
    assert all(torch.equal(again.earlier[name], value) for name, value in models[2].items())
    again.forget(7, left=False)
    assert not again.earlier and not any(name.startswith("earlier.") for name in again.as_tensors())


def test_after_a_purge_the_last_step_is_gone_and_of_a_client_that_left_its_sizes_too() -> None:
    history = example()
    history.forget(10, left=False)
    assert list(history.last) == [0, 2] and set(history.norms[1]) == {0, 10, 2}
    history.forget(0, left=True)
    assert list(history.last) == [2] and all(set(of_round) == {10, 2} for of_round in history.norms.values())
    history.forget(99, left=True)


def test_the_usual_norm_by_hand() -> None:
    """Of scale s the norm is s * sqrt(26); in round 2 the scales are .2 (client 0), 2.2 (10) and .6 (2)."""
    history, root = example(), 26**0.5
    assert history.usual_norm([0, 2, 10]) == pytest.approx(0.6 * root)
    assert history.usual_norm([0, 10, 77]) == pytest.approx(1.2 * root)
    assert history.usual_norm([]) == History(TRAINED).usual_norm([0]) == float("inf")
    history.remember(Update(0, 1, difference(7.0)), 3)  # the others sat this one out: their last was round 2
    assert history.usual_norm([0, 2]) == pytest.approx((7.0 + 0.6) / 2 * root)
    history.remember(Update(0, 1, difference(70.0)), None)  # not an ordinary round
    assert history.usual_norm([0]) == pytest.approx(7.0 * root)


def test_bytes_by_hand() -> None:
    """initial 5 float32; of three clients 3 float32 each; 2 rounds x 3 clients x 2 sizes of 8 bytes."""
    assert example().bytes_stored == 4 * 5 + 3 * 4 * 3 + 8 * 12
    assert History(TRAINED).bytes_stored == 0


# ---- keeping ---------------------------------------------------------------------------------------------


def same(one: History, other: History) -> bool:
    """In every bit and in every order but that of the clients, who come in any."""

    def bits(state: Any) -> list[tuple[str, bytes]]:
        return [(key, value.numpy().tobytes()) for key, value in state.items()]

    return (
        list(one.trained) == list(other.trained)
        and one.norms == other.norms
        and bits(one.initial) == bits(other.initial)
        and {c: bits(own) for c, own in one.last.items()} == {c: bits(own) for c, own in other.last.items()}
    )


def test_a_history_comes_back_from_the_cache_as_it_went_in(tmp_path: Path) -> None:
    cache, curve = ReferenceCache(tmp_path), {1: torch.zeros(3, dtype=torch.uint8).numpy()}
    state = difference(1.0)
    cache.keep("with", Learned(state, [], curve, {}, example()))
    cache.keep("without", Learned({"history": torch.ones(1)}, [], curve, {}))  # a name of the model's own
    found, without = cache.find("with"), cache.find("without")
    assert found is not None and found.history is not None and same(found.history, example())
    assert list(found.state) == list(state)
    assert without is not None and without.history is None and list(without.state) == ["history"]


@pytest.mark.parametrize("lost", ["norms", "last.10.head.bias", "initial.norm.mean"])
def test_a_history_that_lacks_something_is_not_one(lost: str) -> None:
    tensors, order = example().as_tensors(), list(example().initial)
    assert same(History.from_tensors(TRAINED, tensors, order), example())
    with pytest.raises(ValueError, match="fit the trained"):
        History.from_tensors(TRAINED[:1], tensors, order)
    del tensors[lost]
    with pytest.raises(KeyError, match=lost):
        History.from_tensors(TRAINED, tensors, order)


# ---- in a run --------------------------------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Every server that plays, so that a test can look at its history afterwards."""
    servers: list[Server] = []
    meet = Server.__init__

    def noted(self: Server, *given: Any) -> None:
        meet(self, *given)
        servers.append(self)

    monkeypatch.setattr(Server, "__init__", noted)
    return servers


def played(out: Path, config: Config, cache: Path) -> dict[str, Any]:
    return play(prepared(out, config, cache)).to_json()


def test_cached_and_trained_originals_have_the_same_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = watched(monkeypatch)
    config = small_config(deletions__schedule=[], unlearning__aggregation="projected")
    trained = played(tmp_path / "trained", config, tmp_path / "cache")
    cached = played(tmp_path / "cached", config, tmp_path / "cache")
    assert [r["times"]["references"]["original"] for r in (trained, cached)] == ["trained", "cached"]
    history = servers[0].state.history
    assert same(history, servers[1].state.history)
    assert tuple(history.trained) == FUNCTIONALS
    assert list(history.norms) == [1, 2, 3] and all(list(c) == list(range(6)) for c in history.norms.values())
    assert list(history.last) == list(range(6))
    assert "norm.mean" in history.initial
    for result in (trained, cached):
        assert result["cost"]["learn"]["bytes_stored"] == history.bytes_stored > 0
        assert result["cost"]["retrain"]["bytes_stored"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["projected", "norm-clipped"])
def test_unlearning_from_a_cached_original_is_the_same_bit_for_bit(tmp_path: Path, how: str) -> None:
    config = small_config(
        unlearning__aggregation=how, unlearning__clip=0.2, recovery__reversion="removed", recovery__steps=3
    )
    trained = run_small(tmp_path / "trained", config, cache=tmp_path / "cache")
    cached = run_small(tmp_path / "cached", config, cache=tmp_path / "cache")
    assert set(trained["times"]["references"].values()) == {"trained"}
    assert set(cached["times"]["references"].values()) == {"cached"}
    assert without_times(cached) == without_times(trained)
    assert weights_of(tmp_path / "cached") == weights_of(tmp_path / "trained")


def test_the_history_retells_the_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, devices of equal size: first weights and the mean of the differences give the model."""
    servers = watched(monkeypatch)
    config = small_config(deletions__schedule=[], training__rounds=1, unlearning__aggregation="projected")
    result = played(tmp_path / "run", config, tmp_path / "cache")
    assert result["status"] == "complete"
    learned = ReferenceCache(tmp_path / "cache").find(next((tmp_path / "cache").glob("*.safetensors")).stem)
    assert learned is not None and learned.history is not None
    history = learned.history
    for name in FUNCTIONALS:
        mean = torch.stack([history.last[c][name].double() for c in range(6)]).mean(0)
        moved = history.initial[name].double() + mean
        torch.testing.assert_close(learned.state[name].double(), moved, rtol=1e-6, atol=1e-7)
        assert history.norms[1][3][name] == pytest.approx(float(history.last[3][name].norm()), rel=1e-5)
    assert same(history, servers[0].state.history)


def test_the_server_keeps_no_step_of_deleted_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 left; 2 and 3 deleted some. Without recovery nothing new is remembered of them."""
    servers = watched(monkeypatch)
    config = small_config(recovery__rounds=0, unlearning__aggregation="projected")
    played(tmp_path / "run", config, tmp_path / "cache")
    history = servers[0].state.history
    assert list(history.last) == [0, 4, 5]
    assert all(list(of_round) == [0, 2, 3, 4, 5] for of_round in history.norms.values())
    cache = ReferenceCache(tmp_path / "cache")
    learned = [
        cache.find(file.stem)
        for file in (tmp_path / "cache").glob("*.safetensors")
        if not file.stem.startswith("sealed-")
    ]
    (original,) = [known.history for known in learned if known is not None and known.history is not None]
    assert len(learned) == 2
    assert list(original.last) == list(range(6))  # the retrained model was kept without


def test_last_steps_are_kept_only_where_somebody_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model for every client is much to keep. An original that was learned without is learned again, and
    then serves those who do not read them, too: what they keep is no more than if they had learned it.
    """
    servers, cache = watched(monkeypatch), tmp_path / "cache"
    some = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    runs = {}
    for number, how in enumerate(["sum", "projected", "sum", "projected"]):
        config = small_config(deletions__schedule=some, unlearning__aggregation=how)
        runs[number] = run_small(tmp_path / str(number), config, cache=cache)
        assert bool(servers[-1].state.history.last) == (how == "projected")
    origins = [run["times"]["references"]["original"] for run in runs.values()]
    assert origins == ["trained", "trained", "cached", "cached"]
    assert without_times(runs[2]) == without_times(runs[0])
    assert without_times(runs[3]) == without_times(runs[1])


def test_a_deletion_during_learning_leaves_the_history_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 2 is remembered again from its first step without the deleted speech; references are not."""
    servers = watched(monkeypatch)
    early = [
        {"client": 2, "what": "some", "count": 4, "round": 1},
        {"client": 4, "what": "all", "round": 1},
    ]
    config = small_config(deletions__schedule=early, unlearning__aggregation="projected")
    result = played(tmp_path / "run", config, tmp_path / "cache")
    assert result["status"] == "complete" and result["cost"]["counterfactual"]["rounds"] == 2
    history = servers[0].state.history
    assert list(history.norms) == [1, 2, 3]
    assert all(sorted(of_round) == [0, 1, 2, 3, 5] for of_round in history.norms.values())
    assert sorted(history.last) == [0, 1, 2, 3, 5]
    assert result["cost"]["learn"]["bytes_stored"] == history.bytes_stored


def test_an_original_of_an_older_format_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older files have other keys; and should one have this key, it has no history and does not count."""
    cache, config = tmp_path / "cache", small_config(deletions__schedule=[])
    with monkeypatch.context() as older:
        older.setattr(fedunlearn.experiment.reference_cache, "_FORMAT", 2)
        played(tmp_path / "older", config, cache)
    first = run_small(tmp_path / "first", config, cache=cache)
    assert first["times"]["references"]["original"] == "trained" and len(list(cache.glob("*.json"))) == 2
    for file in cache.glob("*.safetensors"):
        learned = ReferenceCache(cache).find(file.stem)
        assert learned is not None
        ReferenceCache(cache).keep(
            file.stem, Learned(learned.state, learned.rows, learned.curve, learned.cost)
        )
    again = run_small(tmp_path / "again", config, cache=cache)
    assert again["times"]["references"]["original"] == "trained"
    assert without_times(again) == without_times(first)
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "first")
