"""Recovery rounds that do not go back, and which clients take part when the server aggregates the requesters'
updates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import prepared, run_small, small_config, weights_of
from spoiled_replies import Spoil
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.engines.engine import play
from fedunlearn.server import steps as joining
from fedunlearn.server.aggregation import aggregate_unlearning
from fedunlearn.server.training_rounds import TrainingRounds

STRONG: dict[str, Any] = {
    "unlearning__method": "gradient-ascent",
    "recovery__rounds": 2,
    "recovery__steps": 5,
    "recovery__lr": 0.05,
}
"""unlearning that goes straight up the loss, and recovery that goes straight down again"""


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in state.values()])


class Watch:
    """The movements of the global model in a run: of each unlearn step and of each recovery round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moves: list[tuple[str, Tensor]] = []
        report = TrainingRounds.report_round
        before: list[Tensor] = []

        def watched(rounds: TrainingRounds, round_: int, phase: str, weights: StateDict, *rest: Any) -> None:
            if phase in {"unlearn", "recover"}:
                self.moves.append((phase, flat(weights) - before[0]))
            if phase in {"learn", "unlearn", "recover"}:
                before[:] = [flat(weights)]
            report(rounds, round_, phase, weights, *rest)

        monkeypatch.setattr(TrainingRounds, "report_round", watched)

    def ways_back(self) -> list[float]:
        """Of each recovery round the cosines with the way back along each unlearn step before it."""
        found, steps = [], []
        for kind, move in self.moves:
            if kind == "unlearn":
                steps.append(move)
            else:
                found += [-float(move @ s / move.norm() / s.norm()) for s in steps]
        return found


# ---- reversion -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reversion", ["kept", "removed"])
def test_recovery_goes_back_unless_it_is_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reversion: str
) -> None:
    """Three unlearn steps, the last of two clients; the way back along every one of them is closed.

    Weights are float32: what is removed in float64 comes back as their rounding, about 1e-7 of a weight.
    """
    watch = Watch(monkeypatch)
    schedule = [
        {"client": 1, "what": "all", "after_learning": 0},
        {"client": 4, "what": "some", "count": 6, "after_learning": 1},
        {"client": 2, "what": "some", "count": 4, "after_learning": 4},
        {"client": 3, "what": "some", "count": 3, "after_learning": 4},
    ]
    run_small(
        tmp_path / "run",
        small_config(**STRONG, deletions__schedule=schedule, recovery__reversion=reversion),
    )
    assert [kind for kind, _ in watch.moves] == [
        *["unlearn", "recover"],
        *["unlearn", "recover", "recover"],
        *["unlearn", "recover", "recover"],
    ]
    back = watch.ways_back()
    assert len(back) == 1 + 4 + 6
    if reversion == "kept":
        assert max(back) > 0.1
    else:
        assert max(back) < 1e-4


def test_the_recovered_model_is_no_nearer_to_the_original_along_the_way_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checkpoints' own movement: <recovered - unlearned, original - unlearned> <= 0."""
    once = [{"client": 2, "what": "some", "count": 8, "after_learning": 0}]
    shares = {}
    for reversion in ("kept", "removed"):
        with monkeypatch.context() as patched:
            watch = Watch(patched)
            config = small_config(**STRONG, deletions__schedule=once, recovery__reversion=reversion)
            results = run_small(tmp_path / reversion, config)
        step, *rounds = [move for _, move in watch.moves]
        shares[reversion] = -float(torch.stack(rounds).sum(0) @ step / (step @ step))
        stored = results["cost"]["recover"]["bytes_stored"]
        assert stored == (4 * len(step) if reversion == "removed" else 0)
    assert shares["kept"] > 0.01
    assert shares["removed"] < 1e-6


def test_where_nothing_was_unlearned_there_is_no_way_back(tmp_path: Path) -> None:
    """The control "none" moves nothing, so recovery is the same with and without."""
    weights = []
    for reversion in ("kept", "removed"):
        config = small_config(unlearning__method="none", recovery__reversion=reversion)
        run_small(tmp_path / reversion, config, cache=tmp_path / "cache")
        weights.append(weights_of(tmp_path / reversion))
    assert weights[0] == weights[1]


