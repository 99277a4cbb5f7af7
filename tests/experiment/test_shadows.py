"""Shadow federations: the loop without messages is the run, bit for bit; and what is left out is left out."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import prepared, small_config

from fedunlearn.audit.influence import files_with_influence
from fedunlearn.config import Config
from fedunlearn.engines.engine import play
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.experiment import shadows as module
from fedunlearn.experiment.analyses import run_attacks
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.references import retrained_stream
from fedunlearn.experiment.replay import STAGES, Replay
from fedunlearn.experiment.replayed_clients import ReplayData
from fedunlearn.experiment.shadows import Shadows, ShadowTask, halves, shadow_federations
from fedunlearn.experiment.timeline import Timeline, build_timeline
from fedunlearn.models.contract import constants_of
from fedunlearn.training import TrainingDiverged
from fedunlearn.unlearning import PRIVILEGED

Found = dict[str, Any]

AMONG = [
    {"client": 1, "what": "some", "count": 5, "round": 1},
    {"client": 1, "what": "all", "round": 2},
    {"client": 2, "what": "some", "count": 4, "after_learning": 1},
    {"client": 3, "what": "some", "count": 4, "after_learning": 1},
]
"""in the middle of learning, one client twice; later two at once"""


class Played:
    """A small run that is over, and how shadows are made of it."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.run: Experiment = prepared(folder / "run", small_config(**overrides))
        play(self.run)
        record, model = self.run.record, self.run.state.model
        assert record.original is not None and model is not None
        unlearned = model.weights if record.unlearned is None else record.unlearned
        self.states = {"original": record.original, "unlearned": unlearned, "recovered": model.weights}
        self.timeline = self.timeline_for(self.run.config)

    def timeline_for(self, config: Config) -> Timeline:
        run, rows = self.run, self.run.record.log.rows
        return build_timeline(run.state, rows, run.recorder.read_deletions(), run.partition, config)

    def shadows(self, count: int = 1, workers: int = 1, **more: Any) -> Shadows:
        given: dict[str, Any] = {
            "config": self.run.config,
            "timeline": self.timeline,
            "states": self.states,
        } | more
        return shadow_federations(
            judge=self.run.judge,
            partition=self.run.partition,
            folder=self.folder / "cache",
            shadows=count,
            workers=workers,
            **given,
        )

    def data(self) -> ReplayData:
        return module.replay_data(self.run.config, self.run.judge, self.run.partition, self.timeline)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("calm"))


# ---- the oracle: the run again -----------------------------------------------------------------------------

