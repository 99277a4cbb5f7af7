"""Whole runs, small enough for tests: six devices of generated speech, three rounds, three deletions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.engines.engine import play
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.preparation import DecodedCorpus, decode_corpus, prepare, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.replay import Replay
from fedunlearn.experiment.replayed_clients import ReplayData
from fedunlearn.experiment.shadows import replay_data
from fedunlearn.experiment.timeline import build_timeline

SCHEDULE = [
    {"client": 1, "what": "all", "after_learning": 0},
    {"client": 2, "what": "some", "count": 4, "after_learning": 1},
    {"client": 3, "what": "some", "count": 3, "after_learning": 1},
]
SMALL: dict[str, Any] = {
    "seed": 3,
    "corpus.utterances": 18,
    "partition.clients": 6,
    "partition.unseen_speakers": 2,
    "model.hidden": 16,
    "training.rounds": 3,
    "training.local.steps": 2,
    "unlearning.calm.max_steps": 10,
    "deletions.schedule": SCHEDULE,
    "recovery.rounds": 1,
    "evaluation.bootstrap": 100,
    "evaluation.retrained_seeds": 1,
    "federation.engine": "inline",
}


def small_config(**overrides: Any) -> Config:
    """The small experiment with some settings changed; ``__`` stands for a dot."""
    return configuration.load(None, SMALL | {k.replace("__", "."): v for k, v in overrides.items()})


def prepared(
    out: Path, config: Config | None = None, cache: Path | None = None, remember: bool = True
) -> Experiment:
    """A prepared run; its references are kept beside it unless a cache is named.

    ``remember``: whether its speech stays in this process, for the next run on it.
    """
    config = config or small_config()
    cache = cache or out.parent / f"{out.name}-references"
    decoded = decoded_once(config) if remember else None
    return prepare(config, out, cache, Progress(Console(quiet=True)), decoded)


_DECODED: dict[str, DecodedCorpus] = {}


def decoded_once(config: Config) -> DecodedCorpus | None:
    """Generated speech is the same for all tests that have its settings; None for any other."""
    if config.corpus.name != "synthetic":
        return None
    config = resolve(config)
    key = f"{config.seed} {config.corpus.model_dump_json()}"
    if key not in _DECODED:
        _DECODED[key] = decode_corpus(config, Progress(Console(quiet=True)))
    return _DECODED[key]


def run_small(
    out: Path, config: Config | None = None, mods: Sequence[Any] = (), cache: Path | None = None
) -> dict[str, Any]:
    """Prepare and play; the results."""
    experiment = prepared(out, config, cache)
    results = play(experiment, mods).to_json()
    experiment.run.write_results(results)
    return results


def resumed(
    out: Path, config: Config, cache: Path, mods: Sequence[Any] = (), decoded: DecodedCorpus | None = None
) -> dict[str, Any]:
    """Resume a run that was interrupted, or begin it where there is none, and play it to its end."""
    begun = out.exists()
    speech = decoded or decoded_once(config)
    experiment = prepare(config, out, cache, Progress(Console(quiet=True)), speech, resume=begun)
    results = play(experiment, mods).to_json()
    experiment.run.write_results(results)
    return results


def replay_data_of(experiment: Experiment, rounds: int | None = None) -> ReplayData:
    """What replays a run that has been played, or its first rounds."""
    deletions, rows = experiment.recorder.read_deletions(), experiment.record.log.rows
    config, partition = experiment.config, experiment.partition
    timeline = build_timeline(experiment.state, rows, deletions, partition, config)
    timeline = replace(timeline, rounds=timeline.rounds[:rounds])
    return replay_data(config, experiment.judge, partition, timeline)


def assert_replayed(experiment: Experiment) -> None:
    """A replay, which shadow federations are made of, gives the run's own weights, bit for bit."""
    stages = Replay(replay_data_of(experiment), experiment.config.seed).play()
    model = experiment.state.model
    assert model is not None
    assert all(torch.equal(stages["recovered"][name], value) for name, value in model.weights.items())


def weights_of(out: Path) -> dict[str, str]:
    """Checksums of all checkpoints of a run."""
    files = sorted((out / "checkpoints").glob("*.safetensors"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def without_times(results: dict[str, Any]) -> str:
    """Results as text, without measured times (GUM counts seconds) and which engine ran."""
    kept = {k: v for k, v in json.loads(json.dumps(results)).items() if k not in {"times", "gum"}}
    for phase in kept["cost"].values():
        del phase["client_seconds"], phase["wall_seconds"]
        for role in phase["roles"].values():
            del role["client_seconds"]
    del kept["config"]["federation"]
    return json.dumps(kept)
