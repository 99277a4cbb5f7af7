"""One experiment as typed, validated data: a TOML file with overrides, and every error reported at once.

Settings are plain data; nothing here imports the rest of the package. An unknown key, a wrong type or a value
out of range is an error that names the file, the key and the legal values. Every field explains itself in its
description; ``docs/configuration.md`` is generated from these (``fedunlearn.config.reference``).

Reading order: ``Config`` in this file -> one module for each of its sections (``partition``, ``model``,
``training``, ``unlearning``, ``deletion``, ``guard``, ``federation``, ``study``), with number types from
``fields`` -> ``presets`` and ``plugins``.
"""

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from fedunlearn.config.baselines import (
    FedEraserSettings,
    FedOSDSettings,
    FineTuneSettings,
    NegGradPlusSettings,
    NoTSettings,
    OracleMatchingSettings,
    ReGUnSettings,
    RewindToDeleteSettings,
    SCRUBSettings,
)
from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.config.descent import DescentSettings
from fedunlearn.config.federation import AvailabilitySettings, FederationSettings
from fedunlearn.config.fields import Count, Options, Seed, Settings, ShadowCount
from fedunlearn.config.guard import AttackerSettings, GuardSettings, PrivacySettings
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.partition import LateRecordings, PartitionSettings
from fedunlearn.config.plugins import Kind, canonical, find, is_plugin, key_of
from fedunlearn.config.study import StudySettings
from fedunlearn.config.training import LocalSettings, RecoverySettings, TrainingSettings
from fedunlearn.config.unlearning import (
    AmunForgetSettings,
    AttackSettings,
    BoundaryShrinkSettings,
    CalmSettings,
    DeleteSettings,
    FedQUITSettings,
    FineTuneSwitches,
    GradientAscentSettings,
    JiTSettings,
    L2ULSettings,
    OneAnswerSettings,
    PGASettings,
    PUFSettings,
    RandomLabelSettings,
    SalUnSettings,
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
    "ColumnNames",
    "Config",
    "CorpusSettings",
    "DeleteSettings",
    "DeletionSettings",
    "DescentSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "FedEraserSettings",
    "FedOSDSettings",
    "FedQUITSettings",
    "FederationSettings",
    "FineTuneSettings",
    "GradientAscentSettings",
    "GuardSettings",
    "JiTSettings",
    "L2ULSettings",
    "LateRecordings",
    "LocalSettings",
    "ModelSettings",
    "NegGradPlusSettings",
    "NoTSettings",
    "OneAnswerSettings",
    "OracleMatchingSettings",
    "PGASettings",
    "PUFSettings",
    "PartitionSettings",
    "PrivacySettings",
    "RandomLabelSettings",
    "ReGUnSettings",
    "RecoverySettings",
    "RewindToDeleteSettings",
    "SCRUBSettings",
    "SalUnSettings",
    "ScheduledDeletion",
    "Settings",
    "StudySettings",
    "TrainingSettings",
    "UnlearningSettings",
    "load",
    "parse_override",
    "with_plugins",
]


class ColumnNames(Settings):
    """Names of a table's columns, where recordings are listed in one; empty = the names that it usually has.

    Read by "manifest", "audiofolder", "parquet" and, as names of schemes, "audformat" (`--columns`).
    """

    path: str = Field(default="", description="Column of the file, or of the audio itself.")
    speaker: str = Field(default="", description="Column of the person who speaks.")
    emotion: str = Field(default="", description="Column of the emotion.")
    gender: str = Field(default="", description="Column of the speaker's gender; need not be there.")
    text: str = Field(default="", description="Column of what is said; need not be there.")


