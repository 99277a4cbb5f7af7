"""Settings of a comparison: what is run, which questions its tables answer, which claims it decides.

``fedunlearn compare`` reads them. A run has one method and one deletion, and reads none of them.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import AtLeastOne, Count, Options, Seed, Settings, ShadowCount

ClaimMeasure = Literal[
    "gap",
    "gap-over-floor",
    "gap-forget",
    "gap-retain",
    "gap-test",
    "gap-membership",
    "forget",
    "retain",
    "test",
    "test-uar",
    "unseen",
    "membership",
]
"""What a claim is about; docs/measures.md defines them."""


class StudyVariant(Settings):
    """A method with settings of its own: one row of the tables."""

    name: str = Field(
        pattern=r"^[\w+., -]{1,60}$",
        description="Name in tables and figures: letters, digits, and any of `+ . , - _` and spaces.",
    )
    method: str = Field(description="Name of the method, as `unlearning.method`.")
    settings: Options | None = Field(
        default=None,
        description="Settings of the method that differ from the config's, by dotted keys below its "
        'section, such as `{elasticity = 0.0, "attack.eps" = 0.1}`.',
    )


class StudySweep(Settings):
    """One setting of a variant over several values: a row of the tables for each, named "NAME VALUE"."""

    name: str = Field(
        pattern=r"^[\w+. -]{1,40}$", description="Name of the swept quantity in tables and figures."
    )
    variant: str = Field(description="Name of the variant whose setting is changed.")
    key: str = Field(description='Dotted key below the section of its method, such as "attack.eps".')
    values: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        min_length=1, description="Values that the setting takes, in ascending order."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variants that it makes, one for each value."""
        return tuple(f"{self.name} {value:g}" for value in self.values)


class StudyQuestion(Settings):
    """One question of a study, with tables and figures of its own: variants at several sizes."""

    title: str = Field(description="Heading of its tables.")
    variants: tuple[str, ...] = Field(
        default=(), description="Names of variants, or of methods with the config's settings."
    )
    sweep: str = Field(
        default="", description="Name of a sweep, whose variants are added and drawn as a curve."
    )
    sizes: tuple[Count, ...] = Field(
        default=(), description="Utterances that each requester deletes; empty = those of `study.sizes`."
    )
    recoveries: tuple[str, ...] = Field(
        default=(), description="As of `study.recoveries`; empty = those of it."
    )


class ClaimPart(Settings):
    """One condition of a claim: a mean over seeds of a difference, and the bound it must keep.

    It is decided by the 95 % interval of the mean (Student's t over seeds): the condition holds where the
    whole interval keeps the bound, fails where the whole interval breaks it, and is not decided otherwise.
    """

    measure: ClaimMeasure = Field(
        description='A measure after unlearning. "gap-over-floor": the gap less the noise floor of the same '
        'run; "gap-forget" and so on: parts of the gap; "forget", "retain", "test": accuracies; "test-uar": '
        'UAR on held-out speech; "unseen": UAR on unseen speakers; "membership": AUC of the attack.'
    )
    of: str = Field(description='Name of a variant of the study; or "original" or "retrained".')
    less: str = Field(
        default="", description="As `of`: the measure of it is subtracted, seed by seed; empty = nothing is."
    )
    sizes: tuple[Count, ...] = Field(
        default=(),
        description="Sizes over which each seed's measure is averaged; empty = all sizes at which the study "
        "has it. A seed that lacks one of them does not count.",
    )
    less_sizes: tuple[Count, ...] = Field(
        default=(), description="The same for what is subtracted; empty = the same sizes."
    )
    recovery: str = Field(
        default="", description="Name of the recovery, as of `study.recoveries`; empty = the study's first."
    )
    relation: Literal["below", "above"] = Field(
        description="Whether the mean difference must lie below or above the bound."
    )
    bound: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(default=0.0, description="The bound.")
    premise: bool = Field(
        default=False,
        description="Whether the condition is a premise: where it does not hold, nothing is decided about "
        "the claim.",
    )


