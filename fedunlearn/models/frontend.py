"""The log-mel frontend: mel-band energies of a waveform, differentiable, unaffected by padding."""

import torch
import torchaudio.functional
from torch import Tensor, nn

from fedunlearn.audio import SAMPLE_RATE

N_MELS = 40
WINDOW = 400
"""Window in samples: 25 ms."""
HOP = 320
"""Step in samples: 20 ms."""
_FFT = 512
_FLOOR = 1e-6


def frames_of(samples: Tensor) -> Tensor:
    """Compute the number of log-mel frames [B] of waveforms with ``samples`` [B] samples."""
    return samples // HOP + 1


def frame_mask(frames: Tensor, width: int) -> Tensor:
    """Return a mask, bool [B, width], that is True on unpadded frames.

    Args:
        frames: [B] true lengths.
        width: length of the padded batch.
    """
    return torch.arange(width, device=frames.device)[None, :] < frames[:, None]


class LogMel(nn.Module):
    """40 log-mel bands (20 Hz to 8 kHz), 25 ms Hann windows every 20 ms.

    The filterbank is neither a parameter nor a persistent buffer, so it is never sent. Windows that reach
    past either end of an utterance see zeros, so padding with zeros changes no frame.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = torchaudio.functional.melscale_fbanks(
            _FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, N_MELS, SAMPLE_RATE, norm=None, mel_scale="htk"
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log energies of the mel bands.

        Args:
            waveform: [B, S] in [-1, 1], zero beyond the true lengths.
            samples: [B] true lengths in samples.

        Returns:
            Log-mel [B, T, 40], zero on padding frames, and true lengths in frames [B].
        """
        spectrum = torch.stft(
            waveform, _FFT, HOP, WINDOW, self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = (power.transpose(1, 2) @ self.filters + _FLOOR).log()
        frames = frames_of(samples)
        return mel * frame_mask(frames, mel.shape[1])[:, :, None], frames
