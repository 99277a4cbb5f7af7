"""Source-filter synthesis of speech from articulation.

A cascade formant synthesiser after Klatt (1980, doi 10.1121/1.383940), computed frame by frame in the
spectral domain: glottal pulses, shaped by a glottal formant and a spectral tilt (Doval & d'Alessandro 2006),
and aspiration noise pass through eight resonances; frication noise has a spectrum of its own place.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, rfft

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.corpora.phones import PLACES

Array = npt.NDArray[np.float64]

COLOUR_KNOTS = np.array([0.0, 250.0, 500.0, 900.0, 1400.0, 2000.0, 2800.0, 3800.0, 5500.0, 8000.0])
"""Frequencies in Hz at which a microphone's response is given; linear in between."""

_HOP = 160
_FFT = 3 * _HOP
_BINS = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
_DERIVATIVE = (1j * _BINS).astype(np.complex64)
_UPPER = np.array([3500.0, 4500.0, 5500.0, 6500.0, 7500.0])
_ASPIRATION, _FRICATION = 0.06, 0.25
"""Amplitudes of full aspiration and frication, relative to a voice source of unit power."""
_WINDOW = np.hanning(2 * _HOP + 1)[:-1]
"""Periodic: windows half a length apart add up to one."""


@dataclass(frozen=True)
class Score:
    """Everything that the synthesiser needs for one utterance: a sequence of K articulatory states.

    Attributes:
        seconds: [K] durations in s.
        voicing: [K] amplitudes of the voice source in [0, 1].
        aspiration: [K] amplitudes of aspiration noise in [0, 1].
        frication: [K] amplitudes of frication noise in [0, 1].
        place: [K] int, place of frication.
        formants: [K, 3] this speaker's formants in Hz.
        glide: [K] share of a state spent on formant transitions.
        upper: [5] formants above the third, in Hz.
        scale: formant frequencies relative to those of a 17.2 cm tract.
        pitch_times: [P] times of the knots of the F0 contour, in s.
        pitch: [P] F0 at these knots, in Hz.
        tilt: corner frequency of the glottal spectrum, in Hz.
        breath: amplitude of aspiration while voiced, relative to the voice source.
        jitter: standard deviation of a glottal period, as a fraction of it.
        shimmer: standard deviation of a glottal pulse's amplitude, as a fraction of it.
        tremor: amplitude of the 6 Hz pitch tremor, in semitones.
        onset: time in which the voice starts or fades, in s.
        colour: [10] response of microphone and room in dB at ``COLOUR_KNOTS``.
    """

    seconds: Array
    voicing: Array
    aspiration: Array
    frication: Array
    place: npt.NDArray[np.int64]
    formants: Array
    glide: Array
    upper: Array
    scale: float
    pitch_times: Array
    pitch: Array
    tilt: float
    breath: float
    jitter: float
    shimmer: float
    tremor: float
    onset: float
    colour: Array


def upper_formants(scale: float) -> Array:
    """Return formants 4 to 8, [5] in Hz, of a uniform tube.

    Args:
        scale: 17.2 cm divided by its length.
    """
    return _UPPER * scale