L2UL = {"unlearning__method": "l2ul", "unlearning__aggregation": "projected"}
FAST: dict[str, Found] = {
    "late clients": {"training__rounds": 6, "deletions__schedule": AMONG},
    "in the middle of learning, one after another": {
        "deletions__schedule": AMONG,
        "unlearning__aggregation": "sequential",
    },
}
SLOW: dict[str, Found] = {
    "l2ul, projected, reversion removed": {**L2UL, "recovery__reversion": "removed", "recovery__rounds": 2},
    "recorded later": {
        "deletions__schedule": AMONG,
        "partition__recordings": [
            {"client": 2, "count": 4, "round": 2},
            {"client": 4, "count": 3, "round": 4},
        ],
    },
    "absences": {"availability__offline": 0.3, "deletions__schedule": AMONG},
    "dropouts": {"availability__drop": 0.5, "deletions__schedule": AMONG},
    "attackers": {"attackers__clients": [2], "attackers__kind": "targeted"},
    "noise": {"privacy__clip": 1.0, "privacy__noise": 0.5},
    "adam, fedavg": {"training__server_optimizer": "adam", "training__server_lr": 0.05},
    "norm-clipped": {"unlearning__aggregation": "norm-clipped", "unlearning__clip": 0.5},
    "several devices": {
        "partition__shared_speakers": 2,
        "deletions__schedule": [
            {"client": 1, "what": "all", "after_learning": 0},
            {"client": 0, "what": "some", "count": 5, "after_learning": 1},
        ],
    },
    "waiting": {"deletions__window": 2, "deletions__schedule": AMONG},
    "guarded": {"guard__norm": 0.5, "guard__together": 0.5},
    "log-mel": {"unlearning__method": "l2ul", "unlearning__l2ul__attack__domain": "log-mel"},
    "drawn": {
        "training__local__lr_schedule": "cosine",
        "training__local__mixup": 0.3,
        "model__dropout": 0.3,
        "recovery__rounds": 0,
    },
    "everybody leaves": {
        "deletions__schedule": [{"client": c, "what": "all", "after_learning": c // 2} for c in range(6)]
    },
    "before the first round": {
        "deletions__schedule": [
            {"client": 1, "what": "some", "count": 5, "round": 0},
            {"client": 2, "what": "some", "count": 5, "round": 2},
        ]
    },
    "cnn": {"model__name": "cnn"},
}


def assert_exact(found: Shadows) -> None:
    assert found.replay is not None and found.replay.exact, found.replay
    assert found.replay.difference == 0.0 and set(found.replay.stages.values()) == {0.0}


def test_the_replay_is_the_run_bit_for_bit(calm: Played) -> None:
    joint = [r for r in calm.timeline.rounds if r.phase == "unlearn"]
    assert [len(r.requests) for r in joint] == [1, 2], "one requester, then two at once"
    assert_exact(calm.shadows(1))


@pytest.mark.parametrize("case", FAST)
def test_so_it_is_for_other_ways_to_unlearn(tmp_path: Path, case: str) -> None:
    assert_exact(Played(tmp_path, **FAST[case]).shadows(1))


@pytest.mark.parametrize("method", ["fedosd", pytest.param("rewind-to-delete", marks=pytest.mark.slow)])
def test_so_it_is_for_privileged_baselines(tmp_path: Path, method: str) -> None:
    assert_exact(Played(tmp_path, unlearning__method=method).shadows(1))


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(PRIVILEGED))
@pytest.mark.parametrize("case", ["AMONG", "in turn", "absences", "recorded later"])
def test_so_it_is_for_all_of_them_whatever_the_run_met(tmp_path: Path, method: str, case: str) -> None:
    more: dict[str, Found] = {
        "AMONG": {"training__server_optimizer": "adam", "training__server_lr": 0.05},
        "in turn": {"unlearning__aggregation": "sequential", "unlearning__left_out_models": True},
        "absences": {"availability__offline": 0.3},
        "recorded later": SLOW["recorded later"],
    }
    chosen = {"deletions__schedule": AMONG, "unlearning__method": method} | more[case]
    assert_exact(Played(tmp_path, **chosen).shadows(1))


@pytest.mark.slow
def test_what_was_learned_is_shared_with_privileged_baselines(calm: Played, tmp_path: Path) -> None:
    """Their first unlearn step begins in the same round; only one that goes back keeps a model more."""
    run, files = calm.run, []
    contents = module.contents_of(run.judge, run.partition)
    methods = ("scrub", "fed-eraser", "retrained", "rewind-to-delete")
    for method in methods:
        back = {"unlearning__rewind_to_delete__rounds": 1}
        other = Played(tmp_path / method, unlearning__method=method, **back)
        learned = module.LearnedShadows(Path("nowhere"), other.run.config, other.timeline, contents)
        files.append(learned.file(5, calm.timeline.candidates[:2]))
    own = module.LearnedShadows(Path("nowhere"), run.config, calm.timeline, contents)
    assert [file == own.file(5, calm.timeline.candidates[:2]) for file in files] == [True, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_so_it_is_whatever_the_run_met(tmp_path: Path, case: str) -> None:
    assert_exact(Played(tmp_path, **SLOW[case]).shadows(1))


def test_a_replay_that_is_not_the_run_says_so(calm: Played) -> None:
    """One weight of the run is moved by .25."""
    moved = {k: v.clone() for k, v in calm.states["unlearned"].items()}
    name = next(k for k, v in moved.items() if v.dim() == 2)
    moved[name][0, 0] += 0.25
    replay = calm.shadows(1, states={**calm.states, "unlearned": moved}).replay
    assert replay is not None and not replay.exact
    assert replay.difference == replay.stages["unlearned"] == pytest.approx(0.25, abs=1e-6)
    assert replay.stages["original"] == replay.stages["recovered"] == 0.0


@pytest.mark.slow
def test_late_replies_are_followed_as_if_they_had_come_at_once_and_that_is_reported(tmp_path: Path) -> None:
    replay = Played(tmp_path, availability__slow=0.9, deletions__schedule=AMONG).shadows(1).replay
    assert replay is not None and not replay.exact and replay.difference is not None
    assert replay.difference > 1e-3
    assert len(replay.departures) == 1 and "late" in replay.departures[0]


def test_with_everything_outside_the_original_is_the_retrained_model(
    calm: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other oracle: the run trained its reference without D_f, in its own way, from the same stream and
    with the normalisation constants of the run.
    """
    model = calm.run.state.model
    assert model is not None
    constants = constants_of(model.weights)
    module = import_module("fedunlearn.experiment.replay")
    monkeypatch.setattr(module, "calibrate_model", lambda _, initial, __: {**initial, **constants})
    federation = Replay(calm.data(), retrained_stream(calm.run.config.seed, 0), calm.timeline.candidates)
    stages = federation.play()
    retrained = calm.run.record.retrained[0].state
    assert all(torch.equal(stages["original"][k], v) for k, v in retrained.items())
    assert any(not torch.equal(stages["recovered"][k], v) for k, v in retrained.items()), "it goes on"


# ---- shadows -----------------------------------------------------------------------------------------------


def test_shadows_know_what_is_inside_and_not_what_is_outside(tmp_path: Path) -> None:
    """Candidates inside are learned by heart, those outside never seen. All have their logits."""
    played = Played(tmp_path, training__rounds=6, unlearning__method="none", recovery__rounds=0)
    found = played.shadows(4)
    right = found.logits["original"].argmax(2) == found.labels
    assert right[found.inside].mean() > 0.9 > 0.8 > right[~found.inside].mean()
    assert found.candidates == tuple(played.run.forget_set(played.run.recorder.read_deletions()))
    for stage in STAGES:
        assert found.logits[stage].shape == (4, len(found.candidates), played.run.judge.classes)
        assert found.logits[stage].dtype == np.float32
    assert np.array_equal(found.logits["original"], found.logits["recovered"]), "none changes nothing"
    assert len({found.logits["original"][s].tobytes() for s in range(4)}) == 4


def test_what_calm_aims_at_is_known_of_the_candidates_inside_alone(calm: Played, tmp_path: Path) -> None:
    found = calm.shadows(2)
    assert found.targets.shape == found.inside.shape
    assert np.array_equal(~np.isnan(found.targets), found.inside)
    config = small_config(unlearning__method="none")
    without = calm.shadows(1, config=config, timeline=calm.timeline_for(config))
    assert np.isnan(without.targets).all()


def test_candidates_know_their_request_and_their_label(calm: Played) -> None:
    found, deletions = calm.shadows(1), calm.run.recorder.read_deletions()
    assert len(found.requests) == 3
    for number, candidate in enumerate(found.candidates):
        request = found.requests[found.request[number]]
        assert any(candidate in b.utterances for (name, _), b in deletions.items() if name == request)
    speech = {u.id: u.emotion for u in calm.run.partition.train}
    emotions = calm.run.corpus.emotions
    assert [emotions[label] for label in found.labels] == [speech[u] for u in found.candidates]


def test_coins_are_fair_named_and_each_its_own() -> None:
    """2,000 coins: the share lies within four standard deviations of a half, and no two columns are tied."""
    inside = halves(1, 40, 50)
    assert abs(inside.mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert np.array_equal(inside[:7], halves(1, 7, 50)) and not np.array_equal(inside, halves(2, 40, 50))
    ties = np.corrcoef(inside) - np.eye(40)
    assert np.abs(ties).max() < 0.7
    assert halves(1, 0, 5).shape == (0, 5) and halves(1, 3, 0).shape == (3, 0)


def test_each_finished_shadow_is_kept_and_not_trained_again(
    calm: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calm, "folder", tmp_path)
    steps: list[str] = []
    tasks = counted(monkeypatch)
    first = calm.shadows(3, advance=lambda: steps.append("one"))
    assert tasks == [-1, 0, 1, 2] and len(steps) == 3
    again = calm.shadows(4, advance=lambda: steps.append("one"))
    assert tasks[4:] == [-1, 3] and len(steps) == 7, "the replay is gone through each time"
    files = sorted((tmp_path / "cache" / "shadows").glob("*.safetensors"))
    assert len(files) == 4
    for stage in STAGES:
        assert np.array_equal(first.logits[stage], again.logits[stage][:3])
    files[0].write_bytes(files[0].read_bytes()[:-1])
    healed = calm.shadows(4)
    assert len(tasks) == 8 and np.array_equal(healed.logits["recovered"], again.logits["recovered"])


def test_what_is_kept_tells_nothing_of_whose_speech_it_is(calm: Played) -> None:
    calm.shadows(1)
    written = b"".join(f.read_bytes() for f in (calm.folder / "cache" / "shadows").iterdir())
    assert not any(u.id.encode() in written for u in calm.run.partition.train)
    assert not any(s.encode() in written for s in calm.run.corpus.speakers)


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("unlearning__calm__lr", 0.02, True),
        ("unlearning__l2ul__lr", 0.02, False),
        ("unlearning__aggregation", "mean", True),
        ("recovery__lr", 0.01, True),
        ("guard__drop", 0.2, True),
        ("evaluation__bootstrap", 200, False),
    ],
)
def test_a_shadow_is_found_by_all_that_decides_it(calm: Played, key: str, value: Any, counts: bool) -> None:
    config = small_config(**{key: value})
    caches = [cache_of(calm, calm.run.config), cache_of(calm, config)]
    task = ShadowTask(0, 5, np.ones(len(calm.timeline.candidates), bool))
    assert (caches[0]._file(task) != caches[1]._file(task)) == counts
    other = ShadowTask(0, 5, np.zeros(len(calm.timeline.candidates), bool))
    assert caches[0]._file(task) != caches[0]._file(other) != caches[0]._file(ShadowTask(0, 6, other.inside))


def cache_of(played: Played, config: Config) -> module.ShadowCache:
    run = played.run
    contents = module.contents_of(run.judge, run.partition)
    return module.ShadowCache(Path("nowhere"), config, played.timeline, contents, run.judge.classes)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    numbers: list[int] = []
    real: Callable[[ReplayData, ShadowTask], Any] = module.play

    def counting(data: ReplayData, task: ShadowTask) -> Any:
        numbers.append(task.number)
        return real(data, task)

    monkeypatch.setattr(module, "play", counting)
    return numbers


@pytest.mark.slow
def test_one_answer_for_all_hides_from_an_attack_by_loss_and_not_from_one_on_single_utterances(
    tmp_path: Path,
) -> None:
    """18 utterances of three clients get one answer. By loss they look less like members than to a model
    that never heard them; U-LiRA finds them with 16 shadows. KLoM says that it needs more.
    """
    schedule = [{"client": c, "what": "some", "count": 6, "after_learning": 0} for c in (1, 2, 3)]
    played = Played(
        tmp_path,
        unlearning__method="one-answer",
        training__rounds=6,
        recovery__rounds=0,
        deletions__schedule=schedule,
    )
    shadows, results = played.shadows(16), played.run.results
    assert results is not None and results.useless and not any(row.useful for row in results.ranking)
    models, spread = results.models, results.collateral.spread
    assert (models.recovered.membership.auc or 1.0) < (models.retrained.membership.auc or 0.0)
    assert (spread.recovered or 1.0) < 0.6 * (spread.retrained or 0.0)
    found = run_attacks(shadows, dict.fromkeys(shadows.requests, 0), played.run.config)
    assert (found.ulira.stages.recovered.low or 0.0) > 0.5
    assert found.klom.recovered.mean is None and "evaluation.shadows higher" in (found.klom.why or "")
    assert found.collateral.recovered.n == (~shadows.inside).sum()


# ---- shared between methods ------------------------------------------------------------------------------

SHARED: dict[str, Found] = {
    "after learning": {},
    "in the middle of learning, with momentum": {
        "deletions__schedule": AMONG,
        "training__server_optimizer": "momentum",
        "unlearning__aggregation": "projected",
    },
    "late clients": {"training__rounds": 6, "deletions__schedule": AMONG},
}


def learnings(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """The federations that learn, one after another."""
    found: list[Replay] = []
    real = Replay.learn

    def learning(federation: Replay) -> Any:
        found.append(federation)
        return real(federation)

    monkeypatch.setattr(Replay, "learn", learning)
    return found


@pytest.mark.parametrize(
    "case",
    [case if case == "after learning" else pytest.param(case, marks=pytest.mark.slow) for case in SHARED],
)
def test_another_method_finds_what_shadows_have_learned_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """CALM's shadows learn; those of gradient ascent with another recovery begin where they stand."""
    played = Played(tmp_path, **SHARED[case])
    other = small_config(**SHARED[case], unlearning__method="gradient-ascent", recovery__lr=0.01)
    one, another = {"config": played.run.config}, {"config": other, "timeline": played.timeline_for(other)}
    learned = learnings(monkeypatch)
    found = {}
    for order in ([one, another], [another, one]):
        played.folder = tmp_path / f"first {order[0]['config'].unlearning.method}"
        learned.clear()
        for given in order:
            logits = played.shadows(2, **given).logits
            found[given["config"].unlearning.method, order[0] is given] = logits
        assert len(learned) == 1 + 2 + 1, "the run itself twice, and each shadow once"
    for method in ("calm", "gradient-ascent"):
        alone, shared = found[method, True], found[method, False]
        assert all(np.array_equal(alone[stage], shared[stage]) for stage in STAGES)
    recovered = [found[method, True]["recovered"] for method in ("calm", "gradient-ascent")]
    assert not np.array_equal(*recovered)


def test_what_a_shadow_has_learned_is_learned_again_where_its_file_was_damaged(
    calm: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calm, "folder", tmp_path)
    first = calm.shadows(1)
    (file,) = (tmp_path / "cache" / module.LEARNED_FOLDER).glob("*.safetensors")
    about = {"requests": [{"id": "r", "state": "purged"}], "config": {"evaluation": {"shadows": 8}}}
    assert file in {one.file for one in files_with_influence(calm.run.run, tmp_path / "cache", about)}
    file.write_bytes(file.read_bytes()[:-1])
    for kept in (tmp_path / "cache" / "shadows").iterdir():
        kept.unlink()
    learned = learnings(monkeypatch)
    again = calm.shadows(1)
    assert len(learned) == 2 and np.array_equal(first.logits["recovered"], again.logits["recovered"])


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("unlearning__calm__lr", 0.02, False),
        ("unlearning__method", "l2ul", False),
        ("recovery__rounds", 7, False),
        ("guard__drop", 0.2, False),
        ("unlearning__aggregation", "projected", True),
        ("unlearning__left_out_models", False, True),
        ("training__late_clients", 0.25, True),
        ("training__local__lr", 0.01, True),
        ("model__hidden", 8, True),
    ],
)
def test_what_a_shadow_has_learned_is_found_by_all_that_decides_it(
    calm: Played, key: str, value: Any, counts: bool
) -> None:
    run, files = calm.run, list[Path]()
    contents = module.contents_of(run.judge, run.partition)
    for config in (run.config, small_config(**{key: value})):
        learned = module.LearnedShadows(Path("nowhere"), config, calm.timeline, contents)
        files.append(learned.file(5, calm.timeline.candidates[:2]))
        assert files[-1] != learned.file(6, calm.timeline.candidates[:2])
        assert files[-1] != learned.file(5, calm.timeline.candidates[:3])
    assert (files[0] != files[1]) == counts


# ---- where there are none ----------------------------------------------------------------------------------


def test_nothing_deleted_has_none(tmp_path: Path) -> None:
    found = Played(tmp_path, deletions__schedule=[]).shadows(4)
    assert found.why.startswith("nothing was unlearned") and found.candidates == ()


def test_no_shadows(calm: Played) -> None:
    found = calm.shadows(0)
    assert found.why and found.inside.shape == (0, len(found.candidates)) and found.replay is None


def test_a_training_that_diverges_is_one_line(calm: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any) -> Any:
        raise TrainingDiverged("training: the loss is nan at step 3")

    monkeypatch.setattr(module, "play", diverging)
    with pytest.raises(RunFailed, match="a shadow federation: training: the loss is nan at step 3"):
        calm.shadows(5)


def test_it_stops_where_the_run_is_stopped(calm: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    stop, tasks = threading.Event(), counted(monkeypatch)
    stop.set()
    with pytest.raises(Interrupted):
        calm.shadows(6, stop=stop)
    assert tasks == []


# ---- processes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(calm: Played, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        calm.folder = tmp_path / str(workers)
        found.append(calm.shadows(3, workers=workers))
    for stage in STAGES:
        assert np.array_equal(found[0].logits[stage], found[1].logits[stage])
    assert_exact(found[1])
    assert found[0].replay == found[1].replay and json.dumps(found[0].replay and found[0].replay.to_json())
