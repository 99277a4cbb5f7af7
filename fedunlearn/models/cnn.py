"""A small convolutional network over log-mel frames (about 150 k parameters), blind to padding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.models.contract import EmotionModel, Standardise
from fedunlearn.models.frontend import HOP, N_MELS, LogMel, frame_mask

_EPS = 1e-5


class MaskedGroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) whose statistics leave padding frames out.

    Unlike batch normalisation it keeps no running statistics, which would differ between the devices of a
    federation and tell of their data.

    Args:
        groups: must divide channels.
        channels: of the input.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, C, T, M], mask [B, 1, T, 1] of ones and zeros -> [B, C, T, M], zero on padding frames."""
        batch, channels, _, bands = x.shape
        grouped = (x * mask).view(batch, self.groups, -1)
        count = mask.sum((1, 2, 3)).view(batch, 1, 1) * (channels // self.groups * bands)
        mean = grouped.sum(2, keepdim=True) / count
        centred = ((grouped - mean).view(x.shape) * mask).view(grouped.shape)
        scale = (centred.square().sum(2, keepdim=True) / count + _EPS).rsqrt()
        normed = (centred * scale).view(x.shape)
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]) * mask


class ConvBlock(nn.Module):
    """Convolution, masked group normalisation, ReLU. Frames and bands are thinned out by the stride."""

    def __init__(
        self, channels_in: int, channels: int, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.norm = MaskedGroupNorm(8, channels)
        self.stride = stride[0]

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, T, M], zero beyond the true lengths frames [B] -> the same of the next layer."""
        x = self.conv(x)
        frames = (frames + self.stride - 1) // self.stride
        mask = frame_mask(frames, x.shape[2])[:, None, :, None].to(x.dtype)
        return F.relu(self.norm(x, mask)), frames


class AttentivePooling(nn.Module):
    """Attentive statistics pooling (Okabe et al. 2018): weighted mean and standard deviation over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """x [B, T, H] with true lengths [B] -> [B, 2 * H]"""
        real = frame_mask(frames, x.shape[1])[:, :, None]
        weight = self.score(x).masked_fill(~real, -torch.inf).softmax(1)
        mean = (weight * x).sum(1)
        variance = (weight * (x - mean[:, None, :]).square()).sum(1)
        return torch.cat([mean, (variance + _EPS).sqrt()], dim=1)


class CnnModel(EmotionModel):
    """Log-mel [T, 40] -> standardise -> 4 convolutions -> attentive pooling -> dropout -> linear -> logits.

    Args:
        classes: number of emotions C, >= 2.
        dropout: probability in [0, 1), on the pooled vector.
    """

    feature_name = "log-mel-40"
    dims = N_MELS
    frame_seconds = HOP / SAMPLE_RATE

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.classes = classes
        self.frontend = LogMel()
        self.norm = Standardise(self.dims)
        self.blocks = nn.ModuleList(
            [
                ConvBlock(1, 24, (5, 5), (2, 2)),
                ConvBlock(24, 48, (3, 3), (2, 2)),
                ConvBlock(48, 64, (3, 3), (1, 2)),
                ConvBlock(64, 120, (3, 5), (1, 5)),
            ]
        )
        self.pool = AttentivePooling(120)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(240, classes)

    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms [B, S] with true lengths [B] -> (log-mel [B, T, 40], frames [B])."""
        mel: tuple[Tensor, Tensor] = self.frontend(waveform, samples)
        return mel

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        """Log-mel [B, T, 40] with true lengths [B] -> logits [B, C]."""
        x = (self.norm(features) * frame_mask(frames, features.shape[1])[:, :, None])[:, None]
        for block in self.blocks:
            x, frames = block(x, frames)
        pooled = self.pool(x.mean(3).transpose(1, 2), frames)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits
