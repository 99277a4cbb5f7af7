"""The cells of a study: methods, sizes, requesters, aggregations, recoveries, windows, folds and seeds."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedunlearn import config as configuration
from fedunlearn.config import Config, parse_override
from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.config.fields import LARGEST
from fedunlearn.config.plugins import canonical, is_plugin, short_name, split_reference
from fedunlearn.config.unlearning import section_of
from fedunlearn.errors import BadInput
from fedunlearn.seeding import rng_for

ConfigLoader = Callable[[Mapping[str, Any]], Config]
"""Puts overrides (dotted keys to values) on top of an experiment."""

RECOVERIES = ("none", "gentle", "ordinary", "gentle-removed", "ordinary-removed")
"""No rounds; those of the experiment's recovery; as many with the work and lr of local training; and
both again with ``recovery.reversion`` = "removed"."""

_RETRAINED_SEEDS = "evaluation.retrained_seeds"
_NAME = re.compile(r"[\w+., -]{1,60}")

WHOLE_CLIENT = 0
"""Size of a request for everything that its client holds; "all" on the command line."""


def comparison_config(file: Path | Sequence[Path] | None, overrides: Mapping[str, Any]) -> Config:
    """Read the experiment that a comparison starts from.

    There are at least two retrained models, whose distance is the noise floor; overrides may say otherwise.

    Args:
        file: a TOML file or several, see ``load``; None = the built-in defaults.
        overrides: dotted keys to values, applied on top.

    Raises:
        BadInput: with every error there is, one line each.
    """
    found = configuration.load(file, overrides)
    if _RETRAINED_SEEDS in overrides or found.evaluation.retrained_seeds >= 2:
        return found
    return configuration.load(file, {**overrides, _RETRAINED_SEEDS: 2})


def loader_of(config: Config) -> ConfigLoader:
    """Return what puts overrides on top of an experiment."""
    settings = dict(_dotted(config.model_dump(mode="json", exclude_none=True, exclude={"study"})))
    return lambda overrides: configuration.load(None, {**settings, **overrides})


def _dotted(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and key != "plugins":  # keys of that are file names, with dots
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield before + key, value


@dataclass(frozen=True)
class Variant:
    """One row of the tables: a method, with settings of its own where it has any.

    Attributes:
        name: as tables show it.
        algorithm: the method's name (``unlearning.method``).
        settings: keys below the method's section, and values.
    """

    name: str
    algorithm: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings as dotted keys of the experiment."""
        own = is_plugin("method", self.algorithm)
        section = "options" if own else section_of(self.algorithm)
        settings = {f"unlearning.{section}.{key}": value for key, value in self.settings}
        return {"unlearning.method": self.algorithm, **settings}

    @property
    def written(self) -> str:
        """The settings as text: "attack.eps=0.1, elasticity=0"."""
        return ", ".join(f"{key}={value}" for key, value in self.settings)


@dataclass(frozen=True)
class StudyCell:
    """One run of the study; ``experiment`` decides it, the other fields name it.

    Sizes are as in ``Axes``.
    """

    variant: Variant
    size: int
    requesters: int
    aggregation: str
    recovery: str
    window: int
    fold: int
    seed: int
    experiment: Config = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """A readable name that fits a file."""
        size = "all" if self.size == WHOLE_CLIENT else self.size
        what = f"{self.variant.name}-{self.requesters}x{size}-{self.aggregation}-{self.recovery}"
        window = f"-window{self.window}" if self.window else ""
        fold = f"-fold{self.fold}" if self.fold else ""
        return f"{what}{window}{fold}-seed{self.seed}".replace(" ", "_")


@dataclass(frozen=True)
class Axes:
    """The axes that are crossed.

    Attributes:
        variants: methods, some with settings of their own.
        sizes: utterances that each requester deletes; ``WHOLE_CLIENT`` = all.
        requesters: clients that request a deletion.
        seeds: whole experiments.
        folds: of the corpus's protocol (``partition.fold``); empty = the experiment's own.
        aggregations: as ``unlearning.aggregation``; empty = the experiment's own.
        recoveries: of ``RECOVERIES``; empty = the experiment's own.
        windows: rounds that a request waits so that others are served with it; empty = the experiment's own.
        apart: rounds between one requester and the next; 0 = all at once.
        shadows: shadow federations of each cell.
    """

    variants: Sequence[Variant]
    sizes: Sequence[int]
    requesters: Sequence[int]
    seeds: Sequence[int]
    aggregations: Sequence[str] = ()
    recoveries: Sequence[str] = ()
    windows: Sequence[int] = ()
    folds: Sequence[int] = ()
    apart: int = 0
    shadows: int = 0


