"""The recipes of ordinary training that are compared, and what training by one of them gives.

In one process, without messages: a replay of ordinary rounds alone, which computes what a run's clients and
server compute, bit for bit.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from fedunlearn import __version__
from fedunlearn.config import Config, LocalSettings, TrainingSettings
from fedunlearn.evaluation.judge import Judge
from fedunlearn.experiment.preparation import DecodedCorpus, decode_corpus, read_speech, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.replay import Replay
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.shadows import replay_data
from fedunlearn.experiment.timeline import Timeline, TimelineRound
from fedunlearn.files import write_atomically
from fedunlearn.messages.phase import Phase
from fedunlearn.models import build_model
from fedunlearn.partition import recorded_later
from fedunlearn.seeding import rng_for
from fedunlearn.server.availability import Availability
from fedunlearn.server.steps import calibrate_model
from fedunlearn.study.grid import loader_of
from fedunlearn.training import TrainingDiverged, round_lr, train

_STEPS, _LRS, _SCHEDULES, _CLIP = (5, 15, 30), (0.01, 0.02, 0.05, 0.1), ("constant", "cosine"), 5.0
_PASSES, _CENTRAL_LRS = (30, 60), (0.01, 0.03)
_OLD = {"steps": 0, "epochs": 5, "lr": 0.05, "lr_schedule": "constant", "gradient_clip": 0.0}


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        name: as tables show it.
        local: keys below ``training.local``, and values; empty = the experiment's own.
        passes: of central training over all clients' speech; 0 = federated.
        is_default: whether it is the experiment's own.
    """

    name: str
    local: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0
    is_default: bool = False

    def experiment(self, base: Config) -> Config:
        """Put the recipe on top of an experiment.

        Args:
            base: the experiment.
        """
        return loader_of(base)({f"training.local.{key}": value for key, value in self.local.items()})


@dataclass(frozen=True, kw_only=True)
class RecipeScores:
    """What an original model trained by a recipe recognises; None where training diverged.

    Attributes:
        test_uar: UAR on held-out speech of the client speakers.
        unseen_uar: UAR on unseen speakers.
        retain: accuracy on all training speech.
    """

    test_uar: float | None
    unseen_uar: float | None
    retain: float | None


def recipes_for(base: Config) -> list[Recipe]:
    """List the recipes: the grid, the experiment's own if it is not in it, the old one, and central ones.

    Args:
        base: the experiment.
    """
    own = base.training.local
    grid = [
        Recipe(
            f"{steps} steps, lr {lr:g}, {schedule}",
            {"steps": steps, "lr": lr, "lr_schedule": schedule, "gradient_clip": _CLIP},
        )
        for schedule in _SCHEDULES
        for steps in _STEPS
        for lr in _LRS
    ]
    grid = [replace(recipe, is_default=recipe.experiment(base).training.local == own) for recipe in grid]
    if not any(recipe.is_default for recipe in grid):
        grid.insert(0, Recipe("the experiment's own", is_default=True))
    central = [
        Recipe(
            f"central, {passes} passes, lr {lr:g}",
            {"steps": 0, "epochs": 1, "lr": lr, "lr_schedule": "cosine", "gradient_clip": _CLIP},
            passes,
        )
        for passes in _PASSES
        for lr in _CENTRAL_LRS
    ]
    return [*grid, Recipe("5 epochs, lr 0.05, no clipping", _OLD), *central]


