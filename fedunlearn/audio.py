"""Decoding: any sound file that libsndfile reads is converted to 16 kHz mono 16-bit PCM.

Everything downstream (vaults, features, the judge) starts from these integers, so that a device and the
experimenter derive identical features from the same utterance.
"""

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

if TYPE_CHECKING:  # a process that generates speech does without, and starts sooner
    import torch
    import torchaudio

SAMPLE_RATE = 16_000
"""Hz. Every waveform inside fedunlearn has this rate."""

PCM = npt.NDArray[np.int16]
FULL_SCALE = 32_768.0

BLOCK = 1 << 20  # frames; a wrong length in a header must not decide how much memory is allocated
RATES = range(4_000, 384_001)  # Hz; beyond, the header is wrong, and resampling would fill the memory
LARGEST_FILTER = 2_000_000  # taps x phases of the resampling filter; every usual rate stays below 500,000
SLOPPY = 64  # bytes; some programs count their own header as sound, and 2 ms do not matter
POINTER = b"version https://git-lfs"
INTEGER_SCALE = 4.0  # 12 dB above full scale: no mixing console and no codec reaches that
CLIPPED, MUTE = "clipped at full scale", "with silent channels, averaged in"
LOW_RATE = f"of a lower rate than {SAMPLE_RATE} Hz (nothing is heard above half of it)"
COARSE = "of 8-bit samples"
ODDITIES = (CLIPPED, MUTE, LOW_RATE, COARSE)
"""The possible keys of ``Recording.oddities``."""
PLACEHOLDER = 0x7FFF_0000  # a data chunk "this long" was written to a pipe, its length not known yet


class BadAudio(Exception):
    """A sound file cannot be used; the message names the file and the reason.

    Args:
        path: the file.
        reason: what is wrong, in words that follow the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        # A name that is not UTF-8 must not break the log that reports it.
        name = os.fsencode(path).decode("utf-8", "replace")
        super().__init__(f"{name}: {reason}")


def quantise(waveform: npt.NDArray[np.floating]) -> PCM:
    """Convert a float waveform [S] in [-1, 1] to 16-bit PCM [S].

    Args:
        waveform: samples; values outside [-1, 1] are clipped.
    """
    return np.clip(np.rint(np.asarray(waveform, np.float64) * FULL_SCALE), -32_768, 32_767).astype(np.int16)


@dataclass(frozen=True)
class Recording:
    """A decoded sound file.

    Attributes:
        pcm: int16 [S], mono, 16 kHz.
        oddities: what the user should know about a recording that can be used all the same, with the figures:
            {"clipped at full scale": "120 of 48000 samples"}.
    """

    pcm: PCM
    oddities: Mapping[str, str] = field(default_factory=dict)


class _Sums:
    """Statistics of a file's channels, gathered block by block.

    Args:
        channels: number of channels.

    Attributes:
        peak: [channels], largest absolute value.
    """

    def __init__(self, channels: int) -> None:
        self.peak = np.zeros(channels)
        self._total, self._squares = np.zeros(channels), np.zeros(channels)
        self._frames = self._loud = 0
        self._flat = False
        self._last = np.zeros((2, channels), bool)

    def add(self, block: npt.NDArray[np.float64]) -> None:
        """Add the next frames [S, channels]."""
        size = np.abs(block)
        self.peak = np.maximum(self.peak, size.max(axis=0))
        self._frames += len(block)
        if len(self.peak) > 1:
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # samples that are not finite are refused later
                self._total += block.sum(axis=0)
                self._squares += np.square(block).sum(axis=0)
        full = size >= 1 - 1 / FULL_SCALE
        if full.any() or self._last.any():
            self._loud += int(full.any(axis=1).sum())
            full = np.concatenate([self._last, full])
            self._flat |= bool((full[2:] & full[1:-1] & full[:-2]).any())
            self._last = full[-2:]

    def channels_cancel(self, mono: npt.NDArray[np.float64]) -> bool:
        """Tell whether averaging the channels has destroyed the sound, as when one of two is inverted.

        The mean [S] of n independent channels of equal power has 1/n of a channel's power; the channels
        cancel if less than a twentieth of that is left. Constant offsets do not count.

        Args:
            mono: [S], the mean of the channels.
        """
        channels = len(self.peak)
        if channels == 1 or self.peak.max() < 1e-3:
            return False
        power = float((self._squares / self._frames - np.square(self._total / self._frames)).mean())
        return power > 1e-8 and channels * float(mono.var()) < power / 20

    def oddities(self, coding: str, rate: int) -> dict[str, str]:
        """Return what ``Recording.oddities`` contains.

        Args:
            coding: libsndfile's name of the file's subtype.
            rate: sampling rate in Hz.
        """
        found = {}
        peak = float(self.peak.max())
        # A single sample at full scale is where a recording was normalised to; a flat top was cut off.
        beyond = coding in ("FLOAT", "DOUBLE") and peak > 1 + 1 / FULL_SCALE
        if self._flat or beyond:
            share = f"{self._loud} of {self._frames} samples, {100 * self._loud / self._frames:.3g} %"
            found[CLIPPED] = share + (f", peak {peak:.3g}" if peak > 1 else "")
        quiet = np.flatnonzero(self.peak < 1e-3)
        if len(quiet) and peak >= 1e-3:
            found[MUTE] = f"{len(quiet)} of {len(self.peak)}"
        if rate < SAMPLE_RATE:
            found[LOW_RATE] = f"{rate} Hz"
        if coding in ("PCM_U8", "PCM_S8"):
            found[COARSE] = "8 bits"
        return found


def to_float(pcm: PCM) -> npt.NDArray[np.float32]:
    """Convert 16-bit PCM [S] to a float32 waveform [S] in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)