class StudyClaim(Settings):
    """A claim with its rule, written down before it is measured.

    It is reproduced where all of its conditions hold, refuted where one fails, and not decided otherwise.
    """

    text: str = Field(description="The claim, as its source makes it.")
    parts: tuple[ClaimPart, ...] = Field(
        min_length=1, description="Its conditions; the keys of each are listed below."
    )


class StudySettings(Settings):
    """What `compare` runs; a run does not read it. Options of the command line come first."""

    methods: tuple[str, ...] = Field(
        default=(),
        description="Methods with the config's settings, where there are no questions; empty, and no "
        "variants: those that `compare` names in its help.",
    )
    variants: tuple[StudyVariant, ...] = Field(
        default=(),
        description="Methods with settings of their own, one table each, as `study.variants[]` says.",
    )
    sweeps: tuple[StudySweep, ...] = Field(
        default=(), description="Sweeps of one setting, one table each, as `study.sweeps[]` says."
    )
    sizes: tuple[Count, ...] = Field(
        default=(10, 20, 48),
        min_length=1,
        description="Utterances that each requester deletes; 0 = everything that it holds.",
    )
    requesters: tuple[AtLeastOne, ...] = Field(
        default=(1, 4), min_length=1, description="Numbers of clients that request at the same time."
    )
    seeds: tuple[Seed, ...] = Field(
        default=(0, 1, 2, 3, 4),
        min_length=1,
        description="Whole experiments: partition, training, requesters. They replace `seed`.",
    )
    recoveries: tuple[str, ...] = Field(
        default=(),
        description='Names of recoveries: "none", "gentle", "ordinary", "gentle-removed" and '
        '"ordinary-removed" (docs/commands.md); empty = the config\'s own.',
    )
    questions: tuple[StudyQuestion, ...] = Field(
        default=(),
        description="Questions, one table each, as `study.questions[]` says: what is run; none = all methods "
        "and variants at all sizes.",
    )
    claims: tuple[StudyClaim, ...] = Field(
        default=(), description="Claims that the study decides, one table each, as `study.claims[]` says."
    )
    notes: tuple[str, ...] = Field(
        default=(), description="Paragraphs above the claims, such as where the protocol comes from."
    )
    group_speakers: bool = Field(
        default=False,
        description="Whether there are as many clients as can each hold the largest of the sizes, several "
        "speakers on a client where one has too little speech. `partition.clients` is the largest number "
        "tried.",
    )
    shadows: ShadowCount = Field(
        default=0,
        description="Number of shadow federations of each cell, as `evaluation.shadows`, which is not read. "
        "Methods share them up to the first unlearn step.",
    )
    workers: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1,
        description='Runs at a time, each in a process of its own (engine "inline" only); 0 = one for each '
        "CPU that may be used.",
    )

    contributor: Annotated[str, Field(max_length=60, pattern=r"^[^/\\\n]*$")] = Field(
        default="",
        description="Who made the study, as study.json says when others join it to theirs "
        "(docs/leaderboard.md); empty = unnamed.",
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [*(v.name for v in self.variants), *(name for s in self.sweeps for name in s.names)]
        for problem in (*_repeated("variants, sweeps", names), *self._strangers()):
            raise ValueError(problem)
        for problem in _repeated("sweeps", [sweep.name for sweep in self.sweeps]):
            raise ValueError(problem)
        for problem in _repeated("questions", [question.title for question in self.questions]):
            raise ValueError(problem)
        return self

    def _strangers(self) -> Iterator[str]:
        """What names something that is not there."""
        variants, sweeps = {v.name for v in self.variants}, {s.name for s in self.sweeps}
        for sweep in self.sweeps:
            if sweep.variant not in variants:
                yield f"sweeps: {sweep.name}: there is no variant {sweep.variant!r} in study.variants"
        for question in self.questions:
            if question.sweep and question.sweep not in sweeps:
                yield f"questions: {question.title}: there is no sweep {question.sweep!r} in study.sweeps"
            if not question.sweep and not question.variants:
                yield f"questions: {question.title}: name variants or a sweep"


def _repeated(where: str, names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"{where}: {name} comes twice; give each a name of its own"
