"""The finished cells of a comparison as a study that can be given to others, and its runs as rows again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedunlearn.config.plugins import find, is_plugin, short_name
from fedunlearn.config.unlearning import section_of
from fedunlearn.dotted import dotted_values
from fedunlearn.results_schema import ModelScores, Results
from fedunlearn.study.grid import StudyCell
from fedunlearn.study.rows import StudyRow, rows_of
from fedunlearn.study.speech import SpeechDigest
from fedunlearn.study.study_file import (
    Contributor,
    MethodEntry,
    ReferenceScores,
    StudyCorpus,
    StudyCounts,
    StudyFile,
    StudyMeasures,
    StudyRecovery,
    StudyRun,
    StudySpeech,
    StudyTask,
    study_of_parts,
    task_digest,
)
from fedunlearn.study.task import shareable, task_settings
from fedunlearn.unlearning import method_named
from fedunlearn.unlearning.contract import MethodCard

UNNAMED = "unnamed"
"""contributor of a study for which none was chosen"""
STAGES = ("original", "unlearned", "recovered", "retrained")


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell of a comparison.

    Attributes:
        cell: what was run.
        results: what it found.
        speech: digests of the speech it was of.
    """

    cell: StudyCell
    results: Results
    speech: SpeechDigest


def study_of_cells(finished: Iterable[FinishedCell], contributor: str = "") -> StudyFile:
    """Make a study of the finished cells of one comparison.

    Args:
        finished: at least one.
        contributor: who made it; empty = ``UNNAMED``.
    """
    name, cells = contributor or UNNAMED, list(finished)
    versions = {tuple(sorted(each.results.versions.items())) for each in cells}
    methods = {entry.name: entry for entry in (_method(each, name) for each in cells)}
    speech = {(one.fold, one.seed): one for one in map(_speech, cells)}
    return study_of_parts(
        [Contributor(name=name, versions=dict(found)) for found in versions],
        _task(cells),
        methods.values(),
        speech.values(),
        [_run(each, name) for each in cells],
    )


def rows_of_run(run: StudyRun, study: StudyFile, method: str) -> Iterator[StudyRow]:
    """Yield the rows of a run as a comparison makes them, one for each model.

    Keys of references are not in a study, so that ``original`` is None.

    Args:
        run: of the study.
        study: says which method and which task it is.
        method: name in tables.
    """
    entry = entry_of(run, study)
    recovery = next(each for each in study.task.recoveries if each.name == run.recovery).settings
    after, before = run.recovered, run.unlearned
    for stage in STAGES:
        measures: StudyMeasures = getattr(run, stage)
        recovered = stage == "recovered"
        yield StudyRow(
            method=method,
            sees=entry.sees,
            model=_text(study.task.settings.get("model.name")),
            corpus=study.task.corpus.name,
            forget_size=run.size,
            requesters=run.requesters,
            aggregation=run.aggregation,
            recovery=run.recovery,
            seed=run.seed,
            stage=stage,
            algorithm=entry.method,
            settings=entry.changes,
            recovery_rounds=_whole(recovery.get("rounds")),
            recovery_steps=_whole(recovery.get("steps")),
            recovery_epochs=_whole(recovery.get("epochs")),
            recovery_lr=_number(recovery.get("lr")),
            reversion=_difference(after.forget, before.forget) if recovered else None,
            reversion_membership=_difference(after.membership, before.membership) if recovered else None,
            noise_floor=run.retrained.gap,
            original=None,
            scalars=run.scalars,
            window=run.window,
            rounds_waited_mean=run.rounds_waited,
            fold=run.fold,
            says_nothing=run.says_nothing,
            guarded=run.guarded,
            control=bool(entry.control),
            seeds=_pairs(run.references) if stage == "retrained" else (),
            **measures.model_dump(),
        )


def entry_of(run: StudyRun, study: StudyFile) -> MethodEntry:
    """Return the method of a run.

    Args:
        run: of the study.
        study: that ``joining.check_study_file`` finds nothing wrong with.
    """
    return next(
        entry for entry in study.methods if (entry.contributor, entry.name) == (run.contributor, run.method)
    )


