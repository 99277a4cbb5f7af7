"""Settings of privileged baselines: one class for each, with the values at which it reduces to a known one.

Where a paper publishes a value, the field's description says so; all other defaults are this project's.
"""

from typing import Annotated, Literal

from pydantic import Field

from fedunlearn.config.descent import DescentSettings
from fedunlearn.config.fields import AtLeastOne, Count, Fraction, NonNegative, Positive, Settings
from fedunlearn.config.work import WorkSettings


class FineTuneSettings(WorkSettings):
    """Settings of fine-tuning (Golatkar et al. 2020, arXiv 1911.04933), a privileged baseline."""

    rounds: Count = Field(
        default=10, description="Rounds in which all clients take part; 0 leaves the model as it was."
    )
    lr: Positive = Field(
        default=0.05,
        description="Learning rate on what each client keeps. Batch size, momentum and the rest "
        "are those of `training.local`.",
    )


class NegGradPlusSettings(FineTuneSettings):
    """Settings of NegGrad+ (Kurmanji et al. 2023, arXiv 2302.09880), a privileged baseline.

    The server weighs the updates on the retain sets against those on the forget sets.
    """

    rounds: Count = 5
    steps: Count = 3
    epochs: AtLeastOne = 1
    alpha: Fraction = Field(
        default=0.5,
        description='Weight of the retain sets; that of the forget set is 1 - alpha. 1 is "fine-tune".',
    )
    forget: DescentSettings = Field(
        default=DescentSettings(),
        description="Gradient ascent of the requesters in each round; alone (`alpha` = 0, one round) it is "
        '"gradient-ascent".',
    )


class SCRUBForgetSettings(DescentSettings):
    """The max-steps of SCRUB: gradient ascent of the requesters."""

    lr: Positive = 0.05
    max_steps: Count = 60


class SCRUBSettings(FineTuneSettings):
    """Settings of SCRUB (Kurmanji et al. 2023, arXiv 2302.09880), a privileged baseline.

    ``rounds``, ``steps`` and ``lr`` are those of the min-steps.
    """

    rounds: Count = 6
    steps: Count = 3
    epochs: AtLeastOne = 1
    max_rounds: Count = Field(
        default=3,
        description="Number of rounds, from the first, that start with max-steps. With 0, `alpha` = 0 and "
        '`gamma` = 1 the method is "fine-tune".',
    )
    alpha: NonNegative = Field(
        default=0.5, description="Weight of the distance to the original model on the retain sets."
    )
    gamma: NonNegative = Field(default=1.0, description="Weight of the cross-entropy on the retain sets.")
    forget: SCRUBForgetSettings = Field(
        default=SCRUBForgetSettings(),
        description="Max-steps of the requesters in each of the first `max_rounds` rounds.",
    )


class NoTSettings(FineTuneSettings):
    """Settings of NoT (Khalil et al. 2025, arXiv 2503.05657), a privileged baseline.

    ``rounds``, ``steps`` and ``lr`` are those of fine-tuning after the first layer was negated.
    """

    rounds: Count = 15


class FedEraserSettings(Settings):
    """Settings of FedEraser (Liu et al. 2021, arXiv 2012.13891), a privileged baseline."""

    interval: AtLeastOne = Field(
        default=2, description="Every how many ordinary rounds one is repeated on the retain sets."
    )
    calibration_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5,
        description="Steps of a repeated round as a share of an ordinary round's, rounded up (or its epochs, "
        "at least one). 1 with `interval` = 1 trains anew from the old weights.",
    )


class ReGUnSettings(FineTuneSettings):
    """Settings of ReGUn (Mirlach et al. 2026, arXiv 2603.11210), a privileged baseline."""

    rounds: Count = 3
    steps: Count = 3
    epochs: AtLeastOne = 1
    reference: Literal["batch", "class"] = Field(
        default="class",
        description='What a forget utterance is trained towards. "batch": the mean output on held-out '
        'utterances whose labels are distributed as those of the batch, as in the paper; "class": that on '
        "held-out utterances with its own label. In batches of one class they are the same.",
    )
    forget: DescentSettings = Field(
        default=DescentSettings(), description="Descent of the requesters in each round."
    )


class FedOSDForgetSettings(DescentSettings):
    """The descent of FedOSD on the forget sets."""

    lr: Positive = 0.1
    max_steps: Count = 3


class FedOSDSettings(FineTuneSettings):
    """Settings of FedOSD (Pan et al. 2025, arXiv 2412.20200), a privileged baseline.

    ``steps`` and ``lr`` are those of the retained clients' updates, in both stages.
    """

    rounds: Count = Field(default=10, description="Rounds of both stages together.")
    steps: Count = 3
    epochs: AtLeastOne = 1
    forget_rounds: Count = Field(
        default=5,
        description="Number of rounds, from the first, in which the requesters step away from their forget "
        "sets; in the others all clients train. With 0, and one round, the method is "
        '"fine-tune".',
    )
    forget: FedOSDForgetSettings = Field(
        default=FedOSDForgetSettings(), description="Descent of the requesters in one round."
    )


class RewindToDeleteSettings(Settings):
    """Settings of rewind-to-delete (Mu & Klabjan 2024, arXiv 2409.09778), a privileged baseline."""

    rounds: AtLeastOne = Field(
        default=24,
        description="Ordinary rounds gone back, counted from the last one of learning. As many as there are "
        "trains anew from the old initial weights.",
    )


class OracleMatchingForgetSettings(DescentSettings):
    """The descent of oracle matching on the forget sets."""

    lr: Positive = 0.0003
    max_steps: Count = 20
    stop: Literal["level", "zero", "steps"] = "steps"


class OracleMatchingSettings(FineTuneSettings):
    """Settings of oracle matching (Georgiev et al. 2024, arXiv 2410.23232), a privileged upper bound."""

    rounds: Count = 5
    steps: Count = 3
    epochs: AtLeastOne = 1
    lr: Positive = 0.001
    forget: OracleMatchingForgetSettings = Field(
        default=OracleMatchingForgetSettings(), description="Descent of the requesters in each round."
    )
