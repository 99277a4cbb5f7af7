"""One experiment as typed, validated data: TOML in, overrides on top, every error at once.

Nothing here imports the rest of the package: settings are plain data that each room reads. An unknown key,
a wrong type or a value out of range is an error that names the file, the key and what would be right.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.config.federation import AvailabilitySettings, FederationSettings
from fedunlearn.config.fields import (
    AtLeastOne,
    Count,
    NonNegative,
    OpenFraction,
    Positive,
    Seconds,
    Seed,
    Settings,
)
from fedunlearn.config.guard import AttackerSettings, GuardSettings, PrivacySettings
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.partition import LateRecordings, PartitionSettings
from fedunlearn.config.unlearning import (
    AmunForgetSettings,
    AttackSettings,
    BoundaryShrinkSettings,
    CalmSettings,
    DeleteSettings,
    DescentSettings,
    FedEraserSettings,
    FineTuneSettings,
    GradientAscentSettings,
    L2ULSettings,
    NegGradPlusSettings,
    NoTSettings,
    PGASettings,
    RandomLabelSettings,
    SalUnSettings,
    SCRUBSettings,
    UnlearningSettings,
)
from fedunlearn.errors import BadInput
from fedunlearn.inputs import read_text

__all__ = [
    "AmunForgetSettings",
    "AttackSettings",
    "AttackerSettings",
    "AvailabilitySettings",
    "BoundaryShrinkSettings",
    "CalmSettings",
    "Config",
    "CorpusSettings",
    "DeleteSettings",
    "DeletionSettings",
    "DescentSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "FedEraserSettings",
    "FederationSettings",
    "FineTuneSettings",
    "GradientAscentSettings",
    "GuardSettings",
    "L2ULSettings",
    "LateRecordings",
    "LocalSettings",
    "ModelSettings",
    "NegGradPlusSettings",
    "NoTSettings",
    "PGASettings",
    "PartitionSettings",
    "PrivacySettings",
    "RandomLabelSettings",
    "RecoverySettings",
    "SCRUBSettings",
    "SalUnSettings",
    "ScheduledDeletion",
    "Settings",
    "TrainingSettings",
    "UnlearningSettings",
    "load",
    "parse_override",
]


class CorpusSettings(Settings):
    """Which speech.

    Attributes:
        name: a reader's name (``fedunlearn.corpora.READERS``); "synthetic" needs no data.
        path: the folder (or manifest.csv) of a real corpus; never written to. Empty for synthetic.
        leave_out: speakers who take no part at all, such as those whom an encoder was pre-trained on.
        skip_bad: leave unreadable files out, with a warning, instead of stopping.
        speakers, utterances: how many speakers to generate (0 = one a client and the unseen ones), and how
            many utterances each; read by "synthetic" alone.
    """

    name: str = "synthetic"
    path: str = ""
    leave_out: tuple[str, ...] = ()
    skip_bad: bool = False
    speakers: Annotated[int, Field(ge=0, le=10_000)] = 0
    utterances: Annotated[int, Field(ge=6, le=10_000)] = 60

    @property
    def folders(self) -> tuple[Path, ...]:
        """The user's own folder that must never be written: of the corpus, or of its manifest; () = none."""
        path = Path(self.path)
        if not self.path or not path.exists():
            return ()
        return (path.resolve() if path.is_dir() else path.resolve().parent,)