class CorpusSettings(Settings):
    """Which recordings are used."""

    name: str = Field(
        default="synthetic",
        description='Name of a corpus reader (docs/corpora.md lists them). "synthetic" generates speech and '
        'needs no data. Or a reader of your own: "path/to/file.py:name" (docs/extending.md).',
    )
    options: Options | None = Field(
        default=None, description="Settings of a corpus reader of your own, which defines what they are."
    )
    path: str = Field(
        default="",
        description='Folder, zip file or table of a real corpus, which is only read. Empty for "synthetic".',
    )
    columns: ColumnNames = Field(
        default=ColumnNames(), description="Names of a table's columns, where recordings are listed in one."
    )
    leave_out: tuple[str, ...] = Field(
        default=(),
        description="Speakers who take no part at all, such as those an encoder was pre-trained on.",
    )
    skip_bad: bool = Field(
        default=False, description="Skip unreadable files with a warning instead of stopping."
    )
    speakers: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0,
        description="Number of speakers to generate; 0 = one for each client, and the unseen ones. Read by "
        '"synthetic" only.',
    )
    utterances: Annotated[int, Field(ge=6, le=10_000)] = Field(
        default=60, description='Number of utterances to generate for each speaker. Read by "synthetic" only.'
    )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The user's folder, of the corpus or of its manifest, that must never be written to; () = none.

        A zip file stands for itself: what is beside it is none of the corpus.
        """
        path = Path(self.path)
        if not self.path or not path.exists():
            return ()
        alone = path.is_dir() or path.suffix.lower() == ".zip"
        return (path.resolve() if alone else path.resolve().parent,)


class EvaluationSettings(Settings):
    """What the judge measures."""

    curve_every: Count = Field(
        default=1,
        description="Rounds between two points of the learning curve; 0 = the last round only.",
    )
    retrained_seeds: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=2,
        description="Number of retrained models, each with another seed. Two or more give a noise floor.",
    )
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=1000,
        description="Number of bootstrap resamples for the intervals of the membership AUC and the gap.",
    )
    relearn_steps: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=200,
        description="Largest number of gradient steps for which the forget set is trained again to measure "
        "the relearn time; 0 = not measured.",
    )
    shadows: ShadowCount = Field(
        default=0,
        description="Number of shadow federations, at least 8, for U-LiRA and the informed attack. Each "
        "trains on and unlearns a random half of the deleted utterances. 0 = neither attack is run.",
    )
    shadow_workers: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0,
        description="Number of processes that train shadow federations; 0 = one for each CPU that may be "
        "used.",
    )
    ephemeral: bool = Field(
        default=False,
        description="Whether nothing that was trained on deleted speech outlives the run: references, shadow "
        "models and the run's state lie in the run folder and are wiped when it is complete. It can then not "
        "be resumed, and no other run finds its original.",
    )
    search: bool = Field(
        default=True,
        description="Whether the run folder is searched for traces of deleted speech at the end, and the "
        "measurements are added to the receipts.",
    )


class Config(Settings):
    """One complete experiment."""

    seed: Seed = Field(default=1, description="Seed of all random numbers of the run, at most 2^63 - 1.")
    plugins: dict[str, str] | None = Field(
        default=None,
        description="SHA-256 digest of each file that a method, model, corpus or aggregation of your own "
        "comes from. It is filled in when the experiment is read; a file that has changed since is refused.",
    )
    corpus: CorpusSettings = Field(default=CorpusSettings(), description="Which recordings are used.")
    partition: PartitionSettings = Field(
        default=PartitionSettings(), description="Which client holds which speakers, and what is held out."
    )
    model: ModelSettings = Field(default=ModelSettings(), description="The emotion recogniser.")
    training: TrainingSettings = Field(default=TrainingSettings(), description="Ordinary federated learning.")
    deletions: DeletionSettings = Field(
        default=DeletionSettings(),
        description="Where deletion requests come from, and how long they may wait.",
    )
    unlearning: UnlearningSettings = Field(
        default=UnlearningSettings(), description="How a requester unlearns, and how updates are aggregated."
    )
    privacy: PrivacySettings = Field(
        default=PrivacySettings(), description="Noise that a client adds to its unlearn update."
    )
    guard: GuardSettings = Field(
        default=GuardSettings(), description="The server's bounds on an unlearn update."
    )
    attackers: AttackerSettings = Field(
        default=AttackerSettings(), description="Malicious clients that test the guard."
    )
    recovery: RecoverySettings = Field(
        default=RecoverySettings(), description="Training rounds after each unlearn step."
    )
    evaluation: EvaluationSettings = Field(
        default=EvaluationSettings(), description="What the judge measures."
    )
    federation: FederationSettings = Field(
        default=FederationSettings(), description="The engine, its workers and its tolerance for failures."
    )
    availability: AvailabilitySettings = Field(
        default=AvailabilitySettings(), description="When clients can be reached."
    )
    study: StudySettings = Field(
        default=StudySettings(), description="What a comparison runs; a run does not read it."
    )

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
        encoded_once = self.model.is_encoder and self.model.encoder.trains == "head"
        if encoded_once and (local.crop_seconds or local.time_mask):
            raise ValueError(
                "training.local: crop_seconds and time_mask cut frames, and an encoder of which the head "
                'alone trains has one vector an utterance; set them to 0, or model.encoder.trains to "top:1"'
            )
        return self

    @model_validator(mode="after")
    def _attack_fits(self) -> Self:
        for section, chosen in self.unlearning:
            domain = chosen.attack.domain if isinstance(chosen, FineTuneSwitches) else "feature"
            if problem := self.model.lacks_domain(domain):
                raise ValueError(f"unlearning.{section}.attack.domain: {problem}")
        return self

    @model_validator(mode="after")
    def _attackers_exist(self) -> Self:
        clients = self.partition.clients
        if clients is not None and (problem := self.unknown_attacker(clients)):
            raise ValueError(problem)
        return self

    def unknown_attacker(self, clients: int) -> str:
        """Say which malicious client does not exist; empty where all do.

        Args:
            clients: number of clients.
        """
        strangers = [c for c in self.attackers.clients if c >= clients]
        if not strangers:
            return ""
        return f"attackers.clients: there is no client {strangers[0]} (0 to {clients - 1} are there)"

    def digest_of(self, kind: Kind) -> str:
        """Digest of the file that a method, model, corpus or aggregation of the user's own comes from."""
        section, key = next((section, key) for k, section, key, _ in _PLACES if k == kind)
        return (self.plugins or {}).get(key_of(kind, getattr(getattr(self, section), key)), "")

    def to_toml(self) -> str:
        """Return the experiment, defaults included, as TOML that ``load`` reads back as an equal config."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load(file: Path | Sequence[Path] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read an experiment from TOML files and apply overrides.

    Args:
        file: a TOML file, or several, of which each replaces the keys that it has in common with those
            before it; None = the built-in defaults.
        overrides: dotted keys and their values, which replace those of the files.

    Returns:
        The validated experiment.

    Raises:
        BadInput: with every error found, one line each.
    """
    files = [file] if isinstance(file, Path) else list(file or ())
    source = " + ".join(map(str, files)) or "options"
    tree: dict[str, Any] = {}
    for each in files:
        try:
            _put_over(tree, tomllib.loads(read_text(each, kind="valid TOML")))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{each}: is not valid TOML ({error})") from error
    problems = [p for key, value in (overrides or {}).items() if (p := _place(tree, key, value))]
    tree = _lists_to_tuples(tree)
    _make_canonical(tree)
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += [_line(source, e) for e in error.errors()]
    uses = _uses_in(tree)
    digests, wrong = _checked(uses, _section(tree, "plugins"), source)
    problems += wrong
    if config is None or problems:
        raise BadInput(problems)
    return _with_uses(config, uses, digests)


