"""Several runs as one body of evidence: which may be compared, which are the same but for their seed.

A run's *task* is what it was about: corpus, partition, model, training and what was to be deleted. Gaps of
different tasks are distances to different retrained models, so only runs of one task are ranked. Within a
task, runs with the same settings but for the seed are one *entry*: its values are pooled over seeds.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedunlearn.report.finding import final_model
from fedunlearn.report.study.statistics import Spread, group_of, spread
from fedunlearn.report.values import at, number_at, plain

_ABOUT_CORPUS = ("name", "utterances", "speakers", "clients", "unseen_speakers", "emotions")
_TASK = ("partition", "model", "training", "deletions", "availability", "attackers")
_SERVING = {"deletions.window", "deletions.deadline", "deletions.patience"}
"""how requests are served is a choice, like the method; what is asked is the task"""
_WITHOUT_EFFECT = (
    "seed",
    "federation.",
    "corpus.path",
    "corpus.skip_bad",
    "evaluation.search",
    "evaluation.shadow",
    "evaluation.relearn_steps",
    "evaluation.bootstrap",
)
"""beginnings of settings that move no gap, or that runs of one entry differ in by design"""


@dataclass(frozen=True)
class Run:
    """One results.json under a name. All of it may have holes."""

    name: str
    results: Mapping[str, Any]

    @cached_property
    def settings(self) -> dict[str, str]:
        """Dotted key of each setting -> its value as text."""
        config = at(self.results, "config")
        return dict(_flat(config)) if isinstance(config, Mapping) else {}

    @cached_property
    def task(self) -> dict[str, str]:
        """What it was about: dotted name -> value as text."""
        about = {"results schema": plain(at(self.results, "schema"))}
        about |= {f"corpus.{name}": _told(at(self.results, "corpus", name)) for name in _ABOUT_CORPUS}
        mine = {k: v for k, v in self.settings.items() if k.split(".")[0] in _TASK and k not in _SERVING}
        return about | mine

    @cached_property
    def choices(self) -> dict[str, str]:
        """The settings that make its entry: those that are neither of the task nor without effect."""
        return {
            k: v
            for k, v in self.settings.items()
            if k not in self.task and not k.startswith(_WITHOUT_EFFECT) and k.split(".")[0] != "corpus"
        }

    @property
    def method(self) -> str:
        """Its name, "–" where it is not told."""
        return plain(at(self.results, "config", "unlearning", "method"))

    @property
    def seed(self) -> str:
        """As text."""
        return plain(at(self.results, "seed"))

    @property
    def status(self) -> str:
        """ "complete", "partial" or "failed"."""
        return plain(at(self.results, "status"))

    @property
    def counts(self) -> bool:
        """Whether it takes part in means and in the ranking: complete, with a gap."""
        return self.status == "complete" and self.gap is not None

    @property
    def gap(self) -> float | None:
        """Mean gap of the model that it ends with."""
        return number_at(self.results, "gap", final_model(self.results), "mean")

    def forgets_another_set_than(self, other: "Run") -> bool:
        """Whether what was forgotten is known to differ, of two runs of the same settings and seed."""
        sizes = {number_at(r.results, "models", "retrained", "forget", "n") for r in (self, other)} - {None}
        if len(sizes) > 1:
            return True
        # The key is a digest of the retrained model's data, and of the versions that trained it.
        keys = {plain(at(r.results, "references", "retrained-0")) for r in (self, other)} - {"–"}
        versions = {
            (plain(at(r.results, "versions", "fedunlearn")), plain(at(r.results, "versions", "torch")))
            for r in (self, other)
        }
        looked = {r.settings.get("evaluation.curve_every") for r in (self, other)}
        return len(keys) > 1 and len(versions) == 1 and len(looked) == 1


@dataclass(frozen=True)
class ComparedRun:
    """Runs that differ in their seed alone.

    Attributes:
        label: the method, and the settings that tell it from other entries of the same method.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """Of all its runs."""
        return self.runs[0].method

    @property
    def sees(self) -> str:
        """ "forget": the forget set alone."""
        return plain(at(self.runs[0].results, "unlearning", "sees"))

    @property
    def group(self) -> str:
        """Which of ``comparison.GROUPS`` its method belongs to."""
        return group_of({"algorithm": self.method, "sees": self.sees})

    @property
    def control(self) -> bool:
        """Whether its method is one that any method has to beat."""
        return self.group == "control"

    @property
    def counted(self) -> tuple[Run, ...]:
        """Those that take part in means."""
        return tuple(run for run in self.runs if run.counts)

    def by_seed(self, value: Callable[[Run], float | None]) -> dict[str, float]:
        """Seed -> a value, of the runs that count; the mean where a seed was run twice."""
        found: dict[str, list[float]] = {}
        for run in self.counted:
            known = value(run)
            if known is not None:
                found.setdefault(run.seed, []).append(known)
        return {seed: sum(values) / len(values) for seed, values in found.items()}

    def pooled(self, value: Callable[[Run], float | None]) -> Spread:
        """Mean over seeds and half its 95 % interval (Student's t; NaN with one seed)."""
        return spread(self.by_seed(value).values())


@dataclass(frozen=True)
class ComparedTask:
    """Runs that may be compared, as entries in order of appearance."""

    entries: tuple[ComparedRun, ...]

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [run for entry in self.entries for run in entry.runs]

    @property
    def counted(self) -> list[Run]:
        """Those that take part in means."""
        return [run for run in self.runs if run.counts]

    def once_a_seed(self, value: Callable[[Run], float | None]) -> Spread:
        """Of what all entries share, such as the noise floor: mean over seeds and half its interval."""
        return ComparedRun("", tuple(self.counted)).pooled(value)


def tasks_of(runs: Sequence[Run]) -> list[ComparedTask]:
    """Runs by task, in order of appearance; what was forgotten counts where it is known."""
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
    """Keys whose values are not all the same -> those values, each once; "–" = has none."""
    records = list(records)
    keys = dict.fromkeys(key for record in records for key in record)
    values = {key: list(dict.fromkeys(record.get(key, "–") for record in records)) for key in keys}
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
    own = [f"{k.split('.')[-1]} {mine[0].choices.get(k, '–')}" for k in differing(rivals)]
    return f"{method} ({', '.join(own)})" if own else method


def _told(value: Any) -> str:
    return ", ".join(plain(part) for part in value) if isinstance(value, list) else plain(value)


def _flat(node: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else plain(value)
            yield f"{before}{key}", text
