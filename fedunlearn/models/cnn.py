"""A small convolutional network over log-mel frames (about 140 k parameters), unaffected by padding.

It was chosen because it learns quickly in a federation (docs/cnn-recipe.md): no layer normalises over an
utterance's frames, which would remove its loudness and include padding, and the statistics of every layer
reach the classifier, as in the functionals model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.models.contract import MelModel, Standardise
from fedunlearn.models.frontend import HOP, N_MELS, LogMel, frame_mask

_CHANNELS = 96
_HIDDEN = 96
_KERNELS_AND_STRIDES = ((5, 2), (3, 2), (3, 1))
_RELU_GAIN = 1.7139588594436646
"""1 / standard deviation of ReLU(z), z ~ N(0, 1): keeps activations at unit scale (Brock et al. 2021)."""
_EPS = 1e-4
_SPECTRUM_REMOVED = 0.5


class Convolution(nn.Module):
    """Convolution over time with standardised weights, then ReLU (Brock et al. 2021, arXiv 2101.08692).

    Every output channel's weights have mean 0 and variance 1 / fan-in, times a trained gain. That keeps
    the scale of activations without statistics of the data: nothing that differs between devices or
    depends on padding.

    Args:
        channels_in: input channels.
        channels: output channels.
        kernel: width in frames, odd.
        stride: step in frames; n frames become ceil(n / stride).
    """

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels_in, kernel))
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            x: [B, C_in, T], zero beyond the true lengths.
            frames: [B] true lengths.

        Returns:
            The output [B, C, T'], zero beyond its true lengths, and these lengths [B].
        """
        fan_in = self.weight[0].numel()
        variance, mean = torch.var_mean(self.weight, (1, 2), keepdim=True, correction=0)
        weight = (self.weight - mean) * (variance * fan_in + _EPS).rsqrt() * self.gain
        x = F.relu(F.conv1d(x, weight, self.bias, self.stride, self.padding)) * _RELU_GAIN
        frames = (frames + self.stride - 1) // self.stride
        return x * frame_mask(frames, x.shape[2])[:, None, :], frames


def even_out_spectrum(x: Tensor, frames: Tensor) -> Tensor:
    """Subtract half of an utterance's mean spectrum, but not its level.

    What is constant in an utterance says more about speaker and place than about emotion. Subtracting all of
    it was worse than half (docs/cnn-recipe.md); the level, loudness, stays because anger is loud.

    Args:
        x: [B, T, M] standardised log-mel.
        frames: [B] true lengths, >= 1.

    Returns:
        [B, T, M], zero on padding frames.
    """
    real = frame_mask(frames, x.shape[1])[:, :, None]
    spectrum = (x * real).sum(1, keepdim=True) / frames.to(x.dtype)[:, None, None]
    colour = spectrum - spectrum.mean(2, keepdim=True)
    return (x - _SPECTRUM_REMOVED * colour) * real


def statistics(x: Tensor, frames: Tensor) -> Tensor:
    """Compute mean and standard deviation over unpadded frames (statistics pooling, Snyder et al. 2018).

    Args:
        x: [B, C, T].
        frames: [B] true lengths, >= 1.

    Returns:
        [B, 2 * C]
    """
    real = frame_mask(frames, x.shape[2])[:, None, :]
    count = frames.to(x.dtype)[:, None]
    mean = (x * real).sum(2) / count
    variance = ((x - mean[:, :, None]) * real).square().sum(2) / count
    return torch.cat([mean, (variance + _EPS).sqrt()], dim=1)


class CnnModel(MelModel):
    """A CNN: log-mel [T, 40], standardise, even out, 3 convolutions, statistics of all 4, 2 linear layers.

    Args:
        classes: number of emotions C, >= 2.
        dropout: probability in [0, 1), on the pooled statistics and on the hidden layer.
    """

    feature_name = "log-mel-40"
    dims = N_MELS
    frame_seconds = calibration_seconds = HOP / SAMPLE_RATE

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.classes = classes
        self.frontend = LogMel()
        self.norm = Standardise(self.dims)
        widths = [self.dims] + [_CHANNELS] * len(_KERNELS_AND_STRIDES)
        self.layers = nn.ModuleList(
            Convolution(width, _CHANNELS, kernel, stride)
            for width, (kernel, stride) in zip(widths, _KERNELS_AND_STRIDES, strict=False)
        )
        self.pooled = nn.ModuleList(nn.LayerNorm(2 * width) for width in widths)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * sum(widths), _HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(_HIDDEN, classes),
        )

    def log_mel(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-mel frames, see ``MelModel.log_mel``."""
        mel: tuple[Tensor, Tensor] = self.frontend(waveform, samples)
        return mel

    def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mel frames unchanged: they are the features."""
        return mel, frames

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        """Compute logits [B, C] from log-mel frames [B, T, 40], see ``EmotionModel.classify``."""
        x = even_out_spectrum(self.norm(features), frames).transpose(1, 2)
        vectors = [self.pooled[0](statistics(x, frames))]
        for layer, norm in zip(self.layers, self.pooled[1:], strict=True):
            x, frames = layer(x, frames)
            vectors.append(norm(statistics(x, frames)))
        logits: Tensor = self.head(torch.cat(vectors, dim=1))
        return logits