class RecipeRunner:
    """Trains by recipes, and keeps what each gave in a folder.

    The recordings of a corpus are decoded once: generated speech is that of the experiment's own seed, and
    other seeds partition the same speech differently.

    Args:
        out: its folder; finished trainings are kept in ``out``/cells.
    """

    def __init__(self, out: Path) -> None:
        self._cells = out / "cells"
        self._decoded: tuple[str, DecodedCorpus] | None = None
        self._data: tuple[str, Judge, ReplayData] | None = None

    def check(self, base: Config, seeds: Sequence[int]) -> None:
        """Check that an experiment can be made with every seed, before anything is decoded.

        Args:
            base: the experiment.
            seeds: of the partition and of training.

        Raises:
            BadInput: the corpus or the partition.
        """
        for seed in seeds:
            read_speech(_without_deletions(resolve(_with_seed(base, seed))))

    def scores(self, base: Config, recipe: Recipe, seed: int) -> RecipeScores:
        """Train by a recipe, unless it is done already.

        Args:
            base: the experiment.
            recipe: how.
            seed: of the partition and of training.

        Raises:
            BadInput: a recording cannot be read.
        """
        file = self._file(base, recipe, seed)
        if file.exists():
            return RecipeScores(**json.loads(file.read_text(encoding="utf-8")))
        judge, data = self._prepare(base, seed)
        config = recipe.experiment(data.config)
        try:
            weights = _train_centrally(data, config, recipe.passes) if recipe.passes else _play(data, config)
            point = judge.curve_point(judge.view(weights).predicted)
            found = RecipeScores(
                test_uar=point.test_uar, unseen_uar=point.unseen_uar, retain=point.train_accuracy
            )
        except TrainingDiverged:
            found = RecipeScores(test_uar=None, unseen_uar=None, retain=None)
        self._cells.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(found)))
        return found

    def _file(self, base: Config, recipe: Recipe, seed: int) -> Path:
        config = recipe.experiment(base).model_dump(mode="json", exclude={"federation"})
        decides = {"version": __version__, "config": config, "passes": recipe.passes, "seed": seed}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self._cells / f"{base.corpus.name}-seed{seed}-{digest[:16]}.json"

    def _prepare(self, base: Config, seed: int) -> tuple[Judge, ReplayData]:
        """The judge and the clients' data of one partition of a corpus, kept until another is asked for."""
        key = base.model_dump_json()
        if self._data is None or self._data[0] != f"{key} {seed}":
            if self._decoded is None or self._decoded[0] != key:
                self._decoded = self._data = None  # two corpora at a time would be too many
                self._decoded = key, decode_corpus(resolve(base), Progress(Console(quiet=True)))
            corpus, speech = self._decoded[1]
            config = _without_deletions(resolve(_with_seed(base, seed), corpus))
            corpus, partition = read_speech(config, corpus)
            template = build_model(config.model, len(corpus.emotions), rng_for(seed, "template"))
            judge = Judge(partition, speech, corpus.emotions, template, seed, config.evaluation.bootstrap)
            rounds = config.training.rounds
            learning = (TimelineRound(Phase.LEARN, n + 1, n, (), since=n + 1) for n in range(rounds))
            availability = Availability(config.availability, seed, config.partition.client_count)
            away = tuple(availability.unreachable(done) for done in range(rounds + 1))
            later = recorded_later(partition, config.partition, seed)
            timeline = Timeline((), tuple(learning), away, later)
            self._data = f"{key} {seed}", judge, replay_data(config, judge, partition, timeline)
        return self._data[1:]


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"seed": seed})


def _without_deletions(config: Config) -> Config:
    return config.model_copy(update={"deletions": config.deletions.model_copy(update={"schedule": ()})})


def _play(data: ReplayData, config: Config) -> Mapping[str, Tensor]:
    return Replay(replace(data, config=config), config.seed).play()["original"]


def _train_centrally(data: ReplayData, config: Config, passes: int) -> Mapping[str, Tensor]:
    """Train one model on all clients' training speech, from the federation's own first weights."""
    clients = ReplayedClients(replace(data, config=config), config.seed)
    initial = build_model(config.model, data.classes, rng_for(config.seed, "initial weights"))
    first = calibrate_model(clients.model, initial.state_dict(), clients.moments())
    clients.model.load_state_dict(first)
    local: LocalSettings = config.training.local
    training = TrainingSettings(rounds=passes, local=local)
    everything = clients.examples(u for of in data.train for u in of)
    for number in range(1, passes + 1):
        rng = rng_for(config.seed, "central", number)
        train(clients.model, everything, local, round_lr(training, number), rng)
    return clients.model.state_dict()