@dataclass(frozen=True)
class _Use:
    """One place of an experiment that can name something of the user's own."""

    kind: Kind
    section: str
    key: str
    options_key: str
    name: str
    options: Mapping[str, Any] | None


_PLACES: tuple[tuple[Kind, str, str, str], ...] = (
    ("corpus", "corpus", "name", "options"),
    ("model", "model", "name", "options"),
    ("method", "unlearning", "method", "options"),
    ("aggregation", "unlearning", "aggregation", "aggregation_options"),
)


def with_plugins(config: Config) -> Config:
    """The experiment with whole references to the user's own files, their options checked, their digests.

    ``load`` has done it to what it returns; a config that was made in Python may lack it.

    Raises:
        BadInput: a file or an option that will not do, or a file that is another than its digest says.
    """
    uses = _uses_in(config.model_dump())
    digests, problems = _checked(uses, config.plugins or {}, "config")
    if problems:
        raise BadInput(problems)
    return _with_uses(config, uses, digests)


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}


def _uses_in(tree: Mapping[str, Any]) -> list[_Use]:
    """The names and options of all four kinds; what is not of their types pydantic refuses."""
    uses = []
    for kind, place, key, options_key in _PLACES:
        section = _section(tree, place)
        name, options = section.get(key), section.get(options_key)
        options = options if isinstance(options, Mapping) else None
        if isinstance(name, str) or options is not None:
            uses.append(_Use(kind, place, key, options_key, name if isinstance(name, str) else "", options))
    return uses


