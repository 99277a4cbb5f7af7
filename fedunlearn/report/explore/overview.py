"""Each run as a line of the page's overview: what it is, and the measures of its models."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import t as students_t

from fedunlearn.caveats import decisive_caveat
from fedunlearn.report.explore.measures import (
    FORGET_DIFFERENCE,
    MEASURES,
    RETAIN_DIFFERENCE,
    STAGES,
    TEST_DIFFERENCE,
)
from fedunlearn.report.names import method_title
from fedunlearn.report.runs.grouping import ComparedTask, Run, tasks_of
from fedunlearn.report.statistics import GROUPS, group_of
from fedunlearn.report.values import plain
from fedunlearn.results_schema import ModelScores, Results

_CELL = re.compile(
    r"(?P<method>.+)-\d+x(?:\d+|all)-(?P<aggregation>.+?)-"
    r"(?P<recovery>(?:none|gentle|ordinary)(?:-removed)?)"
    r"(?:-window\d+)?(?:-fold\d+)?-seed\d+-[0-9a-f]{12}"
)
"""name of a finished cell of a study, see ``study.grid.StudyCell``"""
_MOST_SEEDS = 60


@dataclass(frozen=True)
class ExploredRun:
    """A run, or a finished cell of a study, as it was found.

    Attributes:
        name: unique among the runs of the page: of the folder, or of the cell.
        results: its results.
        sees: what its method sees, "forget" for the forget set alone; empty where it is not known.
        report: address of its report relative to the page; empty where there is none.
    """

    name: str
    results: Results
    sees: str = ""
    report: str = ""


@dataclass(frozen=True)
class MeasureColumn:
    """A measure as the page's script reads it; see ``measures.MethodMeasure``."""

    key: str
    label: str
    topic: str
    explanation: str
    target: str


@dataclass(frozen=True)
class ExploredLine:
    """A run as the page's script reads it.

    Attributes:
        name: see ``ExploredRun``.
        method: name of the method or variant.
        group: of ``report.statistics.GROUPS``.
        task: corpus and model; several of one corpus and model are numbered.
        size: what each request deletes, in words.
        deleted: number of utterances in D_f.
        requesters: number of requests.
        aggregation: how updates are joined.
        recovery: name or rounds of the recovery; begins with "no" where there is none.
        window: rounds that a request waits for others.
        fold: of the corpus's protocol; 0 = none.
        seed: of the run.
        status: complete, partial or failed.
        caveat: why it says nothing about its method; else empty.
        final: the model that it ends with.
        report: see ``ExploredRun``.
        values: for each of ``measures.STAGES``: a value for each column, None where not known.
        away: for each stage: forget, retain and test accuracy less those of the retrained models.
        seeds: forget, retain and test accuracy of each retrained model less their mean.
    """

    name: str
    method: str
    group: str
    task: str
    size: str
    deleted: int
    requesters: int
    aggregation: str
    recovery: str
    window: int
    fold: int
    seed: int
    status: str
    caveat: str
    final: str
    report: str
    values: list[list[float | None]]
    away: list[list[float | None]]
    seeds: list[list[float]]


@dataclass(frozen=True)
class Overview:
    """All that the page shows before a run is opened.

    Attributes:
        groups: key -> title of each group of methods.
        stages: names of the models, in the order of ``ExploredLine.values``.
        columns: measures of which at least one run has a value.
        t: quantile of Student's t for a 95 % interval, by degrees of freedom, from 1 on.
        runs: the lines.
    """

    groups: dict[str, str]
    stages: list[str]
    columns: list[MeasureColumn]
    t: list[float]
    runs: list[ExploredLine]


def overview_of(runs: Sequence[ExploredRun]) -> Overview:
    """Describe runs as the page's script reads them.

    Args:
        runs: in the order of the page.
    """
    known = [
        measure
        for measure in MEASURES
        if any(measure.value(run.results, stage) is not None for run in runs for stage in STAGES)
    ]
    tasks, methods = _tasks(runs), _methods(runs)
    lines = []
    for run in runs:
        results, cell = run.results, _CELL.fullmatch(run.name)
        sees = run.sees or results.unlearning.sees or "forget"
        caveat = decisive_caveat(results)
        size, deleted = _size(results)
        lines.append(
            ExploredLine(
                name=run.name,
                method=methods[run.name],
                group=group_of(bool(results.control_effect), sees),
                task=tasks[run.name],
                size=size,
                deleted=deleted,
                requesters=len({request.id for request in results.requests}),
                aggregation=plain(results.setting("unlearning", "aggregation")),
                recovery=cell["recovery"] if cell else _recovery(results),
                window=_whole(results.setting("deletions", "window")),
                fold=_whole(results.setting("partition", "fold")),
                seed=_whole(results.seed if results.seed is not None else results.setting("seed")),
                status=plain(results.status) if results.status else "complete",
                caveat="" if caveat is None else plain(caveat.sentence),
                final=_final(results),
                report=run.report,
                values=[[measure.value(results, stage) for measure in known] for stage in STAGES],
                away=[
                    [
                        difference(results, stage)
                        for difference in (FORGET_DIFFERENCE, RETAIN_DIFFERENCE, TEST_DIFFERENCE)
                    ]
                    for stage in STAGES
                ],
                seeds=_deviations(results.models.retrained.seeds),
            )
        )
    return Overview(
        groups=dict(GROUPS),
        stages=list(STAGES),
        columns=[MeasureColumn(m.key, m.label, m.topic, m.explanation, m.target) for m in known],
        t=[float(students_t.ppf(0.975, free)) for free in range(1, _MOST_SEEDS)],
        runs=lines,
    )


def _methods(runs: Iterable[ExploredRun]) -> dict[str, str]:
    """Name of each run -> its method; with the settings that tell it from others, where there are any."""
    found, alone = {}, []
    for run in runs:
        if cell := _CELL.fullmatch(run.name):
            found[run.name] = cell["method"].replace("_", " ")
        else:
            alone.append(Run(run.name, run.results))
    for task in tasks_of(alone):
        for entry in task.entries:
            for mine in entry.runs:
                found[mine.name] = _titled(entry.label, mine.results, task)
    return found


def _titled(label: str, results: Results, task: ComparedTask) -> str:
    """The title of the method where no other entry of the task has the same method."""
    return method_title(results) if label == results.unlearning.method or len(task.entries) == 1 else label


def _tasks(runs: Sequence[ExploredRun]) -> dict[str, str]:
    """Name of each run -> its corpus and model; numbered where several tasks have the same."""
    found: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
    labels = {}
    for run in runs:
        about = {
            key: value
            for key, value in Run(run.name, run.results).task.items()
            if not key.startswith(("deletions.", "partition.fold", "results schema"))
        }
        label = f"{plain(run.results.corpus.name)}, {plain(run.results.setting('model', 'name'))}"
        alike = found.setdefault(label, {})
        number = alike.setdefault(tuple(sorted(about.items())), len(alike) + 1)
        labels[run.name] = label, number
    return {
        name: f"{label} ({number})" if len(found[label]) > 1 else label
        for name, (label, number) in labels.items()
    }


def _size(results: Results) -> tuple[str, int]:
    """What each request deletes, in words, and the number of deleted utterances."""
    asked: dict[str | None, int] = {}
    for request in results.requests:
        asked[request.id] = asked.get(request.id, 0) + (request.utterances or 0)
    counts = set(asked.values())
    deleted = results.models.retrained.forget.n or sum(asked.values())
    if results.requests and all(request.what == "all" for request in results.requests):
        return "all", deleted
    if len(counts) == 1:
        return str(counts.pop()), deleted
    return f"{deleted} in all", deleted


def _final(results: Results) -> str:
    """The model that a run ends with; without recovery rounds the recovered one is the unlearned."""
    return "unlearned" if results.setting("recovery", "rounds") == 0 else results.final_model


def _recovery(results: Results) -> str:
    rounds = _whole(results.setting("recovery", "rounds"))
    return f"{rounds} rounds" if rounds else "no recovery"


def _deviations(seeds: Sequence[ModelScores]) -> list[list[float]]:
    accuracies = [(seed.forget.accuracy, seed.retain.accuracy, seed.test.accuracy) for seed in seeds]
    whole = [[value for value in row if value is not None] for row in accuracies]
    if len(seeds) < 2 or any(len(row) < 3 for row in whole):
        return []
    means = [sum(column) / len(column) for column in zip(*whole, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in whole]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
