"""Settings of ordinary federated learning, and of the recovery rounds after an unlearn step."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import AtLeastOne, Count, NonNegative, OpenFraction, Positive, Seconds, Settings
from fedunlearn.config.work import WorkSettings

_LATE_PART = 6
"""late clients join learning when one in so many of its rounds is done"""


class LocalSettings(WorkSettings):
    """What one client does in one ordinary training round, on its own utterances."""

    batch_size: AtLeastOne = Field(default=16, description="Utterances in one step.")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd",
        description='"sgd", or "adamw" (Loshchilov & Hutter 2019), which transformer layers need: they learn '
        "several times as much in a step. It begins anew in each round, and nothing of it is sent. With "
        '"adamw", lower `lr` and `recovery.lr`: .003 and .001 in the presets for speech encoders.',
    )
    lr: Positive = Field(default=0.05, description="Learning rate.")
    momentum: OpenFraction = Field(
        default=0.9, description='Momentum of "sgd" (0 = plain SGD); beta_1 of "adamw", whose beta_2 is .999.'
    )
    weight_decay: NonNegative = Field(
        default=0.0, description='Weight decay, L2 of "sgd" and decoupled of "adamw"; 0 = none.'
    )
    gradient_clip: NonNegative = Field(
        default=5.0,
        description="Largest L2 norm of a step's gradient, over all trained weights; 0 = no clipping.",
    )
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description='Learning rate over the rounds of learning: "constant", or "cosine", which falls to '
        "zero.",
    )
    crop_seconds: Seconds = Field(
        default=0.0,
        description="Length in seconds of the random crops used in training; 0 = whole utterances.",
    )
    time_mask: OpenFraction = Field(
        default=0.0,
        description="Largest share of the frames that SpecAugment (Park et al. 2019) replaces by the mean; "
        "0 = off. Needs frame-wise features, which the functionals model does not have.",
    )
    band_mask: OpenFraction = Field(
        default=0.0,
        description="Largest share of the mel bands that SpecAugment (Park et al. 2019) replaces by the "
        "mean; 0 = off. Needs frame-wise features, which the functionals model does not have.",
    )
    feature_noise: NonNegative = Field(
        default=0.0,
        description="Standard deviation of Gaussian noise added to the standardised features; 0 = off.",
    )
    mixup: NonNegative = Field(
        default=0.0,
        description="Parameter alpha of mixup, whose weights are drawn from Beta(alpha, alpha), between "
        "utterances of the same client; 0 = off.",
    )
    label_smoothing: OpenFraction = Field(default=0.0, description="Amount of label smoothing; 0 = off.")


class TrainingSettings(Settings):
    """Ordinary federated learning."""

    rounds: AtLeastOne = Field(default=30, description="Number of ordinary training rounds.")
    server_optimizer: Literal["average", "momentum", "adam"] = Field(
        default="average",
        description='How the server applies the mean update: "average" (FedAvg, McMahan et al. 2017), '
        '"momentum" (FedAvgM, Hsu et al. 2019) or "adam" (FedAdam, Reddi et al. 2021).',
    )
    server_lr: Positive = Field(
        default=1.0, description='Step size along the mean update; 1 with "average" is plain FedAvg.'
    )
    server_momentum: OpenFraction = Field(
        default=0.9, description='Momentum of "momentum", and beta_1 of "adam"; not read by "average".'
    )
    late_clients: OpenFraction = Field(
        default=0.5,
        description="Share of the clients, at least one where any and leaving at least two others, that join "
        "learning only after a sixth of the rounds (fewer than 6 rounds: none is late). Until then the "
        "global model shows on their speech how it recognises unknown speakers, which methods may read. "
        "0 = all train from the first round.",
    )
    local: LocalSettings = Field(
        default=LocalSettings(), description="What one client does in one ordinary round."
    )

    @property
    def late_rounds(self) -> int:
        """Ordinary rounds that late clients take no part in."""
        return self.rounds // _LATE_PART


class RecoverySettings(WorkSettings):
    """Training rounds on the retained data after each unlearn step.

    They are gentle by default (few steps at a low learning rate), because ordinary rounds bring the knowledge
    of the forget set back.
    """

    rounds: Count = Field(default=4, description="Number of recovery rounds after an unlearn step; 0 = none.")
    steps: Count = 3
    epochs: AtLeastOne = 1
    lr: Positive = Field(
        default=0.02,
        description="Learning rate of a client in a recovery round. Batch size, momentum and the rest are "
        "those of `training.local`.",
    )
    reversion: Literal["kept", "removed"] = Field(
        default="kept",
        description='"kept": the mean update is applied as it is; "removed": first its components that lead '
        "back along any unlearn step of the run are removed (after FedOSD, Pan et al. 2025, arXiv "
        "2412.20200). Ordinary rounds after a deletion during learning are never changed.",
    )
    clients: Count = Field(
        default=0,
        description="Number of clients, at least 2, that train in a recovery round, drawn anew for each "
        "round; 0 = all. Fewer clients cost less computation and fewer bytes.",
    )

    @model_validator(mode="after")
    def _not_one_alone(self) -> Self:
        if self.clients == 1:
            raise ValueError("clients must be 0 or at least 2 (got 1): one client's model is not everybody's")
        return self
