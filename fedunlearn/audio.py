"""Decoding: any sound file that libsndfile reads becomes 16 kHz mono 16-bit PCM.

Everything downstream (vaults, features, the judge) starts from these same integers, so that a device and
the experimenter derive identical features from the same utterance.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio.functional
import torchaudio.transforms

SAMPLE_RATE = 16_000
"""Hz. Every waveform inside fedunlearn has this rate."""

PCM = npt.NDArray[np.int16]
FULL_SCALE = 32_768.0


class BadAudio(Exception):  # noqa: N818
    """A sound file that cannot be used; ``str(error)`` names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


@lru_cache(maxsize=8)
def _resampler(rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE)


def quantise(waveform: npt.NDArray[np.floating]) -> PCM:
    """Float waveform [S] in [-1, 1] to 16-bit PCM [S]; values outside are clipped."""
    return np.clip(np.rint(np.asarray(waveform, np.float64) * FULL_SCALE), -32_768, 32_767).astype(np.int16)


def to_float(pcm: PCM) -> npt.NDArray[np.float32]:
    """16-bit PCM [S] to a float32 waveform [S] in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)


def decode(path: Path) -> PCM:
    """Read a sound file as 16 kHz mono PCM.

    Channels are averaged, other rates are resampled with torchaudio's windowed-sinc filter. 16 kHz mono
    16-bit files come back unchanged, sample for sample.

    Returns:
        int16 array [S].

    Raises:
        BadAudio: unreadable, truncated, empty, or with samples that are not finite.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, promised = file.samplerate, file.frames
            samples = file.read(dtype="float64", always_2d=True)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise BadAudio(path, f"cannot be read ({error})") from error
    if len(samples) == 0:
        raise BadAudio(path, "holds no samples")
    if len(samples) < promised:
        raise BadAudio(path, f"is truncated: the header promises {promised} samples, {len(samples)} are there")
    if not np.isfinite(samples).all():
        raise BadAudio(path, "has samples that are not finite")
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = _resampler(rate)(torch.from_numpy(mono.astype(np.float32))).numpy()
    return quantise(mono)


def pad(waveforms: Sequence[npt.NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack waveforms of different lengths.

    Returns:
        (waveforms [B, S] float32, zero beyond each true length; lengths [B] int64 in samples)
    """
    lengths = torch.tensor([len(w) for w in waveforms], dtype=torch.int64)
    batch = torch.zeros(len(waveforms), int(lengths.max()) if len(waveforms) else 0)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
    return batch, lengths
