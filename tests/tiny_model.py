"""A recogniser small enough to work out by hand, and forget sets to go with it."""

import torch
from torch import Tensor

from fedunlearn.examples import ForgetSet, pad_features
from fedunlearn.models.contract import MelModel, Standardise
from fedunlearn.models.frontend import frame_mask


class TinyModel(MelModel):
    """logits = W mean_t(standardised x_t) + b; one frame is ``dims`` samples of the waveform, as they are.

    Its "log-mel" frames are these frames too.
    """

    feature_name = "tiny"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.classes, self.dims = weight.shape
        self.norm = Standardise(self.dims)
        self.weight = torch.nn.Parameter(weight.clone())
        self.bias = torch.nn.Parameter(torch.zeros(self.classes) if bias is None else bias.clone())

    def log_mel(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        return waveform.reshape(len(waveform), -1, self.dims), samples // self.dims

    def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return mel, frames

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        mask = frame_mask(frames, features.shape[1])[:, :, None]
        mean = (self.norm(features) * mask).sum(1) / frames[:, None]
        return mean @ self.weight.T + self.bias


def tiny(classes: int = 4, dims: int = 5, seed: int = 0) -> TinyModel:
    generator = torch.Generator().manual_seed(seed)
    model = TinyModel(torch.randn(classes, dims, generator=generator))
    model.norm.mean.copy_(0.1 * torch.randn(dims, generator=generator))
    model.norm.std.copy_(0.5 + torch.rand(dims, generator=generator))
    return model


def forget_set(features: list[Tensor], labels: list[int], classes: int = 4) -> ForgetSet:
    """From features [T_i, D] in [-1, 1]; the waveform is these, sample by sample, and tickets are noise."""
    examples = pad_features(features, labels)
    samples = torch.tensor([f.numel() for f in features], dtype=torch.int64)
    tickets = 0.1 * torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(2))
    return ForgetSet(examples, examples.features.flatten(1), samples, tickets=tickets)


def speechless(count: int, classes: int = 4, dims: int = 5, frames: int = 3, seed: int = 1) -> ForgetSet:
    """Noise of 1 ... ``frames`` frames in [-1, 1], labelled in turn."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [1 + i % frames for i in range(count)]
    features = [2 * torch.rand(length, dims, generator=generator) - 1 for length in lengths]
    return forget_set(features, [i % classes for i in range(count)], classes)


def separable(count: int = 40, classes: int = 4) -> tuple[TinyModel, ForgetSet]:
    """A model that is right on all of a forget set: class c lies around the c-th unit vector."""
    generator = torch.Generator().manual_seed(2)
    labels = [i % classes for i in range(count)]
    centres = torch.eye(classes)
    noise = 0.1 * (2 * torch.rand(count, 2, classes, generator=generator) - 1)
    features = [0.8 * centres[label] + noise[i] for i, label in enumerate(labels)]
    return TinyModel(4.0 * torch.eye(classes)), forget_set(features, labels)
