"""Small worked examples of the measures: what each one says where the truth is known, and where it misleads.

Plain numbers from drawn data and small models, for docs/measures.md; ``simulations/measures.py`` has them
drawn. No number here is a result about a method.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedunlearn.config import LocalSettings
from fedunlearn.evaluation.distances import jensen_shannon, kolmogorov_smirnov, tug_of_war, wasserstein
from fedunlearn.evaluation.fairness import Staying, fairness
from fedunlearn.evaluation.gap import gap, noise_floor
from fedunlearn.evaluation.gum import cgum, gum
from fedunlearn.evaluation.intervals import mean_share_interval
from fedunlearn.evaluation.membership import membership, same_speaker
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.examples import Examples
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.results_schema import ModelScores, RelearnTime, Results
from fedunlearn.seeding import rng_for, torch_rng_for
from fedunlearn.training import train
from measure_figures.hidden_loss import hidden_loss

Rng = np.random.Generator


def examples(seed: int = 1) -> dict[str, Any]:
    """All examples, by the name of their figure."""
    hidden = {
        name: {
            "population": found.population.to_json(),
            "ulira": found.ulira.to_json(),
            "informed": found.informed.to_json(),
        }
        for name, found in hidden_loss(seed).items()
    }
    return {
        "gap": of_gap(),
        "recognition": of_recognition(rng_for(seed, "recognition")),
        "membership": of_membership(rng_for(seed, "membership")),
        "bootstrap": of_bootstrap(rng_for(seed, "bootstrap")),
        "ulira": hidden,
        "informed": hidden,
        "tow": of_tug_of_war(),
        "ks": of_losses(rng_for(seed, "ks")),
        "w1": of_outlier(),
        "js": of_outputs(),
        "relearn": of_relearning(seed),
        "fairness": of_fairness(rng_for(seed, "fairness")),
        "gum": of_gum(),
    }


def record(forget: float, retain: float = 0.99, test: float = 0.58, auc: float = 0.45) -> ModelScores:
    """Measures of an invented model."""
    values = {"forget": forget, "retain": retain, "test": test}
    known = {**{k: {"accuracy": v} for k, v in values.items()}, "membership": {"auc": auc}}
    return ModelScores.model_validate(known)


def of_gap() -> dict[str, Any]:
    """The mean gap of models that differ in forget accuracy and, with it, in membership."""
    seeds = [record(0.52, auc=0.43), record(0.55, auc=0.45), record(0.58, auc=0.48)]
    forget = np.linspace(0.0, 1.0, 101)
    gaps = [gap(record(f, auc=0.18 + 0.5 * f), seeds).mean for f in forget]
    floor = noise_floor(seeds)
    return {"forget": forget, "gap": gaps, "floor": floor.mean if floor else None, "retrained": 0.55}


def of_recognition(rng: Rng, trials: int = 2000) -> dict[str, Any]:
    """Coverage of 95 % intervals of UAR over 8 emotions of one recall, ours and a plain bootstrap's."""
    counts, found = [1, 2, 3, 5, 8, 12, 20, 30], {}
    for recall in (0.6, 0.95):
        ours, plain = [], []
        for n in counts:
            right = rng.binomial(n, recall, (trials, 8))
            low, high = mean_share_interval(right, np.full(8, n))
            ours.append(((low <= recall) & (recall <= high)).mean())
            again = rng.binomial(n, right / n, (400, trials, 8)).mean(-1) / n
            low, high = np.quantile(again, [0.025, 0.975], axis=0)
            plain.append(((low <= recall) & (recall <= high)).mean())
        found[str(recall)] = {"ours": ours, "plain": plain}
    return {"counts": counts, "recalls": found}


