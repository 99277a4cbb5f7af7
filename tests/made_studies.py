"""Studies as ``fedunlearn compare`` writes them, made up, so that tables can be worked out by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

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

RETRAINED = (0.5, 0.75)
"""forget accuracies of the two retrained models; all else is equal, so that the noise floor is .25 / 4"""


def measures(forget: float, seconds: float = 1.0, **changed: Any) -> StudyMeasures:
    """A model that differs from the retrained ones in forget accuracy alone."""
    apart = sum(abs(forget - other) for other in RETRAINED) / 2
    return StudyMeasures(
        **{
            **{"forget": forget, "retain": 1.0, "test": 0.5, "test_uar": 0.5, "membership": 0.5},
            **{"gap_forget": apart, "gap_retain": 0.0, "gap_test": 0.0, "gap_membership": 0.0},
            **{"gap": apart / 4, "client_seconds": seconds, "unseen_wa": 0.25},
            **changed,
        }
    )


def run(who: str, method: str, seed: int, forget: float, size: int = 20, seconds: float = 1.0) -> StudyRun:
    """A run of which 20 utterances were deleted; before, all of them were recognised."""
    floor = {"gap_forget": 0.25, "gap": 0.0625}
    return StudyRun(
        contributor=who,
        method=method,
        size=size,
        requesters=1,
        aggregation="sum",
        recovery="gentle",
        window=0,
        fold=0,
        seed=seed,
        rounds_waited=0.0,
        utterances=StudyCounts(forget=20, retain=100, test=40, unseen=8),
        original=measures(1.0),
        unlearned=measures(forget),
        recovered=measures(forget, seconds),
        retrained=measures(0.5, **floor),
        references=tuple(
            ReferenceScores(forget=forget, retain=1.0, test=0.5, membership=0.5) for forget in RETRAINED
        ),
    )


def method(who: str, name: str, **changed: Any) -> MethodEntry:
    """A method that sees the forget set alone."""
    return MethodEntry(
        **{
            **{"contributor": who, "name": name, "method": name, "version": "0.1.0", "sees": "forget"},
            **{"control": "", "source": "Somebody 2025, https://example.org/a", "changes": ""},
            **{"settings": {"lr": 0.01, "attack.eps": 0.1}},
            **changed,
        }
    )


def task(**changed: Any) -> StudyTask:
    """A task of one size; changes are of its fields."""
    corpus = StudyCorpus(
        name="folder", generated=False, utterances=168, speakers=6, emotions=("calm", "sad"), clients=4
    )
    recovery = StudyRecovery(name="gentle", settings={"rounds": 4, "lr": 0.02, "steps": 3, "epochs": 1})
    made = StudyTask(
        digest="0" * 64,
        corpus=corpus,
        sizes=(20,),
        requesters=(1,),
        apart=0,
        aggregations=("sum",),
        recoveries=(recovery,),
        windows=(0,),
        folds=(0,),
        settings={"training.rounds": 30, "model.name": "functionals", "training.local.lr": 0.05},
    ).model_copy(update=changed)
    return made.model_copy(update={"digest": task_digest(made)})


def speech(seeds: Sequence[int], corpus: str = "a", level: float = 500.0) -> list[StudySpeech]:
    """The same recordings with every seed, partitioned anew by each."""
    return [
        StudySpeech(fold=0, seed=seed, corpus=corpus * 64, level=level, partition=f"{seed:064x}")
        for seed in seeds
    ]


def study(
    who: str, forget: Mapping[str, Mapping[int, float]], seconds: float = 1.0, **parts: Any
) -> StudyFile:
    """A study of one contributor.

    ``forget``: method -> seed -> forget accuracy after recovery, a multiple of 1/20.
    ``parts``: whole parts in place of those made here.
    """
    seeds = sorted({seed for by_seed in forget.values() for seed in by_seed})
    made = {
        "contributors": [Contributor(name=who, versions={"fedunlearn": "0.1.0", "torch": "2.11.0"})],
        "task": task(),
        "methods": [method(who, name) for name in forget],
        "speech": speech(seeds),
        "runs": [
            run(who, name, seed, value, seconds=seconds)
            for name, by_seed in forget.items()
            for seed, value in by_seed.items()
        ],
    }
    return study_of_parts(**{**made, **parts})