def _task(cells: list[FinishedCell]) -> StudyTask:
    found = [each.cell for each in cells]
    results = cells[0].results
    config, corpus = results.config or {}, results.corpus
    recoveries = {
        each.cell.recovery: shareable(dict(dotted_values((each.results.config or {}).get("recovery", {}))))
        for each in cells
    }
    asking = (cell.experiment.deletions.schedule for cell in found)
    task = StudyTask(
        digest="0" * 64,
        corpus=StudyCorpus(
            name=short_name(corpus.name or ""),
            generated=corpus.name == "synthetic",
            utterances=corpus.utterances or 0,
            speakers=corpus.speakers or 0,
            emotions=tuple(corpus.emotions),
            clients=corpus.clients or 1,
        ),
        sizes=tuple(sorted({cell.size for cell in found})),
        requesters=tuple(sorted({cell.requesters for cell in found})),
        apart=max((schedule[1].after_learning or 0 for schedule in asking if len(schedule) > 1), default=0),
        aggregations=tuple(sorted({cell.aggregation for cell in found})),
        recoveries=tuple(StudyRecovery(name=name, settings=own) for name, own in sorted(recoveries.items())),
        windows=tuple(sorted({cell.window for cell in found})),
        folds=tuple(sorted({cell.fold for cell in found})),
        settings={**task_settings(config), **_digests(found)},
    )
    return task.model_copy(update={"digest": task_digest(task)})


def _digests(cells: Iterable[StudyCell]) -> dict[str, str]:
    """Digests of the files of corpora, models and aggregations of one's own; none for built-in ones."""
    found = {}
    for cell in cells:
        found["plugins.corpus"] = cell.experiment.digest_of("corpus")
        found["plugins.model"] = cell.experiment.digest_of("model")
        found[f"plugins.aggregation.{cell.aggregation}"] = cell.experiment.digest_of("aggregation")
    return {key: digest for key, digest in sorted(found.items()) if digest}


def _method(finished: FinishedCell, contributor: str) -> MethodEntry:
    variant, results = finished.cell.variant, finished.results
    card, own = method_named(variant.algorithm), is_plugin("method", variant.algorithm)
    if own:
        options = results.setting("unlearning", "options") or {}
        given = find("method", variant.algorithm).settings.model_validate(options).model_dump(mode="json")
    else:
        given = results.setting("unlearning", section_of(variant.algorithm)) or {}
    digest = finished.cell.experiment.digest_of("method") if own else ""
    return MethodEntry(
        contributor=contributor,
        name=variant.name,
        method=short_name(variant.algorithm),
        version=f"sha256:{digest}" if own else results.versions.get("fedunlearn", "unknown"),
        sees=card.sees,
        control=card.control if isinstance(card, MethodCard) else "",
        source=card.source,
        changes=", ".join(f"{key}={value}" for key, value in shareable(dict(variant.settings)).items()),
        settings=shareable(dict(dotted_values(given))),
    )


def _speech(finished: FinishedCell) -> StudySpeech:
    cell, of = finished.cell, finished.speech
    return StudySpeech(
        fold=cell.fold, seed=cell.seed, corpus=of.corpus, level=of.level, partition=of.partition
    )


def _run(finished: FinishedCell, contributor: str) -> StudyRun:
    cell, models = finished.cell, finished.results.models
    rows = {row.stage: row for row in rows_of(cell, finished.results)}
    first, scores = rows["recovered"], models.recovered
    return StudyRun(
        contributor=contributor,
        method=cell.variant.name,
        size=cell.size,
        requesters=cell.requesters,
        aggregation=cell.aggregation,
        recovery=cell.recovery,
        window=cell.window,
        fold=cell.fold,
        seed=cell.seed,
        rounds_waited=first.rounds_waited_mean,
        scalars=first.scalars,
        says_nothing=first.says_nothing,
        guarded=first.guarded,
        utterances=StudyCounts(
            forget=scores.forget.n, retain=scores.retain.n, test=scores.test.n, unseen=scores.unseen.n
        ),
        references=tuple(map(_reference, models.retrained.seeds)),
        **{stage: _measures(rows[stage]) for stage in STAGES},
    )


def _measures(row: StudyRow) -> StudyMeasures:
    return StudyMeasures(**{name: getattr(row, name) for name in StudyMeasures.model_fields})


def _reference(scores: ModelScores) -> ReferenceScores:
    return ReferenceScores(
        forget=scores.forget.accuracy,
        retain=scores.retain.accuracy,
        test=scores.test.accuracy,
        membership=scores.membership.auc,
    )


def _pairs(references: Iterable[ReferenceScores]) -> tuple[tuple[float, float], ...]:
    both = ((one.forget, one.retain) for one in references)
    return tuple((forget, retain) for forget, retain in both if forget is not None and retain is not None)


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