def of_membership(rng: Rng, n: int = 1200) -> dict[str, Any]:
    """AUC on a model that never saw D_f: with and without the label mix, all speakers and the same one."""
    hard = np.linspace(0.0, 1.0, 11)
    weighted, unweighted = [], []
    test_labels = np.arange(n) % 2
    test = rng.exponential(1.0, n) * np.where(test_labels == 1, 2.0, 0.5)
    for share in hard:
        labels = (np.arange(n) < share * n).astype(np.int64)
        losses = rng.exponential(1.0, n) * np.where(labels == 1, 2.0, 0.5)
        weighted.append(membership(losses, labels, test, test_labels, 1, rng).auc)
        none = np.zeros(n, np.int64)
        unweighted.append(membership(losses, none, test, none, 1, rng).auc)
    ease = np.linspace(1.0, 4.0, 7)
    everybody, own = [], []
    speakers, mine = np.arange(n) % 10, np.zeros(n // 10, np.int64)
    for factor in ease:
        test = rng.exponential(1.0, n) / np.where(speakers == 0, factor, 1.0)
        losses, same = rng.exponential(1.0, n // 10) / factor, np.zeros(n, np.int64)
        everybody.append(membership(losses, mine, test, same, 1, rng).auc)
        own.append(same_speaker(losses, mine, mine, test, same, speakers, 1, rng).auc)
    return {
        "hard": hard,
        "weighted": weighted,
        "unweighted": unweighted,
        "ease": ease,
        "everybody": everybody,
        "own": own,
    }


def of_bootstrap(rng: Rng, trials: int = 60) -> dict[str, Any]:
    """Intervals of the AUC of two samples of one distribution, so that the truth is 0.5: [size][trial]."""
    found: dict[str, Any] = {}
    for n in (10, 48, 200):
        labels = np.zeros(n, np.int64)
        drawn = [
            membership(rng.exponential(1.0, n), labels, rng.exponential(1.0, n), labels, 400, rng)
            for _ in range(trials)
        ]
        found[str(n)] = [(d.auc, d.low, d.high) for d in drawn]
    return found


def of_tug_of_war() -> dict[str, Any]:
    """ToW of models whose accuracies are off by so much in one set, in two and in all three."""
    reference, off = record(0.5, 0.5, 0.5), np.linspace(0.0, 0.5, 51)
    return {
        "off": off,
        "tow": [
            [tug_of_war(record(*(0.5 + (d if i < sets else 0.0) for i in range(3))), reference) for d in off]
            for sets in (1, 2, 3)
        ],
    }


def of_losses(rng: Rng) -> dict[str, Any]:
    """KS of two sets of losses, and what it is on average for two sets of one distribution, by their size."""
    own, retrained = np.sort(rng.exponential(0.6, 48)), np.sort(rng.exponential(1.2, 48))
    sizes = [5, 10, 20, 48, 100, 200, 400]
    alike = np.array(
        [
            [kolmogorov_smirnov(rng.exponential(1.0, n), rng.exponential(1.0, n)) for _ in range(200)]
            for n in sizes
        ],
        np.float64,
    )
    return {
        "own": own,
        "retrained": retrained,
        "ks": kolmogorov_smirnov(own, retrained),
        "sizes": sizes,
        "alike": np.mean(alike, 1),
        "largest": np.quantile(alike, 0.95, axis=1),
    }


def of_outlier(n: int = 48) -> dict[str, Any]:
    """W1 and KS between losses and the same ones of which one has grown."""
    losses = np.linspace(0.02, 2.0, n)
    grown = np.linspace(2.0, 50.0, 25)
    changed = [np.append(losses[:-1], g) for g in grown]
    return {
        "grown": grown,
        "w1": [wasserstein(losses, c) for c in changed],
        "ks": [kolmogorov_smirnov(losses, c) for c in changed],
    }


def of_outputs() -> dict[str, Any]:
    """JS of a sure output against another of the same class, ever less sure, and beyond the border."""
    sure, other = np.array([[0.98, 0.01, 0.01]]), np.linspace(0.0, 1.0, 101)
    outputs = [np.array([[p, (1 - p) * 0.9, (1 - p) * 0.1]]) for p in other]
    return {"p": other, "js": [jensen_shannon(sure, q) for q in outputs]}


def of_relearning(seed: int, dims: int = 720) -> dict[str, Any]:
    """Steps to an accuracy on D_f, of models that knew it, hide it, are wrecked and never knew it."""
    draw = torch_rng_for(seed, "relearn")
    labels = torch.arange(160) % 8
    noise = torch.randn(160, 1, dims, generator=draw)
    features = noise + 0.12 * torch.randn(8, 1, dims, generator=draw)[labels]
    all_ = Examples(features, torch.ones(160, dtype=torch.int64), labels)
    forget, kept = all_.take(torch.arange(32)), all_.take(torch.arange(32, 160))
    settings = LocalSettings(lr=0.01)
    model = FunctionalsModel(8, hidden=32)
    first = _first(model, draw)

    def learned(data: Examples) -> dict[str, Tensor]:
        model.load_state_dict(first)
        train(
            model, data, LocalSettings(steps=0, epochs=15, lr=0.01), 0.01, rng_for(seed, "relearn", "train")
        )
        return {k: v.clone() for k, v in model.state_dict().items()}

    original = learned(all_)
    states = {
        "original": original,
        "ascended": _ascended(model, original, forget),
        "biased": _biased(model, original, forget),
        "retrained": learned(kept),
    }
    targets = np.linspace(0.125, 1.0, 8)
    rngs = [rng_for(seed, "relearn", "order", i) for i in range(5)]

    def time_of(state: Mapping[str, Tensor], target: float) -> RelearnTime:
        return relearn(model, state, forget, target, settings, 60, rngs) or RelearnTime.empty()

    steps = {name: [time_of(state, float(t)).to_json() for t in targets] for name, state in states.items()}
    return {"targets": targets, "steps": steps}


def _biased(model: FunctionalsModel, state: Mapping[str, Tensor], forget: Examples) -> dict[str, Tensor]:
    """The model, made to answer one emotion until a quarter of D_f is left; nothing else of it is moved."""
    biased = {k: v.clone() for k, v in state.items()}
    model.load_state_dict(biased)
    while _share_right(model, forget) > 0.25:
        biased["head.3.bias"][0] += 0.1
        model.load_state_dict(biased)
    return biased


def _share_right(model: FunctionalsModel, data: Examples) -> float:
    return float((model.classify(data.features, data.frames).argmax(1) == data.labels).double().mean())


def _ascended(model: FunctionalsModel, state: Mapping[str, Tensor], forget: Examples) -> dict[str, Tensor]:
    """Gradient ascent on D_f until a quarter of it is left."""
    model.load_state_dict(dict(state))
    weights = [p for p in model.parameters() if p.requires_grad]
    for _ in range(500):
        if _share_right(model, forget) <= 0.25:
            break
        logits = model.classify(forget.features, forget.frames)
        gradients = torch.autograd.grad(cross_entropy(logits, forget.labels), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient, alpha=0.02)
    return {k: v.clone() for k, v in model.state_dict().items()}


def _first(model: FunctionalsModel, draw: torch.Generator) -> dict[str, Tensor]:
    state = model.state_dict()
    drawn = {k: 0.04 * torch.randn(v.shape, generator=draw) for k, v in state.items() if k.startswith("head")}
    return {**{k: v.clone() for k, v in state.items()}, **drawn}


def of_fairness(rng: Rng, speakers: int = 20, n: int = 40) -> dict[str, Any]:
    """Two models with the same mean change: everybody loses a little, or one speaker pays for all."""
    about = [Staying(s, 0, "") for s in range(speakers) for _ in range(n)]
    labels = rng.integers(0, 8, speakers * n)
    original = np.where(rng.random(speakers * n) < 0.7, labels, (labels + 1) % 8)
    right = np.flatnonzero(original == labels)
    by_speaker = [right[right // n == s] for s in range(speakers)]
    lost = len(by_speaker[7])
    spread = rng.permutation(np.concatenate([own[:2] for own in by_speaker]))[:lost]
    found = {}
    for name, gone in (("everybody", spread), ("one", by_speaker[7])):
        changed = original.copy()
        changed[gone] = (labels[gone] + 1) % 8
        found[name] = fairness(
            about, {"original": [original], "unlearned": [changed]}, labels, ["?"] * 8
        ).to_json()
    return found


def of_gum() -> dict[str, Any]:
    """GUM and CGUM by membership, of a model as good as the retrained one and of one at chance."""
    auc = np.linspace(0.0, 1.0, 101)
    found: dict[str, Any] = {"auc": auc, "original": 0.8, "gold": 0.5}
    for name, f1 in (("good", 0.6), ("chance", 0.125)):
        runs = [(f1, 0.6, float(a), 0.8, 0.5, 2.0, 100.0) for a in auc]
        found[name] = {"gum": [gum(*r) for r in runs], "cgum": [cgum(*r, classes=8) for r in runs]}
    return found


def of_run(results: Mapping[str, Results]) -> dict[str, Any]:
    """What of whole runs is drawn.

    Args:
        results: "gentle" and "ordinary" -> results of runs that differ in their recovery alone.
    """
    lines = {
        name: [(r.round, r.phase, r.forget_accuracy) for r in run.timeline] for name, run in results.items()
    }
    run = results["gentle"]
    return {
        "reversion": {"lines": lines, "retrained": run.models.retrained.forget.accuracy},
        "cost": {name: run.cost[name].to_json() for name in ("unlearn", "recover", "retrain")},
        "request": [r.privacy.to_json() for r in run.requests if r.privacy],
    }
