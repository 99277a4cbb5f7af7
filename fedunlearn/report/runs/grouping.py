"""Which runs may be compared, and which differ in their seed alone.

A run's *task* is what it is about: corpus, partition, model, training and what was to be deleted. Gaps of
different tasks are distances to different retrained models, so only runs of one task are ranked. Within a
task, runs with the same settings but for the seed are one *entry*: its values are pooled over seeds.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from fedunlearn.caveats import decisive_caveat
from fedunlearn.dotted import dotted_values
from fedunlearn.report.names import method_name
from fedunlearn.report.statistics import Spread, Spreads, group_of, pool_all, seed_means, spreads
from fedunlearn.report.values import MISSING, plain
from fedunlearn.results_schema import Caveat, Gap, ModelScores, Results

Value = Callable[["Run"], float | None]
"""a measure of a run; None where its results do not hold it"""

_TASK = ("partition", "model", "training", "deletions", "availability", "attackers")
_SERVING = {"deletions.window", "deletions.deadline", "deletions.patience"}
"""how requests are served is a choice, like the method; which requests there are is the task"""
_WITHOUT_EFFECT = (
    "seed",
    "federation.",
    "corpus.path",
    "corpus.columns",
    "corpus.skip_bad",
    "evaluation.search",
    "evaluation.shadow",
    "evaluation.relearn_steps",
    "evaluation.bootstrap",
)
"""beginnings of settings that do not change a gap, or in which runs of one entry differ by design"""


@dataclass(frozen=True)
class Run:
    """The results of a run under a name.

    Attributes:
        name: of its folder.
        results: of which any part may be empty.
    """

    name: str
    results: Results

    @cached_property
    def settings(self) -> dict[str, str]:
        """Dotted key of each setting -> its value as text."""
        return {key: _text(value) for key, value in dotted_values(self.results.config)}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Library -> its version."""
        return self.results.versions

    @cached_property
    def task(self) -> dict[str, str]:
        """What it is about: dotted name -> value as text."""
        corpus = self.results.corpus
        about = {
            "results schema": plain(self.results.format),
            "corpus.name": plain(corpus.name),
            "corpus.utterances": plain(corpus.utterances),
            "corpus.speakers": plain(corpus.speakers),
            "corpus.clients": plain(corpus.clients),
            "corpus.unseen_speakers": plain(corpus.unseen_speakers),
            "corpus.emotions": plain(", ".join(corpus.emotions)),
        }
        mine = {k: v for k, v in self.settings.items() if k.split(".")[0] in _TASK and k not in _SERVING}
        return about | mine

    @cached_property
    def choices(self) -> dict[str, str]:
        """The settings that decide its entry: those that are neither of the task nor without effect."""
        return {
            k: v
            for k, v in self.settings.items()
            if k not in self.task and not k.startswith(_WITHOUT_EFFECT) and k.split(".")[0] != "corpus"
        }

    @property
    def method(self) -> str:
        """Its name; "–" where it is not known."""
        return method_name(self.results)

    @property
    def seed(self) -> str:
        """Its seed, as text."""
        return plain(self.results.seed)

    @property
    def status(self) -> str:
        """ "complete", "partial" or "failed"."""
        return plain(self.results.status)

    @property
    def counts(self) -> bool:
        """Whether it takes part in means and in the ranking: complete, with a gap."""
        return self.status == "complete" and self.gap is not None

    @cached_property
    def caveat(self) -> Caveat | None:
        """Why it says nothing about its method; None where it says something."""
        return decisive_caveat(self.results)

    @cached_property
    def final(self) -> str:
        """The model that it ends with: "recovered", or "unlearned" where nothing was recovered."""
        return self.results.final_model

    @property
    def final_scores(self) -> ModelScores:
        """The scores of that model."""
        return self.results.models[self.final]

    @property
    def final_gap(self) -> Gap:
        """The gap of that model."""
        return self.results.gap[self.final]

    @property
    def gap(self) -> float | None:
        """The mean gap of that model."""
        return self.final_gap.mean

    @property
    def floor(self) -> float | None:
        """The noise floor: the mean gap between its retrained models."""
        return self.results.gap.noise_floor.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of its mean gap, over utterances."""
        low, high = self.final_gap.low, self.final_gap.high
        return None if low is None or high is None else (low, high)

    def forgets_another_set_than(self, other: "Run") -> bool:
        """Tell whether two runs of the same settings and seed are known to have forgotten different sets."""
        sizes = {run.results.models.retrained.forget.n for run in (self, other)} - {None}
        if len(sizes) > 1:
            return True
        # The key is a digest of the retrained model's data, and of the versions that trained it.
        keys = {run.results.references.get("retrained-0") for run in (self, other)} - {None}
        versions = {(run.versions.get("fedunlearn"), run.versions.get("torch")) for run in (self, other)}
        looked = {run.settings.get("evaluation.curve_every") for run in (self, other)}
        return len(keys) > 1 and len(versions) == 1 and len(looked) == 1


@dataclass(frozen=True)
class ComparedRun:
    """Runs that differ in their seed alone.

    Attributes:
        label: the method, and the settings that tell it from other entries of the same method.
        runs: at least one.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """The method of all its runs."""
        return self.runs[0].method

    @property
    def sees(self) -> str:
        """ "forget": the forget set alone."""
        return plain(self.runs[0].results.unlearning.sees)

    @property
    def group(self) -> str:
        """Which of ``statistics.GROUPS`` its method belongs to."""
        return group_of(bool(self.runs[0].results.control_effect), self.sees)

    @property
    def control(self) -> bool:
        """Whether its method is a control, which any method has to beat."""
        return self.group == "control"

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that take part in means."""
        return tuple(run for run in self.runs if run.counts)

    @property
    def silent(self) -> tuple[Run, ...]:
        """Those of them that say nothing about the method."""
        return tuple(run for run in self.counted if run.caveat is not None)

    def pooled(self, value: Value) -> Spread:
        """Compute the mean of a value over seeds and its interval, of the runs that count."""
        return pool_all(_observed([(self, run) for run in self.counted], value), "value")


@dataclass(frozen=True)
class ComparedTask:
    """Runs that may be compared.

    Attributes:
        entries: in order of appearance.
    """

    entries: tuple[ComparedRun, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs of all entries."""
        return [run for entry in self.entries for run in entry.runs]

    @property
    def counted(self) -> list[Run]:
        """The runs that take part in means."""
        return [run for run in self.runs if run.counts]

    def by_seed(self, value: Value) -> pd.DataFrame:
        """Collect a value of the runs that count: one row for each seed, one column for each entry's label.

        Where a seed was run twice, the mean; entries and seeds without any value are left out.
        """
        pairs = [(entry, run) for entry in self.entries for run in entry.counted]
        return seed_means(_observed(pairs, value), "value", "entry")

    def pooled(self, value: Value) -> Spreads:
        """Compute the mean of a value over seeds and its interval, for the label of each entry."""
        return spreads(self.by_seed(value))

    def once_a_seed(self, value: Value) -> Spread:
        """Compute the mean over seeds and interval of what all entries share, such as the noise floor."""
        pairs = [(entry, run) for entry in self.entries for run in entry.counted]
        return pool_all(_observed(pairs, value), "value")


