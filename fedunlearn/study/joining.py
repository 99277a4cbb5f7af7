"""Studies of one task by several people as one study; studies of different tasks are refused."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any, TypeVar

import pandas as pd

from fedunlearn.errors import BadInput
from fedunlearn.evaluation.gap import gap, noise_floor
from fedunlearn.results_schema import Gap, ModelScores
from fedunlearn.study.rows import frame_of
from fedunlearn.study.sharing import STAGES, rows_of_run
from fedunlearn.study.study_file import (
    MethodEntry,
    ReferenceScores,
    RunKey,
    StudyFile,
    StudyMeasures,
    StudyPart,
    StudyRun,
    StudySpeech,
    StudyTask,
    study_of_parts,
    task_digest,
    written,
)
from fedunlearn.study.task import setting_differences

P = TypeVar("P", bound=StudyPart)

_TOLERANCE = 1e-9
"""of gaps that are computed again, and of accuracies as shares of whole utterances"""
_LEVEL = 1e-3
"""relative difference of levels up to which recordings are the same, resampled on another processor"""
_SHARES = {
    "forget": ("forget",),
    "retain": ("retain",),
    "test": ("test",),
    "unseen": ("unseen_wa",),
}
"""set of utterances -> accuracies on it"""


@dataclass(frozen=True)
class JoinedRows:
    """The runs of a study as rows.

    Attributes:
        rows: as ``study.rows.StudyRow``, and the column ``contributor``: those who made the run, by commas.
        notes: a line for each method of which contributors differ, so that it has a row for each of them; and
            one where methods do not have the same seeds.
    """

    rows: pd.DataFrame
    notes: tuple[str, ...]


def check_study_file(study: StudyFile, place: str) -> list[str]:
    """Check that a study is whole and that its numbers follow from each other.

    Args:
        study: as read.
        place: what it was read from, for the messages.

    Returns:
        a line for each problem.
    """
    return [f"{place}: {problem}" for problem in (*_inconsistent(study), *_not_recomputed(study))]


def merge_studies(studies: Mapping[str, StudyFile]) -> StudyFile:
    """Merge studies of one task: all their methods and seeds.

    The outcome does not depend on the order, and a study that is merged twice counts once.

    Args:
        studies: what each was read from -> the study; at least one.

    Raises:
        BadInput: two are not of the same task, or one contributor has two different outcomes of a run.
    """
    places = sorted(studies)
    problems = [line for one, other in combinations(places, 2) for line in _strangers(studies, one, other)]
    if problems:
        raise BadInput(problems)
    found = [studies[place] for place in places]
    entries = _each_once(entry for study in found for entry in study.methods)
    names = Counter((entry.contributor, entry.name) for entry in entries)
    problems = [
        f"{' and '.join(places)}: {who} has two different methods called {name}; rename one with --variant"
        for (who, name), count in sorted(names.items())
        if count > 1
    ]
    runs, twice = _runs(found)
    if problems or twice:
        raise BadInput([*problems, *(f"{' and '.join(places)}: {line}" for line in twice)])
    speech: dict[tuple[int, int], StudySpeech] = {}
    for one in (one for study in found for one in study.speech):
        kept = speech.setdefault((one.fold, one.seed), one)
        speech[one.fold, one.seed] = min(kept, one, key=lambda each: each.level)
    return study_of_parts(
        _each_once(who for study in found for who in study.contributors),
        reduce(_united, (study.task for study in found)),
        entries,
        speech.values(),
        runs,
    )


def join_rows(study: StudyFile) -> JoinedRows:
    """Make rows of all runs, with the name of each method as tables show it.

    A method that all contributors run with the same settings is one method. Runs that two of them made
    with equal results count once. Where settings or results differ, the method has a row for each of them.

    Args:
        study: that ``check_study_file`` finds nothing wrong with.
    """
    differing = _differing(study)
    groups: dict[tuple[str, RunKey], list[StudyRun]] = {}
    for run in study.runs:
        name = f"{run.method} ({run.contributor})" if run.method in differing else run.method
        groups.setdefault((name, run.key), []).append(run)
    frames = [
        frame_of(rows_of_run(same[0], study, name)).assign(
            contributor=", ".join(sorted(run.contributor for run in same))
        )
        for (name, _), same in groups.items()
    ]
    order = {entry.name: number for number, entry in enumerate(study.methods)}
    lines = sorted(differing.items(), key=lambda item: order[item[0]])
    rows = pd.concat(frames, ignore_index=True)
    return JoinedRows(rows, (*(line for _, line in lines), *_unequal_seeds(rows)))


def _unequal_seeds(rows: pd.DataFrame) -> Iterator[str]:
    """A line where methods do not have the same seeds (or folds), which says where the best is looked for."""
    found = [set(zip(own["fold"], own["seed"], strict=True)) for _, own in rows.groupby("method")]
    common = sorted({seed for _, seed in set.intersection(*found)})
    if any(own != found[0] for own in found):
        yield "methods do not have the same seeds: " + (
            f"the best is marked by the seeds that all have ({', '.join(map(str, common))})"
            if common
            else "no seed is common to all, and the best is marked by means over different seeds"
        )


def _differing(study: StudyFile) -> dict[str, str]:
    """Method -> why contributors' runs of it cannot be told as one; only those of which there is a reason."""
    found: dict[str, str] = {}
    for entry, other in combinations(study.methods, 2):
        if entry.name == other.name and (keys := _entry_differences(entry, other)):
            who = f"{entry.contributor} and {other.contributor}"
            found.setdefault(
                entry.name,
                f"{entry.name}: {who} differ in {', '.join(keys)}; each has a row of their own",
            )
    by_key: dict[RunKey, list[StudyRun]] = {}
    for run in study.runs:
        by_key.setdefault(run.key, []).append(run)
    for one, another in (pair for same in by_key.values() for pair in combinations(same, 2)):
        if one.findings != another.findings:
            found.setdefault(
                one.method,
                f"{one.words}: {one.contributor} and {another.contributor} have different results (gap "
                f"{_shown(one)} and {_shown(another)}); each has a row of their own",
            )
    return found


