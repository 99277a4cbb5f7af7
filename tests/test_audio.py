import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from fedunlearn.audio import SAMPLE_RATE, BadAudio, decode, pad, quantise, to_float

Wave = npt.NDArray[np.float64]


def tone(hertz: float, seconds: float, rate: int, amplitude: float = 0.5) -> Wave:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def amplitude_at(pcm: npt.NDArray[np.int16], hertz: float) -> float:
    """Of the sine of that frequency in the middle half second, by projection (whole periods: no leakage)."""
    middle = to_float(pcm)[4000:12_000].astype(np.float64)
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / SAMPLE_RATE)
    return float(2 * abs(middle @ turns) / len(middle))


def set_sizes(path: Path, riff: int, data: int) -> None:
    """Write the two lengths of a WAV header anew."""
    raw = bytearray(path.read_bytes())
    raw[4:8] = struct.pack("<I", riff)
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", data)
    path.write_bytes(raw)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """One second of 16 kHz mono: 16,000 samples, 32,000 bytes of sound."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 1, SAMPLE_RATE), SAMPLE_RATE)
    return path


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_16_khz_mono_16_bit_comes_back_sample_for_sample(tmp_path: Path, ending: str) -> None:
    every_value = np.arange(-32_768, 32_768).astype(np.int16)
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, every_value, SAMPLE_RATE, subtype="PCM_16")
    pcm = decode(path)
    assert pcm.dtype == np.int16
    assert np.array_equal(pcm, every_value)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_a_tone_keeps_its_frequency_its_amplitude_and_its_length(tmp_path: Path, rate: int) -> None:
    """A 440 Hz sine of amplitude 0.5 lies in every passband: the mean of both channels is the same sine."""
    sine = tone(440, 1, rate)
    soundfile.write(tmp_path / "a.wav", np.stack([sine, sine], axis=1), rate, subtype="PCM_24")
    pcm = decode(tmp_path / "a.wav")
    assert len(pcm) == SAMPLE_RATE
    assert amplitude_at(pcm, 440) == pytest.approx(0.5, abs=1e-3)
    expected = tone(440, 1, SAMPLE_RATE)
    assert np.abs(to_float(pcm)[1000:-1000] - expected[1000:-1000]).max() < 1e-3


def test_what_16_khz_cannot_hold_is_filtered_out_not_folded_back(tmp_path: Path) -> None:
    """10 kHz lies above the new limit of 8 kHz; dropped samples would show it at 16 - 10 = 6 kHz."""
    soundfile.write(tmp_path / "a.wav", tone(10_000, 1, 48_000), 48_000)
    assert amplitude_at(decode(tmp_path / "a.wav"), 6_000) < 1e-4


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.full(100, 1000, np.int16), np.full(100, 3000, np.int16)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), SAMPLE_RATE)
    assert np.array_equal(decode(tmp_path / "a.wav"), np.full(100, 2000, np.int16))


def test_float_files_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([-2.0, 0.0, 2.0]), SAMPLE_RATE, subtype="FLOAT")
    assert decode(tmp_path / "a.wav").tolist() == [-32_768, 0, 32_767]


def test_longer_than_one_block_of_reading(tmp_path: Path) -> None:
    """70 s are 1,120,000 frames; a block has 1,048,576."""
    noise = np.random.default_rng(0).integers(-9000, 9000, 70 * SAMPLE_RATE).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", noise, SAMPLE_RATE)
    assert np.array_equal(decode(tmp_path / "a.flac"), noise)


def test_unicode_names(wav: Path) -> None:
    assert len(decode(wav.rename(wav.with_name("Würde ich – 日本.wav")))) == SAMPLE_RATE


def test_a_cut_wav_file_is_refused_though_libsndfile_shortens_it_in_silence(wav: Path) -> None:
    """The header of 44 bytes stays, and 20,000 - 44 = 19,956 bytes of sound."""
    wav.write_bytes(wav.read_bytes()[:20_000])
    with pytest.raises(BadAudio, match=r"a\.wav: is truncated: .* 32000 bytes of sound, 19956 are there"):
        decode(wav)


@pytest.mark.parametrize(("form", "subtype"), [("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16")])
def test_other_chunked_files_read_whole_and_refused_cut(tmp_path: Path, form: str, subtype: str) -> None:
    path = tmp_path / "a.snd"
    soundfile.write(path, tone(440, 1, SAMPLE_RATE), SAMPLE_RATE, format=form, subtype=subtype)
    assert len(decode(path)) == SAMPLE_RATE
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadAudio, match="is truncated"):
        decode(path)


@pytest.mark.parametrize("ending", ["flac", "mp3"])
def test_cut_compressed_files_are_refused(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE) * 0.1
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, noise, SAMPLE_RATE)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadAudio, match=r"is truncated|cannot be read"):
        decode(path)


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0, 0), (36, 0), (0xFFFF_FFFF, 0xFFFF_FFFF), (0x7FFF_FFFF, 0x7FFF_FFFF), (0, 32_000), (99, 32_000)],
)
def test_headers_of_programs_that_wrote_to_a_pipe_are_believed_to_the_end(
    wav: Path, riff: int, data: int
) -> None:
    whole = decode(wav)
    set_sizes(wav, riff, data)
    assert np.array_equal(decode(wav), whole)


def test_a_header_that_counts_itself_as_sound_is_forgiven(wav: Path) -> None:
    set_sizes(wav, 36 + 32_044, 32_044)
    assert len(decode(wav)) == SAMPLE_RATE


def test_an_empty_recording_followed_by_a_comment_is_empty(wav: Path) -> None:
    """The comment must not be taken for the missing sound."""
    soundfile.write(wav, np.zeros(0), SAMPLE_RATE)
    raw = wav.read_bytes() + b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(3996)
    wav.write_bytes(raw[:4] + struct.pack("<I", len(raw) - 8) + raw[8:])
    with pytest.raises(BadAudio, match="holds no samples"):
        decode(wav)


def test_a_chunk_before_the_sound_is_passed_over(wav: Path) -> None:
    """Of odd length, so that a padding byte follows; the originals of RAVDESS have such a chunk (FLLR)."""
    whole, raw = decode(wav), wav.read_bytes()
    at = raw.index(b"data")
    wav.write_bytes(raw[:at] + b"FLLR" + struct.pack("<I", 4001) + bytes(4002) + raw[at:])
    assert np.array_equal(decode(wav), whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"RIFF", "cannot be read"),
        (b"RIFF\x24\0\0\0WAVE", "cannot be read"),
        (b"<!DOCTYPE html><title>Sign in to download</title>", "cannot be read"),
        (bytes(5000), "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadAudio, match=reason):
        decode(tmp_path / "a.wav")


def test_no_file_and_no_ordinary_file(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match=r"b\.wav: no such file"):
        decode(tmp_path / "b.wav")
    with pytest.raises(BadAudio, match="is not a file"):
        decode(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, value, 0.0]), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(BadAudio, match="not finite"):
        decode(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [1, 400_000, 44_101])
def test_rates_that_would_fill_the_memory_are_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), rate)
    with pytest.raises(BadAudio, match=rf"a rate of {rate} Hz"):
        decode(tmp_path / "a.wav")


def test_a_name_that_is_not_utf_8_can_be_printed() -> None:
    assert str(BadAudio(Path("a\udcff.wav"), "is bad")).encode() == "a\ufffd.wav: is bad".encode()


def test_quantising_and_back() -> None:
    assert quantise(np.array([-1.0, 0.5, 1.0, 3 / 65_536])).tolist() == [-32_768, 16_384, 32_767, 2]
    back = to_float(np.array([-32_768, 16_384], np.int16))
    assert back.dtype == np.float32
    assert back.tolist() == [-1.0, 0.5]


def test_padding_keeps_true_lengths() -> None:
    batch, lengths = pad([np.ones(2, np.float32), np.ones(3, np.float32)])
    assert batch.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert lengths.tolist() == [2, 3]
    assert pad([])[0].shape == (0, 0)


@pytest.mark.corpus
def test_native_48_khz_originals_decode_to_the_16_khz_copies(ravdess: Path) -> None:
    """Another program resampled the copies: the same sound on the same time axis, to 40 dB below it."""
    originals = sorted((ravdess.parent / "ravdess-native").rglob("*.wav"))
    if not originals:
        pytest.skip("no real speech: ravdess-native is missing beside ravdess")
    for original in originals:
        ours = to_float(decode(original)).astype(np.float64)
        copy = to_float(decode(ravdess / original.parent.name / f"{original.stem}.flac")).astype(np.float64)
        assert abs(len(ours) - len(copy)) <= 1
        both = min(len(ours), len(copy))
        noise = ours[:both] - copy[:both]
        assert 10 * np.log10(np.mean(noise**2) / np.mean(copy**2)) < -40, original.name
