"""Federations to be timed: noise for speech and for features, as much of it as is asked for, in no time.

What a client computes does not depend on what is said. Everything else is real: vaults, devices, messages.
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
"""different recordings; the others are these again"""


@dataclass(frozen=True)
class BenchmarkWorkload:
    """A federation.

    Attributes:
        clients: devices, one speaker each.
        utterances: of each, one in five held out.
        model: "functionals" or "cnn".
        hidden: width of the functionals model.
        rounds: of learning.
        epochs: of a client in each.
        look_every: rounds between the judge's looks.
        engine, workers: as in ``federation``.
        idle: whether clients do all but train.
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
        """As an experiment in which nobody asks for anything. ``more``: dotted keys, ``__`` for a dot."""
        settings: dict[str, Any] = {
            "corpus.utterances": self.utterances,
            "partition.clients": self.clients,
            "partition.unseen_speakers": 1,
            "model.name": self.model,
            "model.hidden": self.hidden,
            "training.rounds": self.rounds,
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
        """Feature frames of each utterance."""
        return 1 if model.frame_seconds is None else _FRAMES

    def heard(self, config: Config) -> DecodedCorpus:
        """Its speech, with features that are as large as the model's own."""
        rng = rng_for(0, "noise")
        noise = rng.integers(-1000, 1000, (_KINDS, _SAMPLES), dtype=np.int16)
        template = build_model(config.model, len(EMOTIONS), rng_for(0, "template"))
        drawn = rng.standard_normal((_KINDS, self.frames(template), template.dims), dtype=np.float32)
        features = torch.from_numpy(drawn).unbind()
        pcm: dict[str, PCM] = {}
        utterances, known = [], {}
        for speaker in range(self.clients + config.partition.unseen_speakers):
            for take in range(self.utterances):
                name, kind = f"speaker-{speaker:05d}/{take:04d}", (speaker * 31 + take) % _KINDS
                pcm[name], known[name] = noise[kind], features[kind]
                emotion = EMOTIONS[take % len(EMOTIONS)]
                utterances.append(Utterance(name, f"speaker-{speaker:05d}", emotion, noise[kind].copy))
        corpus = Corpus("synthetic", tuple(utterances), EMOTIONS)
        return corpus, RecordingCache(pcm, {template.feature_name: known})