def _entry_differences(one: MethodEntry, other: MethodEntry) -> list[str]:
    """Fields and settings in which two entries of one name differ."""
    fields = [name for name in MethodEntry.model_fields if name not in ("contributor", "settings")]
    keys = sorted(one.settings.keys() | other.settings.keys())
    return [
        *(name for name in fields if getattr(one, name) != getattr(other, name)),
        *(f"settings.{key}" for key in keys if one.settings.get(key) != other.settings.get(key)),
    ]


def _runs(studies: Sequence[StudyFile]) -> tuple[list[StudyRun], list[str]]:
    """All runs, each once; a line for each of which one contributor has two outcomes."""
    found: dict[tuple[str, RunKey], StudyRun] = {}
    problems: dict[str, None] = {}
    for run in (run for study in studies for run in study.runs):
        kept = found.setdefault((run.contributor, run.key), run)
        if kept.findings != run.findings:
            problems[
                f"{run.contributor} has two different results of {run.words} (gap {_shown(kept)} and "
                f"{_shown(run)}); give each study a contributor of its own: fedunlearn compare --contributor"
            ] = None
        # They differ in times alone.
        found[run.contributor, run.key] = min(kept, run, key=lambda each: each.model_dump_json())
    return list(found.values()), list(problems)


def _strangers(studies: Mapping[str, StudyFile], one: str, other: str) -> Iterator[str]:
    """One line that says in what two studies are not of the same task; none where they are."""
    a, b = studies[one], studies[other]
    differences = [*_task_differences(a.task, b.task), *_speech_differences(a, b)]
    if differences:
        first = differences[0]
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        yield f"{one} and {other}: not the same task: {first}{more}; merge studies of one task only"


def _task_differences(a: StudyTask, b: StudyTask) -> Iterator[str]:
    for name in ("name", "generated", "utterances", "speakers", "emotions", "clients"):
        if (mine := getattr(a.corpus, name)) != (theirs := getattr(b.corpus, name)):
            yield f"corpus.{name} is {_words(mine)} and {_words(theirs)}"
    for name in ("sizes", "requesters", "apart", "aggregations", "windows", "folds"):
        if (mine := getattr(a, name)) != (theirs := getattr(b, name)):
            yield f"{name} is {_words(mine)} and {_words(theirs)}"
    recoveries = [{each.name: each.settings for each in task.recoveries} for task in (a, b)]
    if recoveries[0].keys() != recoveries[1].keys():
        yield f"recoveries is {_words(tuple(recoveries[0]))} and {_words(tuple(recoveries[1]))}"
    else:
        for name, mine in recoveries[0].items():
            theirs = recoveries[1][name]
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    yield f"recovery.{key} of {name} is {_words(mine.get(key))} and {_words(theirs.get(key))}"
    for key in setting_differences(a.settings, b.settings):
        yield f"{key} is {_words(a.settings.get(key))} and {_words(b.settings.get(key))}"