class LocalSettings(Settings):
    """What one client does in one ordinary round.

    Attributes:
        epochs, batch_size, lr, momentum, weight_decay: local SGD.
        lr_schedule: over the rounds of learning: "constant" or "cosine" (down to zero).
        crop_seconds: random crops of this length while training; 0 = whole utterances.
        time_mask, band_mask: SpecAugment (Park et al. 2019): greatest share of frames / of bands set to
            the mean; 0 = off. Frame-wise features only (not functionals).
        feature_noise: standard deviation of Gaussian noise on standardised features; 0 = off.
        mixup: alpha of mixup's Beta(alpha, alpha) between a client's own utterances; 0 = off.
        label_smoothing: in [0, 1).
    """

    epochs: AtLeastOne = 5
    batch_size: AtLeastOne = 16
    lr: Positive = 0.05
    momentum: OpenFraction = 0.9
    weight_decay: NonNegative = 0.0
    lr_schedule: Literal["constant", "cosine"] = "constant"
    crop_seconds: Seconds = 0.0
    time_mask: OpenFraction = 0.0
    band_mask: OpenFraction = 0.0
    feature_noise: NonNegative = 0.0
    mixup: NonNegative = 0.0
    label_smoothing: OpenFraction = 0.0


class TrainingSettings(Settings):
    """Ordinary federated learning.

    Attributes:
        rounds: ordinary rounds.
        server_optimizer: "average" (FedAvg, McMahan et al. 2017) or "momentum" (FedAvgM, Hsu et al. 2019)
            or "adam" (FedAdam, Reddi et al. 2021).
        server_lr: step along the mean update; 1.0 with "average" is plain FedAvg.
        server_momentum: of "momentum" (and Adam's beta_1), in [0, 1).
        local: what a client does.
    """

    rounds: AtLeastOne = 30
    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    server_lr: Positive = 1.0
    server_momentum: OpenFraction = 0.9
    local: LocalSettings = LocalSettings()


class RecoverySettings(Settings):
    """Rounds on what is left, after each unlearn step. Gentle by default: ordinary ones bring D_f back.

    Attributes:
        rounds: 0 = none.
        epochs, lr: local SGD in these rounds; batch size, momentum and the rest as in training.
        reversion: "kept" = their mean difference as it is; "removed" = without what leads back along any
            unlearn step of the run so far (after FedOSD, Pan et al. 2025, arXiv 2412.20200). Ordinary rounds
            that follow a deletion in the middle of learning are never changed.
        clients: how many train in each recovery round, drawn anew for each, at least 2; 0 = everybody. Fewer
            cost less to compute and to send.
    """

    rounds: Count = 4
    epochs: AtLeastOne = 1
    lr: Positive = 0.02
    reversion: Literal["kept", "removed"] = "kept"
    clients: Count = 0

    @model_validator(mode="after")
    def _not_one_alone(self) -> Self:
        if self.clients == 1:
            raise ValueError("clients must be 0 or at least 2 (got 1): one client's model is not everybody's")
        return self


class EvaluationSettings(Settings):
    """What the judge measures.

    Attributes:
        curve_every: the judge's learning-curve point every so many rounds; 0 = the last round only.
        retrained_seeds: retrained models; with 2 or more there is a noise floor.
        bootstrap: resamples for the intervals of membership and gap.
        relearn_steps: most gradient steps that D_f is trained again with, to see how soon it is back; 0 =
            relearn time is not measured.
        shadows: federations of which each trains on a random half of the deleted utterances, and unlearns
            it, for U-LiRA and the informed attack; 0 = neither is measured.
        shadow_workers: processes that train them; 0 = one a CPU that may be used.
        search: whether, at the end, the run folder is searched for traces of what was deleted, and what was
            measured is added to the receipts.
    """

    curve_every: Count = 1
    retrained_seeds: Annotated[int, Field(ge=1, le=10_000)] = 2
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    relearn_steps: Annotated[int, Field(ge=0, le=100_000)] = 200
    shadows: Annotated[int, Field(ge=0, le=10_000)] = 0
    shadow_workers: Annotated[int, Field(ge=0, le=1000)] = 0
    search: bool = True

    @model_validator(mode="after")
    def _enough_shadows(self) -> Self:
        if 0 < self.shadows < 8:
            raise ValueError(
                f"shadows must be 0 or at least 8 (got {self.shadows}): each is attacked with what the "
                "others show, and fewer show nothing"
            )
        return self


