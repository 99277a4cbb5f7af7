"""Federations to be timed, with noise in place of speech and features, made in no time.

What a client computes does not depend on what the recordings contain. Everything else is real: vaults,
clients, messages.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedunlearn import config as configuration
from fedunlearn.audio import PCM
from fedunlearn.config import Config
from fedunlearn.config.partition import PartitionSettings
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.experiment.preparation import DecodedCorpus
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for

EMOTIONS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
_SAMPLES = 1600
_FRAMES = 150
"""3 s of log-mel frames"""
_KINDS = 64
"""different recordings; all others repeat these"""


@dataclass(frozen=True)
class BenchmarkWorkload:
    """A federation to be timed.

    Attributes:
        clients: number of clients, one speaker each.
        utterances: recordings of each client; one in five is held out.
        model: "functionals" or "cnn".
        hidden: width of the functionals model.
        rounds: training rounds.
        epochs: local epochs of a client in each round.
        look_every: rounds between two evaluations of the global model (``evaluation.curve_every``).
        engine: as ``federation.engine``.
        workers: as ``federation.workers``.
        idle: whether clients do everything except train.
    """

    clients: int = 20
    utterances: int = 60
    model: str = "functionals"
    hidden: int = 128
    rounds: int = 10
    epochs: int = 5
    look_every: int = 1
    engine: str = "ray"
    workers: int = 0
    idle: bool = False

    def config(self, **more: Any) -> Config:
        """Build the experiment, in which nobody requests a deletion.

        Args:
            more: further settings; ``__`` in a name stands for the dot of a key.
        """
        settings: dict[str, Any] = {
            "corpus.utterances": self.utterances,
            "partition.clients": self.clients,
            "partition.unseen_speakers": 1,
            "model.name": self.model,
            "model.hidden": self.hidden,
            "training.rounds": self.rounds,
            "training.local.steps": 0,
            "training.local.epochs": self.epochs,
            "deletions.schedule": [],
            "evaluation.curve_every": self.look_every,
            "evaluation.bootstrap": 100,
            "evaluation.relearn_steps": 0,
            "evaluation.search": False,
            "federation.engine": self.engine,
            "federation.workers": self.workers,
        }
        return configuration.load(None, settings | {k.replace("__", "."): v for k, v in more.items()})

    @property
    def trained_on(self) -> int:
        """Utterances that each client trains on."""
        return self.utterances - round(self.utterances * PartitionSettings().test_fraction)

    def frames(self, model: EmotionModel) -> int:
        """Return the number of feature frames of each utterance."""
        return 1 if model.frame_seconds is None else _FRAMES

    def decoded_corpus(self, config: Config) -> DecodedCorpus:
        """Make its recordings, with features of the shape that the model computes."""
        rng = rng_for(0, "noise")
        noise = rng.integers(-1000, 1000, (_KINDS, _SAMPLES), dtype=np.int16)
        template = build_model(config.model, len(EMOTIONS), rng_for(0, "template"))
        drawn = rng.standard_normal((_KINDS, self.frames(template), template.dims), dtype=np.float32)
        features = torch.from_numpy(drawn).unbind()
        pcm: dict[str, PCM] = {}
        utterances, known = [], {}
        for speaker in range(self.clients + config.partition.unseen_count):
            for take in range(self.utterances):
                name, kind = f"speaker-{speaker:05d}/{take:04d}", (speaker * 31 + take) % _KINDS
                pcm[name], known[name] = noise[kind], features[kind]
                emotion = EMOTIONS[take % len(EMOTIONS)]
                utterances.append(Utterance(name, f"speaker-{speaker:05d}", emotion, noise[kind].copy))
        corpus = Corpus("synthetic", tuple(utterances), EMOTIONS)
        return corpus, RecordingCache(pcm, {template.feature_name: known})