def decode(path: Path) -> PCM:
    """Read a sound file as 16 kHz mono PCM, int16 [S].

    Args:
        path: the file.

    Raises:
        BadAudio: the file cannot be used, see ``examine``.
    """
    return examine(path).pcm


def examine(path: Path) -> Recording:
    """Read a sound file as 16 kHz mono PCM, and report what is odd about it.

    Channels are averaged; other rates are resampled with torchaudio's windowed-sinc filter. 16 kHz mono
    16-bit files are returned unchanged, sample for sample.

    Args:
        path: the file.

    Raises:
        BadAudio: the file is unreadable, truncated (WAV, AIFF, FLAC, MP3; other formats do not always show
            it) or empty, has an implausible rate, samples that are not finite or of integer scale (a peak
            above 4 times full scale), or channels that cancel each other.
    """
    if not path.is_file():  # reading a pipe could block forever
        raise BadAudio(path, "is not a file" if path.exists() else "no such file")
    try:
        source = _checked(path)
        with soundfile.SoundFile(source) as file:
            rate, promised, coding = file.samplerate, file.frames, file.subtype
            mono, sums = _mono(file)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:
        # A TypeError: samples without a header (.raw), whose rate and width are unknown.
        raise BadAudio(path, f"cannot be read ({error}{_advice(path)})") from error
    if len(mono) == 0:
        raise BadAudio(path, "holds no samples")
    if len(mono) < promised:
        raise BadAudio(path, f"is truncated: the header promises {promised} samples, {len(mono)} are there")
    if not np.isfinite(mono).all():
        raise BadAudio(path, "has samples that are not finite")
    if sums.peak.max() > INTEGER_SCALE:
        raise BadAudio(
            path,
            f"has samples up to {sums.peak.max():.6g}, where full scale is 1 (float samples of integer "
            f"scale?): divide them by {_scale(sums.peak.max())} and save the file again",
        )
    if sums.channels_cancel(mono):
        raise BadAudio(path, "has channels that cancel each other when they are averaged: keep one of them")
    oddities = sums.oddities(coding, rate)
    if rate != SAMPLE_RATE:
        shared = math.gcd(rate, SAMPLE_RATE)
        if rate not in RATES or (rate // shared) * (SAMPLE_RATE // shared) > LARGEST_FILTER:
            raise BadAudio(
                path, f"has a rate of {rate} Hz, which is not usual: convert it to {SAMPLE_RATE} Hz"
            )
        import torch

        mono = _resampler(rate)(torch.from_numpy(mono.astype(np.float32))).numpy()
    return Recording(quantise(mono), oddities)


def pad(waveforms: Sequence[npt.NDArray[np.float32]]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Stack waveforms of different lengths.

    Args:
        waveforms: B waveforms.

    Returns:
        The waveforms [B, S] float32, zero beyond each true length, and the lengths [B] int64 in samples.
    """
    import torch

    lengths = torch.tensor([len(w) for w in waveforms], dtype=torch.int64)
    batch = torch.zeros(len(waveforms), int(lengths.max()) if len(waveforms) else 0)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
    return batch, lengths


@lru_cache(maxsize=8)
def _resampler(rate: int) -> "torchaudio.transforms.Resample":
    import torchaudio.transforms

    # The default filter (width 6, rolloff 0.99) folds 10 kHz back to 6 kHz at -45 dB; this one at -80 dB.
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE, lowpass_filter_width=24, rolloff=0.96)


def _mono(file: soundfile.SoundFile) -> tuple[npt.NDArray[np.float64], _Sums]:
    """Return all frames with channels averaged, [S], and the statistics of the channels."""
    blocks: list[npt.NDArray[np.float64]] = []
    sums = _Sums(file.channels)
    while len(block := file.read(BLOCK, dtype="float64", always_2d=True)):
        sums.add(block)
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.empty(0), sums


def _scale(peak: float) -> int:
    """Return full scale of the narrowest integer type that holds such a sample."""
    return next((1 << bits for bits in (7, 15, 23) if peak <= 1 << bits), 1 << 31)


def _advice(path: Path) -> str:
    if path.stat().st_size == 0:
        return "; it has 0 bytes"
    return "" if path.suffix.lower() in (".wav", ".flac") else "; convert it to WAV or FLAC"


class _Chunk(NamedTuple):
    """Where a file holds its samples.

    Attributes:
        start: position of the first byte.
        claimed: length in bytes according to the header.
        present: length in bytes that the file has.
        unfinished: whether the length was never filled in, as when a program writes to a pipe.
        continues: whether further bytes follow that belong to no part of the file.
    """

    start: int
    claimed: int
    present: int
    unfinished: bool
    continues: bool


def _checked(path: Path) -> str | BytesIO:
    """Return what soundfile shall open. libsndfile silently shortens a truncated WAV or AIFF file."""
    with path.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise BadAudio(
                path, "is a Git LFS pointer, not the recording: run git lfs pull where it came from"
            )
        chunk = _samples(stream)
        if chunk is None:
            return str(path)
        if chunk.unfinished:
            # libsndfile would find it empty. With the largest length it reads to the end of the file.
            stream.seek(0)
            whole = bytearray(stream.read())
            whole[chunk.start - 4 : chunk.start] = b"\xff" * 4
            if whole.startswith(b"RF64"):  # the length is in a chunk that ordinary files do not have
                whole[:4] = b"RIFF"
            return BytesIO(whole)
    if chunk.claimed - chunk.present > SLOPPY:
        raise BadAudio(
            path,
            f"is truncated: the header promises {chunk.claimed} bytes of sound, {chunk.present} are there",
        )
    if chunk.continues:
        raise BadAudio(
            path,
            f"holds more than its header tells: {chunk.claimed} bytes of sound, then "
            f"{chunk.present - chunk.claimed} bytes that belong to nothing (a length that was never "
            "completed, or two files in one); save it again",
        )
    return str(path)


def _samples(stream: BinaryIO) -> _Chunk | None:
    """Find the sample chunk of a RIFF, RIFX, RF64 or AIFF file; None = another format, or no such chunk."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    form, _, kind = struct.unpack("4s4s4s", stream.read(12).ljust(12, b"\0"))
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
            open_ended = size >= PLACEHOLDER
            if form == b"RF64" and long_size is not None and size == 0xFFFF_FFFF:
                size, open_ended = long_size, long_size >= 1 << 63
            if open_ended:
                return _Chunk(start, end - start, end - start, unfinished=form == b"RF64", continues=False)
            header_of_sound = 8 if wanted == b"SSND" else 0
            continues = end - start > size + SLOPPY and not _only_chunks(stream, start + size, order)
            unfinished = continues and size <= header_of_sound
            return _Chunk(start, size, end - start, unfinished, continues)
        if name == b"ds64" and size >= 16:
            (long_size,) = struct.unpack("<8xQ", stream.read(16))
        stream.seek(start + size + size % 2)  # chunks start at even positions
    return None


def _only_chunks(stream: BinaryIO, start: int, order: str) -> bool:
    """Tell whether only chunks and padding fill the rest of the file. Moves the stream's position."""
    stream.seek(start)
    rest = stream.read()
    if not rest.strip(b"\0") or rest.startswith((b"ID3", b"TAG", b"APETAGEX")):
        return True
    # Some programs omit the byte that aligns a chunk to an even position.
    return any(_are_chunks(rest[skipped:], order) for skipped in range(1 + start % 2))


def _are_chunks(rest: bytes, order: str) -> bool:
    at = 0
    while len(rest) - at > SLOPPY and rest[at:].strip(b"\0"):
        name, size = struct.unpack_from(f"{order}4sI", rest, at)
        if not all(0x20 <= byte < 0x7F for byte in name) or name in (b"RIFF", b"FORM", b"RIFX", b"RF64"):
            return False
        at += 8 + size + size % 2
    return at <= len(rest) + SLOPPY


def encode_mp3(pcm: PCM) -> bytes:
    """Encode a recording as MP3 of about 24 kbit/s, up to 7.3 kHz, which every browser plays.

    Args:
        pcm: int16 [S], 16 kHz.

    Raises:
        BadAudio: this libsndfile has no MP3 encoder (it has since 1.1).
    """
    file = BytesIO()
    try:
        soundfile.write(file, pcm, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9)
    except soundfile.LibsndfileError as error:
        raise BadAudio(Path("recording"), f"cannot be encoded as MP3 ({error}); update soundfile") from error
    return file.getvalue()