def render(score: Score, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Synthesise sound pressure [S] at 16 kHz, in arbitrary units (scale it before use).

    Args:
        score: what is spoken, and how.
        rng: source of noise, jitter, shimmer and flutter.
    """
    ends = np.cumsum(score.seconds)
    starts = ends - score.seconds
    samples = round(float(ends[-1]) * SAMPLE_RATE)
    frames = samples // _HOP + 2
    frame_times = _every(_HOP, frames)

    def track(values: Array, ramp: Array | float, at: Array) -> Array:
        # Flat within a state, linear over half a ramp on both sides of a border.
        inset = np.minimum(np.asarray(ramp) / 2, 0.5 * score.seconds)
        times = np.stack([starts + inset, ends - inset], axis=1).ravel()
        return np.interp(at, times, np.repeat(values, 2))

    pulses, f0 = _pulses(score, ends[-1], rng)
    # Unit power at full voicing; the glottal flow's derivative has a factor of 1 / F0.
    strength = track(score.voicing, score.onset, pulses) * np.sqrt(SAMPLE_RATE / f0) / f0
    strength *= np.maximum(0.2, 1 + score.shimmer * rng.standard_normal(len(pulses)))
    source = _impulses(pulses, strength, samples)

    # Noise: one envelope at nearly full time resolution (bursts are sharp), its two colours mixed by frame.
    step = 16
    grid = _every(step, samples // step + 2)
    breath = track(score.voicing, score.onset, grid)
    aspiration = _ASPIRATION * track(score.aspiration, 0.010, grid) + score.breath * breath
    frication = _FRICATION * track(score.frication, 0.003, grid)
    noise = rng.standard_normal((len(grid), step), dtype=np.float32)
    noise *= (aspiration + frication).astype(np.float32)[:, None]
    hiss = np.interp(frame_times, grid, frication / (aspiration + frication + 1e-9)).astype(np.float32)
    place = score.place[np.minimum(np.searchsorted(ends, frame_times), len(ends) - 1)]

    formants = np.stack([track(f, score.glide * score.seconds, frame_times) for f in score.formants.T])
    frame_pitch = np.interp(frame_times, score.pitch_times, score.pitch)
    softness = np.sqrt(np.clip(track(score.voicing, score.onset, frame_times), 0.2, 1.2))
    spectrum = _spectra(source, frames)
    spectrum *= _glottis(frame_pitch, score.tilt * softness)
    unvoiced = _spectra(noise.ravel()[:samples], frames)
    spectrum += (1 - hiss)[:, None] * unvoiced
    spectrum *= _tract(formants, score.upper)
    hissing = np.flatnonzero(hiss)
    spectrum[hissing] += hiss[hissing, None] * _frication(score.scale)[place[hissing]] * unvoiced[hissing]
    spectrum *= _microphone(score.colour)
    return _overlap_add(spectrum, samples)


def _every(step: int, count: int) -> Array:
    """Times in s of samples 0, step, 2 step ..."""
    return np.arange(count, dtype=np.float64) * (step / SAMPLE_RATE)


def _pulses(score: Score, seconds: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Times (s) of glottal closures and F0 (Hz) there."""
    grid = np.arange(0, seconds, 0.002)
    # Flutter: people do not hold a pitch (Klatt & Klatt 1990 add three slow sines; so do we).
    phases = rng.uniform(0, 2 * np.pi, 4)
    flutter = sum(np.sin(2 * np.pi * f * grid + p) for f, p in zip((12.7, 7.1, 4.7), phases, strict=False))
    semitones = 0.12 * flutter + score.tremor * np.sin(2 * np.pi * 6.0 * grid + phases[3])
    f0 = np.interp(grid, score.pitch_times, score.pitch) * 2 ** (semitones / 12)
    cycles = np.cumsum(f0) * 0.002
    times = np.interp(np.arange(1, int(cycles[-1])), cycles, grid)
    at = np.interp(times, grid, f0)
    times = times + score.jitter / at * np.clip(rng.standard_normal(len(times)), -3, 3)
    keep = (times > 0) & (times < seconds - 4 / SAMPLE_RATE)
    return times[keep], at[keep]


def _impulses(times: Array, strength: Array, samples: int) -> npt.NDArray[np.float32]:
    """Impulses between samples, by cubic Lagrange interpolation."""
    position = times * SAMPLE_RATE
    whole = position.astype(np.int64)
    d = position - whole
    taps = np.stack(
        [
            -d * (d - 1) * (d - 2) / 6,
            (d + 1) * (d - 1) * (d - 2) / 2,
            -(d + 1) * d * (d - 2) / 2,
            (d + 1) * d * (d - 1) / 6,
        ]
    )
    at = whole + np.arange(-1, 3)[:, None]
    inside = (at >= 0) & (at < samples)
    return np.bincount(at[inside], (taps * strength)[inside], minlength=samples).astype(np.float32)


def _spectra(signal: npt.NDArray[np.float32], frames: int) -> npt.NDArray[np.complex64]:
    """[frames, 241] windowed spectra; frame t is centred on sample 160 t."""
    padded = np.zeros((frames + 1) * _HOP, np.float32)
    padded[_HOP : _HOP + len(signal)] = signal
    blocks = padded.reshape(frames + 1, _HOP)
    window = _WINDOW.astype(np.float32)
    windowed = np.concatenate([blocks[:-1] * window[:_HOP], blocks[1:] * window[_HOP:]], axis=1)
    spectra: npt.NDArray[np.complex64] = rfft(windowed, _FFT)
    return spectra


def _overlap_add(spectrum: npt.NDArray[np.complex64], samples: int) -> npt.NDArray[np.float32]:
    frames = len(spectrum)
    pieces = irfft(spectrum, _FFT).reshape(frames, _FFT // _HOP, _HOP)
    out = np.zeros((frames + _FFT // _HOP, _HOP), pieces.dtype)
    for shift in range(_FFT // _HOP):
        out[shift : shift + frames] += pieces[:, shift]
    signal: npt.NDArray[np.float32] = out.ravel()[_HOP : _HOP + samples]
    return signal


def _sections(frequency: Array, bandwidth: Array) -> tuple[Array, Array]:
    """The two coefficients of resonators 1 + a z^-1 + b z^-2 (Klatt 1980)."""
    radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
    return -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius**2


def _poles(frequency: Array, bandwidth: Array) -> Array:
    """Resonators [R, T] in cascade -> their denominators [T, 2 R + 1]."""
    first, second = _sections(frequency, bandwidth)
    product = np.ones((frequency.shape[1], 1))
    for a, b in zip(first, second, strict=True):
        grown = np.zeros((len(product), product.shape[1] + 2))
        grown[:, :-2] = product
        grown[:, 1:-1] += a[:, None] * product
        grown[:, 2:] += b[:, None] * product
        product = grown
    return product


def _response(denominator: Array) -> npt.NDArray[np.complex64]:
    """[T, N] -> all-pole responses [T, 241] of unit gain at 0 Hz."""
    # An FFT and not a matrix product: BLAS sums in an order that depends on its number of threads.
    gain = denominator.sum(axis=1, keepdims=True).astype(np.float32)
    spectrum: npt.NDArray[np.complex64] = rfft(denominator.astype(np.float32), _FFT)
    # gain / spectrum, in a third of the time.
    response: npt.NDArray[np.complex64] = spectrum.conj() * (gain / (spectrum.real**2 + spectrum.imag**2))
    return response


def _tract(formants: Array, upper: Array) -> npt.NDArray[np.complex64]:
    """Vocal-tract responses [T, 241] of moving formants [3, T] and resting upper ones [5], in Hz."""
    # Near the Nyquist frequency resonances fade out, or a short tract's would pile up there.
    fading = np.maximum(0.0, upper - 6000.0) ** 2 / 2000.0
    still = _response(_poles(upper[:, None], (60.0 + 0.04 * upper + fading)[:, None]))
    bandwidths = np.array([60.0, 80.0, 120.0])[:, None] + 0.02 * formants
    return _response(_poles(formants, bandwidths)) * still


def _glottis(pitch: Array, tilt: Array) -> npt.NDArray[np.complex64]:
    """Spectrum [T, 241] of the glottal flow's derivative: a wide glottal formant near F0, and a tilt."""
    denominator = _poles(1.1 * pitch[None], 1.3 * pitch[None])
    corner = np.exp(-2 * np.pi * np.minimum(tilt, 7000.0) / SAMPLE_RATE)[:, None]
    nothing = np.zeros((len(denominator), 1))
    later = np.concatenate([nothing, denominator], axis=1)
    tilted = np.concatenate([denominator, nothing], axis=1) - corner * later
    spectrum = _response(tilted)
    spectrum *= _DERIVATIVE
    return spectrum


def _frication(scale: float) -> npt.NDArray[np.float32]:
    """Magnitudes [6, 241] of frication noise; smaller mouths hiss higher, less so than formants."""
    centre, width = (PLACES * np.sqrt(scale)).T[:, :, None]
    shapes: npt.NDArray[np.float32] = (1 / (1 + ((_BINS - centre) / width) ** 2)).astype(np.float32)
    return shapes


def _microphone(colour: Array) -> npt.NDArray[np.float32]:
    """Magnitudes [241]."""
    decibels = np.interp(_BINS, COLOUR_KNOTS, colour)
    magnitudes: npt.NDArray[np.float32] = (10 ** (decibels / 20)).astype(np.float32)
    return magnitudes