class Config(Settings):
    """One complete experiment."""

    seed: Seed = 1
    corpus: CorpusSettings = CorpusSettings()
    partition: PartitionSettings = PartitionSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    deletions: DeletionSettings = DeletionSettings()
    unlearning: UnlearningSettings = UnlearningSettings()
    privacy: PrivacySettings = PrivacySettings()
    guard: GuardSettings = GuardSettings()
    attackers: AttackerSettings = AttackerSettings()
    recovery: RecoverySettings = RecoverySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    federation: FederationSettings = FederationSettings()
    availability: AvailabilitySettings = AvailabilitySettings()

    @model_validator(mode="after")
    def _augmentation_fits(self) -> Self:
        local = self.training.local
        if self.model.name == "functionals" and (local.crop_seconds or local.time_mask or local.band_mask):
            raise ValueError(
                "training.local: crop_seconds, time_mask and band_mask cut frames, and the functionals model "
                "has one frame an utterance; set them to 0"
            )
        if self.model.is_encoder and local.band_mask:
            raise ValueError("training.local.band_mask: a speech encoder has no mel bands; set it to 0")
        heard_once = self.model.is_encoder and self.model.encoder.trains == "head"
        if heard_once and (local.crop_seconds or local.time_mask):
            raise ValueError(
                "training.local: crop_seconds and time_mask cut the waveform, and an encoder of which the "
                'head alone trains hears it only once; set them to 0, or model.encoder.trains to "lora"'
            )
        return self

    @model_validator(mode="after")
    def _attack_fits(self) -> Self:
        if self.model.is_encoder and self.unlearning.l2ul.attack.domain == "log-mel":
            raise ValueError(
                "unlearning.l2ul.attack.domain: a speech encoder hears no log-mel frames; "
                'take "feature" or "waveform"'
            )
        return self

    @model_validator(mode="after")
    def _attackers_exist(self) -> Self:
        clients = self.partition.clients
        strangers = [c for c in self.attackers.clients if c >= clients]
        if strangers:
            raise ValueError(
                f"attackers.clients: there is no client {strangers[0]} (0 to {clients - 1} are there)"
            )
        return self

    def to_toml(self) -> str:
        """The whole experiment, defaults included, as TOML that ``load`` reads back to an equal config."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read an experiment.

    Args:
        file: a TOML file; None = the built-in defaults (the same as configs/synthetic.toml).
        overrides: dotted keys to values, applied on top of the file.

    Raises:
        BadInput: with every error there is, one line each.
    """
    source = str(file) if file else "options"
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(read_text(file, kind="valid TOML"))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file}: is not valid TOML ({error})") from error
    problems = [p for key, value in (overrides or {}).items() if (p := _place(tree, key, value))]
    try:
        config = Config.model_validate(_lists_to_tuples(tree))
    except ValidationError as error:
        raise BadInput([*problems, *(_line(source, e) for e in error.errors())]) from error
    if problems:
        raise BadInput(problems)
    return config


def parse_override(text: str) -> tuple[str, Any]:
    """``key.sub=value`` of ``--set``; the value is read as TOML, or as plain text where it is not TOML.

    Raises:
        BadInput: no "=" or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {text}: write it as key.sub=value, such as --set training.rounds=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _place(tree: dict[str, Any], key: str, value: Any) -> str | None:
    """Put a value where its dotted key says; one line if that is inside another value."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            return f"--set {key}: {parent} is a value, not a section"
    tree[last] = value
    return None


def _lists_to_tuples(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _lists_to_tuples(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return tuple(_lists_to_tuples(value) for value in node)
    return node


def _line(source: str, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{source}: {key} is not a setting (misspelt? see docs/configuration.md)"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = "" if isinstance(error["input"], Mapping | BaseModel) else f" (got {error['input']!r})"
    return f"{source}: {key} {message}{got}".replace(":  ", ": ")
