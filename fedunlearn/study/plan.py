"""What a study runs and what it is asked: the ``[study]`` section of a config as axes and claims."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedunlearn.config import StudySettings
from fedunlearn.config.study import StudyClaim
from fedunlearn.dotted import dotted_values
from fedunlearn.errors import BadInput
from fedunlearn.study.grid import Axes, ConfigLoader, StudyCell, Variant, cells_of, variant_of

MODELS = ("original", "retrained")
"""what a claim may be about besides variants"""


@dataclass(frozen=True)
class Sweep:
    """The variants of a question that differ in one number.

    Attributes:
        name: of the swept quantity.
        values: variant -> its value.
    """

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Question:
    """One question of a study: variants at several sizes, with tables and figures of its own.

    Attributes:
        title: heading of its tables; empty where there is one question.
        axes: what is crossed.
        sweep: where some of its variants differ in one number.
    """

    title: str
    axes: Axes
    sweep: Sweep | None = None


@dataclass(frozen=True)
class Study:
    """What is run, and what is decided.

    Attributes:
        questions: at least one.
        claims: decided when the cells are finished.
        notes: paragraphs above the claims.
        whole: all sizes of the study, of which only some may be run; empty = those that are.
    """

    questions: tuple[Question, ...]
    claims: tuple[StudyClaim, ...] = ()
    notes: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def largest(self) -> int:
        """Most utterances that one requester deletes in the whole study, whatever part of it is run."""
        return max(self.whole or (size for question in self.questions for size in question.axes.sizes))

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return list(dict.fromkeys(seed for question in self.questions for seed in question.axes.seeds))

    @property
    def folds(self) -> list[int]:
        """All folds; empty = the experiment's own."""
        return list(dict.fromkeys(fold for question in self.questions for fold in question.axes.folds))

    def cells(self, load: ConfigLoader) -> dict[str, list[StudyCell]]:
        """List the cells of each question.

        Args:
            load: puts overrides on top of the experiment.

        Raises:
            BadInput: as ``grid.cells_of``.
        """
        return {question.title: cells_of(load, question.axes) for question in self.questions}


def study_of(settings: StudySettings, axes: Axes, sizes: Sequence[int] | None = None) -> Study:
    """Return the study that a config describes.

    Args:
        settings: the section ``study``.
        axes: what all questions share; its variants and sizes are those of a study without questions.
        sizes: the only ones that are run, of those of each question; None = all.

    Raises:
        BadInput: no size of any question is among ``sizes``; a claim is about a variant that is not run.
    """
    if not settings.questions:
        return Study((Question("", axes),), settings.claims, settings.notes)
    known = _variants(settings)
    sweeps = {
        sweep.name: Sweep(sweep.name, dict(zip(sweep.names, sweep.values, strict=True)))
        for sweep in settings.sweeps
    }
    questions = []
    for asked in settings.questions:
        found = asked.sizes or settings.sizes
        wanted = [size for size in found if sizes is None or size in sizes]
        sweep = sweeps.get(asked.sweep)
        names = dict.fromkeys([*asked.variants, *(sweep.values if sweep else ())])
        variants = [known.get(name) or variant_of(name) for name in names]
        if wanted:
            crossed = replace(
                axes, variants=variants, sizes=wanted, recoveries=asked.recoveries or axes.recoveries
            )
            questions.append(Question(asked.title, crossed, sweep))
    if not questions:
        named = ", ".join(map(str, sizes or ()))
        raise BadInput(f"--sizes {named}: no question of the study has any of these sizes")
    if problems := list(_unknown(settings)):
        raise BadInput(problems)
    whole = tuple(size for asked in settings.questions for size in asked.sizes or settings.sizes)
    return Study(tuple(questions), settings.claims, settings.notes, whole)


def own_variants(settings: StudySettings) -> list[Variant]:
    """List the variants of a study's settings, without those of its sweeps."""
    return [
        Variant(v.name, v.method, tuple(dotted_values(v.settings.model_dump() if v.settings else {})))
        for v in settings.variants
    ]


def _variants(settings: StudySettings) -> dict[str, Variant]:
    """Name -> variant, those of sweeps included."""
    found = {variant.name: variant for variant in own_variants(settings)}
    for sweep in settings.sweeps:
        swept = found[sweep.variant]
        for name, value in zip(sweep.names, sweep.values, strict=True):
            changed = {**dict(swept.settings), sweep.key: value}
            found[name] = Variant(name, swept.algorithm, tuple(changed.items()))
    return found


def _unknown(settings: StudySettings) -> Iterator[str]:
    """A line for each name in a claim that is neither a model nor run by any question."""
    sweeps = {sweep.name: sweep.names for sweep in settings.sweeps}
    run = {name for q in settings.questions for name in (*q.variants, *sweeps.get(q.sweep, ()))}
    for claim in settings.claims:
        for name in dict.fromkeys(name for part in claim.parts for name in (part.of, part.less)):
            if name and name not in MODELS and name not in run:
                yield f"study.claims: {claim.text}: no question runs a variant {name!r}"
