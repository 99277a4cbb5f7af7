"""The verdict on a run's models, with models whose place is known beforehand."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EMOTIONS, tiny_corpus, tiny_partition
from torch import Tensor

from fedunlearn.caveats import NOTHING_TO_FORGET
from fedunlearn.config import LocalSettings
from fedunlearn.config.model import ModelSettings
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.evaluation.verdict import Verdict
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import calibrate, set_calibration, train

PARTITION = tiny_partition()
FORGET = [u.id for u in PARTITION.clients[0].train] + [u.id for u in PARTITION.clients[1].train[:2]]
State = Mapping[str, Tensor]


def make_model(name: str = "first") -> EmotionModel:
    return build_model(ModelSettings(hidden=8), len(EMOTIONS), rng_for(1, name))


@cache
def judge() -> Judge:
    sound = {u.id: u.pcm() for u in tiny_corpus().utterances}
    return Judge(PARTITION, RecordingCache(sound), EMOTIONS, make_model(), 1, 200)


@cache
def learned(name: str, without: bool) -> State:
    """Trained centrally on everybody's speech, with or without D_f."""
    ids = [u.id for u in PARTITION.train if not (without and u.id in FORGET)]
    examples, model = judge().examples(ids), make_model(name)
    moments = calibrate(model, examples)
    set_calibration(model, moments.mean, moments.mean_square)
    train(model, examples, LocalSettings(steps=0, epochs=40, batch_size=8), 0.1, rng_for(1, name))
    return {k: v.clone() for k, v in model.state_dict().items()}


def verdict(recovered: State, method: str = "l2ul", seeds: int = 2) -> Verdict:
    original = learned("first", without=False)
    states = {
        "original": original,
        "unlearned": recovered,
        "recovered": recovered,
        "destroy": make_model("destroy").state_dict(),
    }
    retrained = [learned(f"seed {n}", without=True) for n in range(seeds)]
    return Verdict(judge(), states, retrained, FORGET, EMOTIONS, method)


def test_a_retrained_model_against_itself_has_no_gap_and_nothing_but_likeness() -> None:
    retrained = verdict(learned("seed 0", without=True), seeds=1)
    found, distances = retrained.gaps().recovered, retrained.distances().recovered
    assert {found.to_json()[part] for part in ("forget", "retain", "test", "membership", "mean")} == {0.0}
    assert (found.low, found.high, found.against) == (0.0, 0.0, [0.0])
    assert distances.to_json() == {
        "tow": 1.0,
        "ks": 0.0,
        "wasserstein": 0.0,
        "js": pytest.approx(0.0, abs=1e-12),
    }


def test_one_retrained_model_gives_no_floor_and_no_rho() -> None:
    gaps = verdict(learned("seed 0", without=True), seeds=1).gaps()
    assert not gaps.noise_floor and gaps.to_json()["noise_floor"] is None
    assert gaps.rho is None and gaps.nothing_to_forget is False


def test_doing_nothing_forgets_nothing_and_the_verdict_says_so() -> None:
    ranking = verdict(learned("first", without=False)).ranking()
    judged = next(row for row in ranking if row.name == "recovered (l2ul)")
    assert judged.forgetting == 0.0 and not judged.useful


def test_where_the_original_was_never_trained_on_them_there_is_nothing_to_forget() -> None:
    """The "original" is one more model without D_f: about a noise floor away from the others."""
    others = [learned(f"seed {n}", without=True) for n in range(6)]
    original = learned("seed 9", without=True)
    states = dict.fromkeys(("original", "unlearned", "recovered"), original)
    states["destroy"] = make_model("destroy").state_dict()
    gaps = Verdict(judge(), states, others, FORGET, EMOTIONS, "none").gaps()
    assert gaps.rho is not None and gaps.rho < 2.0
    assert gaps.nothing_to_forget is (gaps.rho <= NOTHING_TO_FORGET)