def _speech_differences(a: StudyFile, b: StudyFile) -> Iterator[str]:
    """Where both have the same fold and seed; recordings are the same for every seed."""
    for mine in a.speech:
        for theirs in b.speech:
            same = (mine.fold, mine.seed) == (theirs.fold, theirs.seed)
            if same or not a.task.corpus.generated:
                of = f" of seed {mine.seed}" if a.task.corpus.generated else ""
                if mine.corpus != theirs.corpus:
                    yield f"the corpus digest{of} is {mine.corpus[:12]} and {theirs.corpus[:12]}"
                elif not math.isclose(mine.level, theirs.level, rel_tol=_LEVEL):
                    yield f"the level of the recordings{of} is {mine.level:.1f} and {theirs.level:.1f}"
            if same and mine.partition != theirs.partition:
                yield (
                    f"the partition of seed {mine.seed} is {mine.partition[:12]} and {theirs.partition[:12]}"
                )


def _united(a: StudyTask, b: StudyTask) -> StudyTask:
    """The task with the settings of both: an older version may lack some."""
    task = a.model_copy(update={"settings": dict(sorted({**a.settings, **b.settings}.items()))})
    return task.model_copy(update={"digest": task_digest(task)})


def _inconsistent(study: StudyFile) -> Iterator[str]:
    """What parts of a study say differently."""
    task = study.task
    if task.digest != task_digest(task):
        yield "task.digest is not that of the task, which was changed; run fedunlearn compare again"
    named = {who.name for who in study.contributors}
    methods = Counter((entry.contributor, entry.name) for entry in study.methods)
    runs = Counter((run.contributor, run.key) for run in study.runs)
    speech = Counter((one.fold, one.seed) for one in study.speech)
    yield from (f"methods: {name} of {who} comes twice" for (who, name), n in methods.items() if n > 1)
    yield from (f"speech: fold {f}, seed {s} comes twice" for (f, s), n in speech.items() if n > 1)
    if not task.corpus.generated and len({one.corpus for one in study.speech}) > 1:
        yield "speech: the digests of one corpus differ"
    known = {
        "size": task.sizes,
        "requesters": task.requesters,
        "aggregation": task.aggregations,
        "recovery": tuple(each.name for each in task.recoveries),
        "window": task.windows,
        "fold": task.folds,
    }
    if not study.runs:
        yield "has no runs"
    for run in study.runs:
        if run.contributor not in named:
            yield f"{run.words}: {run.contributor} is not among the contributors"
        if (run.contributor, run.method) not in methods:
            yield f"{run.words}: is of no method of {run.contributor}"
        if (run.fold, run.seed) not in speech:
            yield f"{run.words}: its speech has no digest"
        if runs[run.contributor, run.key] > 1:
            yield f"{run.words}: {run.contributor} has it twice"
        for name, values in known.items():
            if getattr(run, name) not in values:
                yield f"{run.words}: its {name} is not among the task's"


def _not_recomputed(study: StudyFile) -> Iterator[str]:
    """Measures that do not follow from others: gaps from accuracies, accuracies from whole utterances."""
    for run in study.runs:
        references = [_scores(one) for one in run.references]
        for stage in STAGES:
            measures: StudyMeasures = getattr(run, stage)
            floor = stage == "retrained"
            found = (noise_floor(references) or Gap.empty()) if floor else gap(_scores(measures), references)
            for name in ("", "forget", "retain", "test", "membership"):
                field = f"gap_{name}" if name else "gap"
                said, computed = getattr(measures, field), getattr(found, name or "mean")
                if not _close(said, computed):
                    yield (
                        f"{run.words}: {stage}.{field} is {_words(said)}, but the accuracies give "
                        f"{_words(computed)}"
                    )
            for name, fields in _SHARES.items():
                count = getattr(run.utterances, name)
                for field in fields:
                    share = getattr(measures, field)
                    if share is not None and count and not _whole(share * count):
                        yield f"{run.words}: {stage}.{field} is {share}, not a share of {count} utterances"


def _scores(measured: StudyMeasures | ReferenceScores) -> ModelScores:
    accuracies = {name: {"accuracy": getattr(measured, name)} for name in ("forget", "retain", "test")}
    return ModelScores.model_validate({**accuracies, "membership": {"auc": measured.membership}})


def _close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) <= _TOLERANCE


def _whole(value: float) -> bool:
    return abs(value - round(value)) <= 1e-6


def _shown(run: StudyRun) -> str:
    return "unknown" if run.recovered.gap is None else f"{run.recovered.gap:.4f}"


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "empty"
    return "missing" if value is None else str(value)


def _each_once(parts: Iterable[P]) -> list[P]:
    return list({written(part): part for part in parts}.values())
