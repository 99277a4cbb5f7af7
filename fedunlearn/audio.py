"""Decoding: any sound file that libsndfile reads becomes 16 kHz mono 16-bit PCM.

Everything downstream (vaults, features, the judge) starts from these same integers, so that a device and
the experimenter derive identical features from the same utterance.
"""

import math
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio.transforms

SAMPLE_RATE = 16_000
"""Hz. Every waveform inside fedunlearn has this rate."""

PCM = npt.NDArray[np.int16]
FULL_SCALE = 32_768.0

BLOCK = 1 << 20  # frames; a header that lies about its length must not decide how much memory is taken
RATES = range(4_000, 384_001)  # Hz; beyond, the header lies, and upsampling would fill the memory
LARGEST_FILTER = 2_000_000  # taps x phases of the resampling filter; every usual rate stays below 500,000
SLOPPY = 64  # bytes; some writers count their own header as sound, and 2 ms are no loss
POINTER = b"version https://git-lfs"
PLACEHOLDER = 0x7FFF_0000  # a data chunk "this long" was written to a pipe, its length not known yet


class BadAudio(Exception):
    """A sound file that cannot be used; ``str(error)`` names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        # A name that is not UTF-8 must not break the log that tells of it.
        name = os.fsencode(path).decode("utf-8", "replace")
        super().__init__(f"{name}: {reason}")


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
        BadAudio: unreadable, truncated (WAV, AIFF, FLAC, MP3; other formats do not always tell), empty, of a
            rate that is no recording's, or with samples that are not finite.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise BadAudio(path, "is not a file" if path.exists() else "no such file")
    try:
        source = _checked(path)
        with soundfile.SoundFile(source) as file:
            rate, promised, mono = file.samplerate, file.frames, _mono(file)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise BadAudio(path, f"cannot be read ({error})") from error
    if len(mono) == 0:
        raise BadAudio(path, "holds no samples")
    if len(mono) < promised:
        raise BadAudio(path, f"is truncated: the header promises {promised} samples, {len(mono)} are there")
    if not np.isfinite(mono).all():
        raise BadAudio(path, "has samples that are not finite")
    if rate != SAMPLE_RATE:
        shared = math.gcd(rate, SAMPLE_RATE)
        if rate not in RATES or (rate // shared) * (SAMPLE_RATE // shared) > LARGEST_FILTER:
            raise BadAudio(
                path, f"has a rate of {rate} Hz, which is not usual: convert it to {SAMPLE_RATE} Hz"
            )
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


@lru_cache(maxsize=8)
def _resampler(rate: int) -> torchaudio.transforms.Resample:
    # The default filter (width 6, rolloff 0.99) folds 10 kHz back to 6 kHz at -45 dB; this one at -80 dB.
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE, lowpass_filter_width=24, rolloff=0.96)


def _mono(file: soundfile.SoundFile) -> npt.NDArray[np.float64]:
    """All frames, channels averaged: [S]."""
    blocks: list[npt.NDArray[np.float64]] = []
    while len(block := file.read(BLOCK, dtype="float64", always_2d=True)):
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.empty(0)


class _Chunk(NamedTuple):
    """Where a file holds its samples.

    The first byte; the length in bytes as claimed and as the file has it; whether the file's own length was
    never filled in, as happens when a program writes to a pipe.
    """

    start: int
    claimed: int
    present: int
    unfinished: bool


def _checked(path: Path) -> str | BytesIO:
    """What soundfile shall open. libsndfile silently shortens a WAV or AIFF file that is cut off."""
    with path.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise BadAudio(
                path, "is a Git LFS pointer, not the recording: run git lfs pull where it came from"
            )
        chunk = _samples(stream)
        if chunk is None:
            return str(path)
        if chunk.claimed == 0 and chunk.present > 0 and chunk.unfinished:
            # libsndfile would find it empty. Told the greatest length, it reads to the end of the file.
            stream.seek(0)
            whole = bytearray(stream.read())
            whole[chunk.start - 4 : chunk.start] = b"\xff" * 4
            return BytesIO(whole)
    if chunk.claimed - chunk.present > SLOPPY:
        raise BadAudio(
            path,
            f"is truncated: the header promises {chunk.claimed} bytes of sound, {chunk.present} are there",
        )
    return str(path)


def _samples(stream: BinaryIO) -> _Chunk | None:
    """The sample chunk of a RIFF, RIFX, RF64 or AIFF file; None = another format, or no such chunk."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    form, length, kind = struct.unpack("4s4s4s", stream.read(12).ljust(12, b"\0"))
    if form in (b"RIFF", b"RIFX", b"RF64") and kind == b"WAVE":
        order, wanted = ">" if form == b"RIFX" else "<", b"data"
    elif form == b"FORM" and kind in (b"AIFF", b"AIFC"):
        order, wanted = ">", b"SSND"
    else:
        return None
    long_size: int | None = None
    while len(header := stream.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", header)
        start = stream.tell()
        if name == wanted:
            if form == b"RF64" and long_size is not None and size == 0xFFFF_FFFF:
                size = long_size
            elif size >= PLACEHOLDER:
                size = end - start
            unfinished = 8 + struct.unpack(f"{order}I", length)[0] <= start
            return _Chunk(start, size, end - start, unfinished)
        if name == b"ds64" and size >= 16:
            (long_size,) = struct.unpack("<8xQ", stream.read(16))
        stream.seek(start + size + size % 2)  # chunks begin at even places
    return None
