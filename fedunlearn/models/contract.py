"""What every emotion model offers, so that training, unlearning and attacks need not know which it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.models.frontend import frame_mask


class Standardise(nn.Module):
    """(x - mean) / std with constants that are part of the model's state.

    The constants are learned federatedly in one calibration round before training (each client sends its
    local mean and mean square, once; the server averages and rounds coarsely), never by pooling audio. They
    travel and are checkpointed like any other weight; gradients do not change them, and neither do deletions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("std", torch.ones(dims))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]"""
        return (x - self.mean) / self.std


def constants_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The normalisation constants among a model's weights."""
    return {name: value for name, value in weights.items() if name.startswith("norm.")}


class EmotionModel(nn.Module, ABC):
    """A speech emotion recogniser in two parts: ``derive`` (fixed) and ``classify`` (trained).

    ``derive`` turns waveforms into the features that a vault may keep beside the audio; it has no trained
    parameters. ``classify`` turns features into logits. Both are differentiable, so an attack can reach
    the features or go through to the waveform.
    """

    norm: Standardise
    feature_name: str
    """Names the derived features; models with equal names share them."""
    dims: int
    """D, the width of one feature frame."""
    classes: int
    """C, the number of emotions."""
    frame_seconds: float | None = None
    """s, from one feature frame to the next; None where an utterance is one frame."""
    calibration_seconds: float | None = None
    """s, from one row of ``calibration_rows`` to the next; None where an utterance gives one row."""
    device: str = "cpu"
    """Where its heavy part computes; what goes in and out is on the CPU wherever that is."""
    stores_features: bool = True
    """Whether a vault should keep the features: False where they are as quickly made as read."""

    @property
    def feature_mean(self) -> Tensor:
        """What a feature frame is like on average, [D]."""
        return self.norm.mean

    def unit_at(self, features: Tensor) -> Tensor:
        """What noise or an attack of size 1 adds to features [B, T, D]: >= 0, broadcast against them."""
        return self.norm.std

    def calibration_rows(self, features: Tensor, frames: Tensor) -> Tensor:
        """What ``norm`` is calibrated on: features [B, T, D] with true lengths [B] -> rows [m, D'].

        D' is the width of ``norm``. Whoever is asked must get the same rows, whatever the weights have come
        to be; here they are the real frames.
        """
        return features[frame_mask(frames, features.shape[1])]

    def noise(self, count: int, frames: int, generator: torch.Generator) -> Tensor:
        """Random features [count, frames, D], distributed as ``norm`` says that those of speech are."""
        drawn = torch.randn(count, frames, self.dims, generator=generator)
        return self.feature_mean + self.norm.std * drawn

    def answers_to(self, noise: Tensor) -> Tensor:
        """What the model says of some of its ``noise``: logits [n, C]."""
        return self.classify(noise, torch.full((len(noise),), noise.shape[1], dtype=torch.int64))

    def smoothable(self) -> Iterator[tuple[Tensor, Tensor | float]]:
        """The trained matrices [outputs, inputs] whose long tail holds what was memorised.

        Each comes with the values that stand for having learned nothing: it is what was added to them that
        has leading directions and a tail.
        """
        return ((p, 0.0) for p in self.parameters() if p.requires_grad and p.dim() == 2)

    def pieces(self, lengths: Tensor) -> list[Tensor]:
        """Positions of utterances, of true lengths [B], that had better be computed together: here all."""
        return [torch.arange(len(lengths))]

    @property
    def first_layer(self) -> str:
        """Name, in the state dict, of the first trained layer's weights: a matrix or kernels, not a bias.

        Models make their layers in the order in which features pass through them.
        """
        trained = ((name, p) for name, p in self.named_parameters() if p.requires_grad)
        return next(name for name, p in trained if p.dim() > 1 and len(p) > 1)

    def about(self) -> dict[str, Any]:
        """What the results say of the recogniser itself.

        Returns:
            weights: what training starts from, "from nothing", "pre-trained" or "random"; parameters: all of
            them; travels: values in a message. An encoder says more.
        """
        travels = sum(value.numel() for value in self.state_dict().values())
        parameters = sum(p.numel() for p in self.parameters())
        return {"weights": "from nothing", "parameters": parameters, "travels": travels}

    @abstractmethod
    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms [B, S] with true lengths [B] -> (features [B, T, D], frames [B])."""

    @abstractmethod
    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        """Features [B, T, D] with true lengths [B] -> logits [B, C]."""

    def features_of(self, pcm: PCM) -> Tensor:
        """Derived features [T, D] of one recording, without gradients.

        One utterance at a time, so without padding: a device and the judge get the same bits, whatever
        else they hold.
        """
        waveform, samples = pad([to_float(pcm)])
        with torch.no_grad():
            features, frames = self.derive(waveform, samples)
        return features[0, : int(frames[0])]

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Waveforms [B, S] with true lengths [B] -> logits [B, C]."""
        return self.classify(*self.derive(waveform, samples))


class MelModel(EmotionModel):
    """A recogniser whose ``derive`` goes through log-mel frames, so that an attack can stop there."""

    @abstractmethod
    def log_mel(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel frames that the features are made of, and no others.

        Args:
            waveform: [B, S] in [-1, 1], zero beyond the true lengths.
            samples: [B] true lengths in samples.

        Returns:
            (log-mel [B, T, M] in nats, zero on padding frames; frames [B], >= 1)
        """

    @abstractmethod
    def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What ``log_mel`` gave -> (features [B, T', D], frames [B])."""

    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms [B, S] with true lengths [B] -> (features [B, T, D], frames [B])."""
        return self.from_mel(*self.log_mel(waveform, samples))


def trained_names(model: EmotionModel) -> list[str]:
    """Names of a model's trained tensors, in its order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
