"""What results.json says of a run, worked out again from its models by plain sums, without the judge."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_run import prepared, small_config

from fedunlearn.engines.engine import play
from fedunlearn.experiment.shadows import halves
from fedunlearn.training import predict

Floats = npt.NDArray[np.float64]
STAGES = ("original", "unlearned", "recovered")


class Again:
    """A small run and the logits of its models: [N, C] of everybody's speech, in the partition's order."""

    def __init__(self, folder: Path) -> None:
        config = small_config(evaluation__retrained_seeds=2, training__rounds=5)
        run = prepared(folder / "run", config)
        self.results: dict[str, Any] = play(run).to_json()
        record, model, part = run.record, run.state.model, run.partition
        assert record.original is not None and record.unlearned is not None and model is not None
        everyone = [*part.train, *part.test, *part.unseen]
        gone = set(run.forget_set(run.recorder.read_deletions()))
        sizes = len(part.train), len(part.test), len(part.unseen)
        place = np.repeat(["train", "test", "unseen"], sizes)
        self.y = np.array([run.corpus.emotions.index(u.emotion) for u in everyone])
        self.speaker = np.array([u.speaker for u in everyone])
        self.forget = np.array([u.id in gone for u in everyone])
        self.test, self.retain = place == "test", (place == "train") & ~self.forget
        ids = [u.id for u in everyone]

        def logits(state: Any) -> Floats:
            run.template.load_state_dict(dict(state))
            return predict(run.template, run.judge.examples(ids)).numpy().astype(np.float64)

        states = (record.original, record.unlearned, model.weights)
        self.logits = {name: logits(state) for name, state in zip(STAGES, states, strict=True)}
        self.retrained = [logits(learned.state) for learned in record.retrained]

    def losses(self, z: Floats) -> Floats:
        return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), self.y]

    def right(self, z: Floats, mask: npt.NDArray[np.bool_]) -> float:
        return float((z.argmax(1) == self.y)[mask].mean())

    def auc(self, z: Floats, same_speaker: bool = False) -> float:
        """Every pair of a forget and a test utterance, weighted so that the label mixes are the same."""
        losses, won, whole = self.losses(z), 0.0, 0.0
        for person in sorted(set(self.speaker[self.forget])) if same_speaker else [None]:
            own = np.ones(len(z), bool) if person is None else self.speaker == person
            tested, forget = np.flatnonzero(self.test & own), np.flatnonzero(self.forget & own)
            forget = forget[np.isin(self.y[forget], self.y[tested])]
            for t in tested:
                alike = (self.y[tested] == self.y[t]).sum()
                weight = (self.y[forget] == self.y[t]).mean() / alike if len(forget) else 0.0
                for f in forget:
                    won += weight * (float(losses[f] < losses[t]) + 0.5 * float(losses[f] == losses[t]))
                    whole += weight
        return won / whole

    def four(self, z: Floats) -> Floats:
        sets = (self.forget, self.retain, self.test)
        return np.array([*(self.right(z, mask) for mask in sets), self.auc(z)])


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Again:
    return Again(tmp_path_factory.mktemp("again"))


def test_accuracies_and_both_population_attacks(again: Again) -> None:
    for name, z in again.logits.items():
        reported = again.results["models"][name]
        parts = [reported[part]["accuracy"] for part in ("forget", "retain", "test")]
        assert [*parts, reported["membership"]["auc"]] == pytest.approx(again.four(z))
        same = again.auc(z, same_speaker=True)
        assert reported["membership_same_speaker"]["auc"] == pytest.approx(same)


def test_gaps_noise_floor_rho_and_reversion(again: Again) -> None:
    others = [again.four(z) for z in again.retrained]
    gap = {
        name: float(np.mean([np.abs(again.four(z) - other) for other in others]))
        for name, z in again.logits.items()
    }
    reported = again.results["gap"]
    for name, model in {"none": "original", "unlearned": "unlearned", "recovered": "recovered"}.items():
        assert reported[name]["mean"] == pytest.approx(gap[model])
    floor = np.mean([np.abs(a - b).mean() for a, b in combinations(others, 2)])
    assert reported["noise_floor"]["mean"] == pytest.approx(floor)
    assert reported["rho"] == pytest.approx(gap["original"] / floor)
    back, before = again.four(again.logits["recovered"]), again.four(again.logits["unlearned"])
    reversion = again.results["reversion"]
    assert reversion["forget"] == pytest.approx(back[0] - before[0])
    assert reversion["membership"] == pytest.approx(back[3] - before[3]) != 0.0
    assert reversion["gap"] == pytest.approx(gap["recovered"] - gap["unlearned"]) != 0.0
    assert reversion["steps"][-1]["unlearned"] == pytest.approx(before[0])
    assert reversion["steps"][-1]["recovered"] == pytest.approx(back[0])


def test_gain_in_test_accuracy_utterance_by_utterance(again: Again) -> None:
    right = {name: (z.argmax(1) == again.y)[again.test].astype(float) for name, z in again.logits.items()}
    before, after = right["original"], right["recovered"]
    reported, n = again.results["gain"], int(again.test.sum())
    assert reported["difference"] == pytest.approx(after.mean() - before.mean()) and reported["n"] == n
    # Changes are -1, 0 or 1: their variance is the share of them less the squared mean.
    variance = ((after != before).mean() - (after.mean() - before.mean()) ** 2) * n / (n - 1)
    assert reported["standard_error"] == pytest.approx((variance / n) ** 0.5)


def test_distances(again: Again) -> None:
    def softmax(z: Floats) -> Floats:
        shares: Floats = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return shares[again.forget]

    for name, z in again.logits.items():
        own, found = again.losses(z)[again.forget], []
        for other in again.retrained:
            theirs = again.losses(other)[again.forget]
            ks = max(abs((own <= at).mean() - (theirs <= at).mean()) for at in [*own, *theirs])
            wasserstein = np.abs(np.sort(own) - np.sort(theirs)).mean()
            p, q = softmax(z), softmax(other)
            m = (p + q) / 2
            js = (0.5 * p * np.log(p / m) + 0.5 * q * np.log(q / m)).sum(1).mean()
            tow = np.prod(1 - np.abs(again.four(z) - again.four(other))[:3])
            found.append([tow, ks, wasserstein, js])
        reported = again.results["distances"][name]
        assert [reported[k] for k in ("tow", "ks", "wasserstein", "js")] == pytest.approx(np.mean(found, 0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "destroy"])
def test_shadows_of_a_run_that_does_nothing_and_of_one_that_destroys(tmp_path: Path, method: str) -> None:
    """Nothing done: the attacks find in every stage what they find in the original. Destroyed: nothing."""
    config = small_config(
        unlearning__method=method,
        training__rounds=6,
        recovery__rounds=0,
        evaluation__shadows=8,
        evaluation__shadow_workers=1,
        evaluation__relearn_steps=0,
        deletions__schedule=[{"client": c, "what": "all", "after_learning": 0} for c in (1, 2, 3)],
    )
    attacks = play(prepared(tmp_path / "run", config)).to_json()["attacks"]
    assert attacks["replay"]["exact"]
    inside = halves(config.seed, 8, attacks["candidates"])
    informed = attacks["informed"]["stages"]["original"]
    assert (informed["n_in"], informed["n_out"]) == (inside.sum(), (~inside).sum())
    assert {row["client"] for row in informed["requests"]} == {1, 2, 3}
    for attack in ("ulira", "informed"):
        stages = attacks[attack]["stages"]
        assert stages["original"]["low"] > 0.6
        if method == "none":
            assert stages["original"] == stages["unlearned"] == stages["recovered"]
        else:
            assert stages["unlearned"]["low"] <= 0.5 <= stages["unlearned"]["high"]