def _make_canonical(tree: Mapping[str, Any]) -> None:
    """Replace names that decorators registered in this process by references to their files."""
    for use in _uses_in(tree):
        if use.name:
            with suppress(BadInput):  # ``_checked`` says what is wrong
                tree[use.section][use.key] = canonical(use.kind, use.name)


def _checked(
    uses: Sequence[_Use], pinned: Mapping[str, Any], source: str
) -> tuple[dict[str, str], list[str]]:
    """Load what is the user's own: (digests of the files, a line for each thing that is wrong)."""
    digests: dict[str, str] = {}
    problems = []
    for use in uses:
        key = f"{use.section}.{use.key}"
        try:
            reference = canonical(use.kind, use.name)
            if not is_plugin(use.kind, reference):
                if use.options:
                    where = f"{source}: {use.section}.{use.options_key}"
                    problems.append(f"{where} is read by a {use.kind} of your own; {key} names none")
                continue
            plugin = find(use.kind, reference)
        except BadInput as error:
            problems += [f"{source}: {key}: {problem}" for problem in error.problems]
            continue
        place = key_of(use.kind, reference)
        digests[place] = plugin.sha256
        if pinned.get(place, plugin.sha256) != plugin.sha256:
            problems.append(
                f"{source}: {key}: {place}: is not the file that the experiment was made with (SHA-256 "
                f"{plugin.sha256[:12]}..., plugins has {str(pinned[place])[:12]}...); put it back or, "
                "for a new run, remove the entry"
            )
        try:
            plugin.settings.model_validate(dict(use.options or {}))
        except ValidationError as error:
            below = (use.section, use.options_key)
            own = f"misspelt? its settings are {', '.join(plugin.settings.model_fields) or 'none'}"
            lines = (_line(source, {**e, "loc": (*below, *e["loc"])}) for e in error.errors())
            problems += [line.replace("misspelt? see docs/configuration.md", own) for line in lines]
    return digests, problems


def _with_uses(config: Config, uses: Sequence[_Use], digests: Mapping[str, str]) -> Config:
    if not digests:
        return config if config.plugins is None else config.model_copy(update={"plugins": None})
    changed: dict[str, Any] = {"plugins": dict(digests)}
    for use in uses:
        section = changed.get(use.section, getattr(config, use.section))
        whole = {use.key: canonical(use.kind, use.name)} if use.name else {}
        changed[use.section] = section.model_copy(update=whole)
    return config.model_copy(update=changed)


def parse_override(text: str) -> tuple[str, Any]:
    """Parse one ``--set key.sub=value``.

    Args:
        text: the option's value. What follows "=" is read as TOML, or as plain text where it is not TOML.

    Returns:
        The dotted key and the value.

    Raises:
        BadInput: there is no "=" or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {text}: write it as key.sub=value, such as --set training.rounds=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _put_over(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put the settings of another file into a tree, section by section."""
    for key, value in other.items():
        below = tree.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            _put_over(below, value)
        else:
            tree[key] = value


def _place(tree: dict[str, Any], key: str, value: Any) -> str | None:
    """Insert a value at its dotted key; return an error line if the key lies inside another value."""
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
