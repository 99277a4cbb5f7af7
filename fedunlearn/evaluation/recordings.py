"""Decoded recordings, with features and digests made from them alone; several runs may share them."""

import hashlib
from collections.abc import Callable, Mapping

from torch import Tensor

from fedunlearn.audio import PCM
from fedunlearn.models.contract import EmotionModel


class RecordingCache:
    """Recordings by id, as the experimenter has them. Features and digests are made once, in memory.

    Args:
        pcm: id -> int16 [S]; not to be changed afterwards.
        features: feature name -> id -> [T, D], where they are known already.
    """

    def __init__(
        self, pcm: Mapping[str, PCM], features: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> None:
        self.pcm = pcm
        self._features = dict(features or {})
        self._digests: dict[str, str] = {}

    def features(
        self, model: EmotionModel, advance: Callable[[], None] | None = None
    ) -> Mapping[str, Tensor]:
        """id -> derived features [T, D]: the same bits as ``model.features_of`` gives on a device.

        Args:
            advance: called once a recording, where they are not known yet.
        """
        if model.feature_name not in self._features:
            made = {}
            for utterance, pcm in self.pcm.items():
                made[utterance] = model.features_of(pcm)
                if advance:
                    advance()
            self._features[model.feature_name] = made
        return self._features[model.feature_name]

    def digest(self, utterance: str) -> str:
        """SHA-256 of one recording's samples."""
        if utterance not in self._digests:
            self._digests[utterance] = hashlib.sha256(self.pcm[utterance].tobytes()).hexdigest()
        return self._digests[utterance]
