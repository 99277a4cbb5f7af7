"""Whole runs, small enough for tests: six devices of generated speech, three rounds, three deletions."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.engines.engine import play
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.preparation import DecodedCorpus, decode_corpus, prepare, resolve
from fedunlearn.experiment.progress import Progress

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