def tasks_of(runs: Sequence[Run]) -> list[ComparedTask]:
    """Group runs by task, in order of appearance; by what was forgotten, too, where it is known."""
    groups: dict[tuple[tuple[str, str], ...], list[list[Run]]] = {}
    for run in runs:
        versions = groups.setdefault(tuple(sorted(run.task.items())), [])
        for mine in versions:
            same_seed = [other for other in mine if other.seed == run.seed]
            if not any(run.forgets_another_set_than(other) for other in same_seed):
                mine.append(run)
                break
        else:
            versions.append([run])
    return [ComparedTask(_entries(mine)) for versions in groups.values() for mine in versions]


def differing(records: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Find the keys whose values are not all the same: key -> those values, each once; "–" = has none."""
    records = list(records)
    keys = dict.fromkeys(key for record in records for key in record)
    values = {key: list(dict.fromkeys(record.get(key, MISSING) for record in records)) for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}


def _entries(runs: Sequence[Run]) -> tuple[ComparedRun, ...]:
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run.choices.items())), []).append(run)
    return tuple(ComparedRun(_label(mine, groups.values()), tuple(mine)) for mine in groups.values())


def _label(mine: Sequence[Run], all_: Iterable[Sequence[Run]]) -> str:
    """The method; where several entries have it, with the settings in which they differ."""
    method = mine[0].method
    rivals = [group[0].choices for group in all_ if group[0].method == method]
    keys = list(differing(rivals))
    names = [key.split(".")[-1] for key in keys]
    if len(set(names)) < len(names):
        names = keys
    values = [mine[0].choices.get(key, MISSING) for key in keys]
    own = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return f"{method} ({', '.join(own)})" if own else method


def _observed(pairs: Sequence[tuple[ComparedRun, Run]], value: Value) -> pd.DataFrame:
    found = [(entry.label, run.seed, value(run)) for entry, run in pairs]
    return pd.DataFrame(found, columns=["entry", "seed", "value"]).astype({"value": float})


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else plain(value)