def parse_variant(text: str) -> Variant:
    """Read ``NAME=METHOD:KEY=VALUE,KEY=VALUE`` of ``--variant``; the part from the colon on may be missing.

    Raises:
        BadInput: not of this form.
    """
    name, _, what = text.partition("=")
    algorithm, settings = split_reference(what)
    name, algorithm = name.strip(), algorithm.strip()
    if not algorithm or not _NAME.fullmatch(name):
        raise BadInput(
            f"--variant {text}: write it as NAME=METHOD:KEY=VALUE,KEY=VALUE, "
            "such as --variant relabel+Adv=l2ul:elasticity=0"
        )
    try:
        pairs = [parse_override(part) for part in settings.split(",") if part.strip()]
    except BadInput as error:
        raise BadInput(f"--variant {text}: settings are KEY=VALUE, with commas between them") from error
    return Variant(name, algorithm, tuple(pairs))


def variant_of(method: str) -> Variant:
    """Return the variant of a method with the experiment's own settings; "default" = the product's method."""
    name = Config().unlearning.method if method == "default" else method
    return Variant(short_name(name), name)


def parse_numbers(option: str, text: str, least: int, most: int = LARGEST) -> list[int]:
    """Read the whole numbers of an option, by commas; each once.

    Args:
        option: its name, for the message.
        text: its value.
        least: smallest number allowed.
        most: largest number allowed.

    Raises:
        BadInput: something else, or one that is too small or too large.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"{option} {text}: write whole numbers, such as 10,20") from error
    if not all(least <= number <= most for number in found):
        raise BadInput(f"{option} {text}: must be at least {least} and at most {most}")
    return list(dict.fromkeys(found))


def parse_sizes(option: str, text: str) -> list[int]:
    """Read the sizes of requests, by commas: numbers of utterances, and "all"; each once.

    Args:
        option: its name, for the message.
        text: its value.

    Returns:
        the numbers, and ``WHOLE_CLIENT`` for "all".

    Raises:
        BadInput: something else, or a number that is too small or too large.
    """
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word != "all"]
    try:
        if numbers:
            parse_numbers(option, ",".join(numbers), 1)
    except BadInput as error:
        raise BadInput(f"{error}; or all: everything that a client holds") from None
    return list(dict.fromkeys(WHOLE_CLIENT if word == "all" else int(word) for word in words))


def parse_folds(text: str, base: Config) -> list[int]:
    """Read the value of ``--folds``: "all", or numbers by commas; empty = the experiment's own fold.

    Args:
        text: its value.
        base: the experiment, which names corpus and protocol.

    Raises:
        BadInput: the corpus has no such folds.
    """
    if not text:
        return []
    # Imported on use: the readers load PyTorch, and most comparisons name no folds.
    from fedunlearn.corpora.protocols import find_protocol

    most = len(find_protocol(base.corpus.name, base.partition.protocol).folds)
    return list(range(1, most + 1)) if text == "all" else parse_numbers("--folds", text, 1, most)


def cells_of(load: ConfigLoader, axes: Axes) -> list[StudyCell]:
    """List all cells, fold by fold and seed by seed, so that an original serves its cells one after another.

    Args:
        load: puts overrides on top of the experiment.
        axes: what is crossed.

    Raises:
        BadInput: a name that comes twice, windows that change nothing, or anything that the experiment's
            settings refuse, one line each.
    """
    names = [v.name for v in axes.variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"--methods, --variant: {', '.join(twice)} comes twice; give each a name of its own")
    base = load({})
    aggregations = [(short_name(a), {"unlearning.aggregation": a}) for a in axes.aggregations]
    recoveries = [(r, recovery_overrides(r, base)) for r in axes.recoveries]
    problems: list[str] = []
    for variant in axes.variants:
        problems += _refused(f"--variant {variant.name}", load, _overrides(variant, base))
    for name, overrides in aggregations:
        problems += _refused(f"--aggregations {name}", load, overrides)
    for name, overrides in recoveries:
        problems += _refused(f"--recoveries {name}", load, overrides)
    if len(axes.windows) > 1 and axes.apart == 0 and max(axes.requesters) > 1:
        problems.append(
            "--windows: all ask at once, and would be served together whatever they wait; let them ask one "
            "after the other: --apart 1"
        )
    if problems:
        raise BadInput(problems)
    experiments = [
        (variant, aggregation, recovery, load({**_overrides(variant, base), **joining, **recovering}))
        for aggregation, joining in aggregations or [(short_name(base.unlearning.aggregation), {})]
        for recovery, recovering in recoveries or [(recovery_name(base), {})]
        for variant in axes.variants
    ]
    return [
        StudyCell(
            variant,
            size,
            asking,
            aggregation,
            recovery,
            window,
            fold,
            seed,
            _requesting(experiment, size, asking, seed, window, axes, fold),
        )
        for fold in axes.folds or [base.partition.fold]
        for seed in axes.seeds
        for window in axes.windows or [base.deletions.window]
        for asking in axes.requesters
        for size in axes.sizes
        for variant, aggregation, recovery, experiment in experiments
    ]


def _overrides(variant: Variant, base: Config) -> dict[str, Any]:
    """A variant's overrides; options that the experiment has for another method of one's own are dropped."""
    unlearning = base.unlearning
    if unlearning.options is None or canonical("method", variant.algorithm) == unlearning.method:
        return variant.overrides
    own = is_plugin("method", variant.algorithm)
    return {"unlearning.options": {} if own else None, **variant.overrides}


def _refused(option: str, load: ConfigLoader, overrides: Mapping[str, Any]) -> list[str]:
    try:
        load(overrides)
    except BadInput as error:
        # The option stands in place of the file, which did not say it.
        return [f"{option}: {problem.partition(': ')[2] or problem}" for problem in error.problems]
    return []


def recovery_overrides(name: str, base: Config) -> dict[str, Any]:
    """Return the overrides that turn the experiment's recovery into the named one.

    Args:
        name: of ``RECOVERIES``.
        base: the experiment.

    Raises:
        BadInput: no such name; or rounds are wanted, and the experiment has none.
    """
    if name not in RECOVERIES:
        raise BadInput(f"--recoveries {name}: is not one of {', '.join(RECOVERIES)}")
    if name == "none":
        return {"recovery.rounds": 0}
    if base.recovery.rounds == 0:
        raise BadInput(
            f"--recoveries {name}: the experiment has no recovery rounds; add --set recovery.rounds=4"
        )
    kind, _, removed = name.partition("-")
    local = base.training.local if kind == "ordinary" else base.recovery
    return {
        "recovery.steps": local.steps,
        "recovery.epochs": local.epochs,
        "recovery.lr": local.lr,
        "recovery.reversion": "removed" if removed else "kept",
    }


def recovery_name(experiment: Config) -> str:
    """Return which of ``RECOVERIES`` an experiment's own recovery is."""
    recovery, local = experiment.recovery, experiment.training.local
    if recovery.rounds == 0:
        return "none"
    kind = "ordinary" if (recovery.work, recovery.lr) == (local.work, local.lr) else "gentle"
    return f"{kind}-removed" if recovery.reversion == "removed" else kind


