"""Results of made-up runs for the page to explore, with values that a test can derive by hand.

Three methods on two sizes and three seeds. In every run the two retrained models have a forget accuracy of
.52 and .48, a retain accuracy of .995 and .985 and a test accuracy of .605 and .595: means .50, .99 and .60.
"""

import copy
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from results_example import eventful_results
from results_measures import add_measures

from fedunlearn.report.explore.overview import ExploredRun
from fedunlearn.results_schema import Results

FORGET, RETAIN, TEST = 0.50, 0.99, 0.60
AWAY: Mapping[str, tuple[float, float, float]] = {
    "near": (0.02, -0.01, -0.01),
    "timid": (0.20, 0.00, 0.00),
    "harsh": (0.01, -0.20, -0.15),
}
"""method -> forget, retain and test accuracy of its recovered model less those of the retrained ones"""
BY_SEED = {1: -0.01, 2: 0.0, 3: 0.01}
"""seed -> what the forget accuracy has in addition"""
SIZES = (10, 20)
DELETED = 12
EMOTIONS = 6


def chromium() -> str | None:
    """Path of the system's Chromium or Chrome; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@cache
def _base() -> dict[str, Any]:
    return add_measures(eventful_results())


def answers(rng: np.random.Generator, held: int) -> dict[str, Any]:
    """Twelve deleted utterances, and as many held ones as are wanted, of four speakers and someone who asked.

    The deleted one with index 1 (the lowest log-odds in the original model) has log-odds of 2, 1.5, 1.5 and
    -6 by the four models: unlearning moved it by half of a nat where retraining takes eight.
    """
    before = np.sort(rng.normal(6.0, 1.0, DELETED))
    after = rng.normal(0.0, 1.0, DELETED)
    stages = {"original": before, "unlearned": after, "recovered": after, "retrained": after.copy()}
    for name, value in zip(stages, (2.0, 1.5, 1.5, -6.0), strict=True):
        stages[name][0] = value
    groups = [{"subset": "forget", "request": "r-1", **_columns(stages), "deviations": [0.5] * DELETED}]
    for speaker in range(4):
        level = rng.normal(1.0, 3.0, held // 5)
        near = {name: level + rng.normal(0.0, 0.4, held // 5) for name in stages}
        groups.append(
            {
                "subset": "test" if speaker % 2 else "retain",
                "client": 4 + speaker // 2,
                "speaker": speaker % 2,
                "places": list(range(speaker * (held // 5), (speaker + 1) * (held // 5))),
                "emotions": [n % EMOTIONS for n in range(held // 5)],
                **_columns(near),
                "deviations": [0.5] * (held // 5),
            }
        )
    rest = np.sort(rng.normal(1.0, 3.0, held - 4 * (held // 5)))
    groups.append(
        {"subset": "test", **_columns(dict.fromkeys(stages, rest)), "deviations": [0.5] * len(rest)}
    )
    return {"groups": groups, "left_out": 0}


def _columns(stages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "log_odds": [round(float(value), 3) for value in values],
            "correct": "".join("1" if value > 0 else "0" for value in values),
        }
        for name, values in stages.items()
    }


def made_results(
    method: str, size: int, seed: int, away: tuple[float, float, float], held: int = 100
) -> Results:
    """A finished run whose recovered model is that far from the retrained ones."""
    record = copy.deepcopy(_base())
    extra = BY_SEED.get(seed, 0.0)
    forget, retain, test = FORGET + away[0] + extra, RETAIN + away[1], TEST + away[2]
    for name in ("unlearned", "recovered"):
        model = record["models"][name]
        model["forget"]["accuracy"], model["retain"]["accuracy"] = round(forget, 6), round(retain, 6)
        model["test"]["accuracy"] = round(test, 6)
        parts = [abs(forget - FORGET), abs(retain - RETAIN), abs(test - TEST)]
        gap = dict(zip(("forget", "retain", "test"), (round(part, 6) for part in parts), strict=True))
        record["gap"][name] |= gap | {"membership": 0.0, "mean": round(sum(parts) / 4, 6)}
    for model, sign in zip(record["models"]["retrained"]["seeds"], (1, -1), strict=True):
        model["forget"]["accuracy"] = FORGET + sign * 0.02
        model["retain"]["accuracy"] = RETAIN + sign * 0.005
        model["test"]["accuracy"] = TEST + sign * 0.005
    record["seed"] = record["config"]["seed"] = seed
    record["unlearning"] = {"method": method, "sees": "forget", "source": "", "title": method, "control": ""}
    record["config"]["unlearning"] = {"method": method, "aggregation": "sum"}
    record["requests"] = record["requests"][:1]
    record["requests"][0] |= {"id": "r-1", "what": "some", "utterances": size}
    record["answers"] = answers(np.random.default_rng([seed, size]), held)
    return Results.model_validate(record)


def cell_name(method: str, size: int, seed: int) -> str:
    """A finished cell's name in the folder of a comparison."""
    name = f"{method}-1x{size}-sum-gentle-seed{seed}"
    return f"{name}-{zlib.crc32(name.encode()):012x}"


def explored_runs() -> list[ExploredRun]:
    """Three methods, two sizes, three seeds."""
    return [
        ExploredRun(cell_name(method, size, seed), made_results(method, size, seed, away))
        for method, away in AWAY.items()
        for size in SIZES
        for seed in BY_SEED
    ]


def many_runs(methods: int, sizes: Sequence[int], seeds: Iterable[int], held: int) -> list[ExploredRun]:
    """As many as are wanted; runs that differ in their seed alone have the same numbers."""
    found = []
    for number in range(methods):
        for size in sizes:
            name, away = f"method{number}", (0.01 * number, -0.002 * number, 0.0)
            made = made_results(name, size, number, away, held)
            found += [
                ExploredRun(cell_name(name, size, seed), made.model_copy(update={"seed": seed}))
                for seed in seeds
            ]
    return found