def test_the_interval_holds_the_gap_and_stays_in_range() -> None:
    gaps = verdict(learned("first", without=False)).gaps()
    for found in (gaps.recovered, gaps.destroy):
        assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
        assert found.mean == pytest.approx(sum(found.against) / 2)


def test_models_are_measured_alone_and_the_retrained_ones_seed_by_seed() -> None:
    models = verdict(learned("first", without=False)).models()
    assert list(models.to_json()) == ["original", "unlearned", "recovered", "retrained"]
    assert models.original == models.recovered
    assert models.retrained.seeds[0].forget == models.retrained.forget
    assert len(models.retrained.seeds) == 2
    low, high = models.original.test.uar_interval
    assert low <= models.original.test.uar <= high


def test_those_who_left_have_no_part_in_fairness() -> None:
    """Client 0 deleted everything; client 1 keeps some of its speech."""
    speakers = verdict(learned("first", without=False)).fairness().speakers
    assert [row.client for row in speakers] == [1, 2, 3]
    assert {row.gender for row in speakers} <= {"f", "m"}
    assert all(row.original == row.recovered for row in speakers)


def test_nothing_reverts_where_recovery_did_nothing() -> None:
    assert verdict(learned("first", without=False)).reversion([]).to_json() == {
        "forget": 0,
        "membership": 0,
        "gap": 0,
        "steps": [],
    }


def test_without_any_request_nothing_is_compared_but_the_rest_stands() -> None:
    original = learned("first", without=False)
    states = dict.fromkeys(("original", "unlearned", "recovered"), original)
    states["destroy"] = make_model("destroy").state_dict()
    empty = Verdict(judge(), states, [original], [], EMOTIONS, "none")
    gaps: Any = empty.gaps()
    assert gaps.none.forget is None and gaps.none.mean == 0.0
    assert empty.distances().original.ks is None
    assert len(empty.fairness().speakers) == 4


def test_random_weights_keep_least() -> None:
    rows = {row.name: row for row in verdict(learned("seed 0", without=True)).ranking()}
    kept = {name: row.retention for name, row in rows.items()}
    assert min(kept, key=lambda name: kept[name]) == "control: destroy"
    assert torch.equal(
        learned("seed 0", without=True)["norm.mean"], learned("seed 1", without=True)["norm.mean"]
    )


# ---- collateral shift ------------------------------------------------------------------------------------


def test_doing_nothing_moves_nothing_and_retraining_moves_something() -> None:
    found = verdict(learned("first", without=False)).collateral()
    asked, rest = found.requesters, found.others
    assert asked.recovered.rms == rest.recovered.rms == 0.0
    assert asked.recovered.slope == pytest.approx(1.0)
    assert (asked.retrained.rms or 0.0) > 0.0 < (rest.seeds.rms or 0.0)
    speakers = {u.speaker for u in PARTITION.train if u.id in FORGET}
    tested = [u.speaker in speakers for u in PARTITION.test]
    assert asked.recovered.n == sum(tested) > 0 and rest.recovered.n == len(tested) - sum(tested) > 0


def test_the_spread_of_answers_is_that_of_the_deleted_utterances() -> None:
    state = learned("first", without=False)
    answers = judge().view(state).log_odds[judge().sets(FORGET).forget]
    chance = judge().view(state).probabilities[range(len(judge().labels)), judge().labels]
    chance = chance[judge().sets(FORGET).forget]
    known = chance < 1 - 1e-6
    assert answers[known] == pytest.approx(np.log(chance / (1 - chance + 1e-300))[known], rel=1e-5)
    assert verdict(state).collateral().spread.recovered == pytest.approx(answers.std(ddof=1))


def test_without_a_deletion_nobody_has_asked() -> None:
    original = learned("first", without=False)
    states = dict.fromkeys(("original", "unlearned", "recovered", "destroy"), original)
    found = Verdict(judge(), states, [original], [], EMOTIONS, "none").collateral()
    assert found.requesters.recovered.n == 0 and found.requesters.recovered.rms is None
    assert found.spread.recovered is None and not found.others.seeds