def requesters_of(clients: int, requesters: int, seed: int) -> list[int]:
    """Draw the requesting clients from the seed, in client order.

    Fewer requesters of a seed are among its more.

    Args:
        clients: number of clients.
        requesters: how many are drawn.
        seed: of the experiment.
    """
    return sorted(int(c) for c in rng_for(seed, "requesters").permutation(clients)[:requesters])


def _requesting(
    experiment: Config, size: int, requesters: int, seed: int, window: int, axes: Axes, fold: int
) -> Config:
    schedule = tuple(
        _deletion(client, size, number * axes.apart)
        for number, client in enumerate(requesters_of(experiment.partition.client_count, requesters, seed))
    )
    patience = experiment.deletions.patience
    deletions = DeletionSettings(schedule=schedule, window=window, patience=patience)
    # A cell is never resumed, and only its numbers are kept.
    federation = experiment.federation.model_copy(update={"checkpoint_every": 0})
    measured = {"search": False, "relearn_steps": 0, "shadows": axes.shadows}
    evaluation = experiment.evaluation.model_copy(update=measured)
    partition = experiment.partition.model_copy(update={"fold": fold})
    changed = {
        "deletions": deletions,
        "federation": federation,
        "evaluation": evaluation,
        "partition": partition,
    }
    return experiment.model_copy(update={"seed": seed, **changed})


def _deletion(client: int, size: int, after_learning: int) -> ScheduledDeletion:
    if size == WHOLE_CLIENT:
        return ScheduledDeletion(client=client, what="all", after_learning=after_learning)
    return ScheduledDeletion(client=client, what="some", count=size, after_learning=after_learning)
