"""Random features that show, without any speech, whether a model still recognises every class."""

import copy

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import torch_rng_for

_PROBES = 4096
_LONG_PROBES = 1024
"""of models that read more than one frame, where each costs more"""
_PROBE_SECONDS = 2.0
"""frames of a probe, where the model reads more than one"""
_FEWEST = 0.02
"""share of probes that a class must have had before one can say that it lost them"""


class Probes:
    """Random features, distributed as a model's normalisation constants say that speech is.

    Args:
        model: any of the run's kind.
        before: the weights to compare with.
        seed: of the run.
    """

    def __init__(self, model: EmotionModel, before: StateDict, seed: int) -> None:
        self._model = model = copy.deepcopy(model).eval()
        model.load_state_dict(before)
        frames = 1 if model.frame_seconds is None else round(_PROBE_SECONDS / model.frame_seconds)
        count = _PROBES if frames == 1 else _LONG_PROBES
        self._probes = model.noise(count, frames, torch_rng_for(seed, "guard", "probes"))
        self._called = self._calls()

    def silenced(self, candidate: StateDict) -> float:
        """Compute the largest share of its probes that a class loses, of the classes that had enough.

        Args:
            candidate: weights of the candidate model.

        Returns:
            in [0, 1]
        """
        self._model.load_state_dict(candidate)
        judged = self._called >= _FEWEST * len(self._probes)
        if not bool(judged.any()):
            return 0.0
        left = self._calls()[judged] / self._called[judged]
        return max(0.0, 1.0 - float(left.min()))

    @torch.inference_mode()
    def _calls(self) -> Tensor:
        calls = self._model.answers_to(self._probes).argmax(1)
        return calls.bincount(minlength=self._model.classes).double()