@pytest.mark.parametrize("rounds", [0, 1])
def test_ordinary_rounds_after_a_deletion_are_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """In the middle of learning only the recovery round is projected; without one there is no difference."""
    early = [{"client": 2, "what": "some", "count": 8, "round": 2}]
    settings = STRONG | {"recovery__rounds": rounds, "deletions__schedule": early}
    weights, back = [], []
    for reversion in ("kept", "removed"):
        with monkeypatch.context() as patched:
            watch = Watch(patched)
            config = small_config(**settings, recovery__reversion=reversion)
            run_small(tmp_path / reversion, config)
        weights.append(weights_of(tmp_path / reversion))
        back.append(watch.ways_back())
    assert (weights[0] == weights[1]) == (rounds == 0)
    assert len(back[0]) == rounds
    if rounds:
        assert back[0][0] > 0.1 and back[1][0] < 1e-4


# ---- which clients take part -----------------------------------------------------------------------------


UNGUARDED: dict[str, Any] = {"guard__together": 0, "guard__drop": 0, "guard__silenced": 0}
"""so that nothing is joined but what joins the model"""


class Joined:
    """What the server handed to the aggregation at each unlearn step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[list[int], int, float]] = []

        def watched(updates: Any, how: str, total: int, others: Any, longest: float, *more: Any) -> Any:
            self.steps.append(([u.client for u in updates], len(others), longest))
            return aggregate_unlearning(updates, how, total, others, longest, *more)

        monkeypatch.setattr(joining, "aggregate_unlearning", watched)


def test_only_clients_without_a_request_take_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six: first 1 requests deletion and leaves; then 2 and 3 do, and 0, 4 and 5 are left. The limit is
    theirs too."""
    joined = Joined(monkeypatch)
    config = small_config(unlearning__aggregation="projected", unlearning__clip=2.0, **UNGUARDED)
    experiment = prepared(tmp_path / "run", config)
    assert play(experiment).status == "complete"
    assert [(clients, others) for clients, others, _ in joined.steps] == [([1], 5), ([2, 3], 3)]
    first, second = (longest for _, _, longest in joined.steps)
    last_round = experiment.state.history.norms[3]
    sizes = {c: sum(n * n for n in own.values()) ** 0.5 for c, own in last_round.items()}
    assert second == pytest.approx(2.0 * sorted(sizes[c] for c in (0, 4, 5))[1])
    assert 2 * min(sizes.values()) <= first <= 2 * max(sizes.values())


def test_a_requester_whose_unlearning_failed_does_not_speak_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 fails twice and is served one round later, when 2 has been served: then 0, 1, 4, 5 and 2 take part.

    2's step of learning went with its purge; its step in the recovery round between counts.
    """
    joined = Joined(monkeypatch)
    two = [{"client": c, "what": "some", "count": 4, "after_learning": 0} for c in (2, 3)]
    config = small_config(unlearning__aggregation="projected", deletions__schedule=two, **UNGUARDED)
    results = run_small(tmp_path / "run", config, mods=[Spoil("train.unlearn", "raise", 2, client=3)])
    assert results["status"] == "complete"
    assert [(clients, others) for clients, others, _ in joined.steps] == [([2], 4), ([3], 5)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["projected", "norm-clipped"])
def test_so_large_a_clip_is_the_sum_and_so_is_a_federation_with_nobody_else(tmp_path: Path, how: str) -> None:
    """All six ask: nobody is left to be in conflict with, and nobody's size to go by."""
    everybody = [{"client": c, "what": "some", "count": 4, "after_learning": 0} for c in range(6)]
    results = [
        run_small(
            tmp_path / name,
            small_config(deletions__schedule=everybody, unlearning__aggregation=name, unlearning__clip=1e-6),
            cache=tmp_path / "cache",
        )
        for name in ("sum", how)
    ]
    assert results[0]["models"] == results[1]["models"]
    assert weights_of(tmp_path / "sum") == weights_of(tmp_path / how)
