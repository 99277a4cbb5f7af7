import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.config.model import ModelSettings
from fedunlearn.examples import pad_features
from fedunlearn.models import build_model
from fedunlearn.models.cnn import Convolution, even_out_spectrum, statistics
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.frontend import HOP, N_MELS, LogMel, frames_of
from fedunlearn.models.functionals import functionals, masked_quantiles, speech_span
from fedunlearn.seeding import rng_for, torch_rng_for
from fedunlearn.training import calibrate, set_calibration

CLASSES = 8
Name = Literal["functionals", "cnn"]
NAMES: tuple[Name, ...] = ("functionals", "cnn")
PARAMETERS = {"functionals": 720 * 128 + 128 + 128 * 8 + 8, "cnn": 140_232}


def model_of(name: Name) -> EmotionModel:
    return build_model(ModelSettings(name=name), CLASSES, rng_for(1, "init")).eval()


MODELS = {name: model_of(name) for name in NAMES}


def speechlike(samples: int, seed: int = 0) -> Tensor:
    """[S] noise, louder and softer four times a second."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / SAMPLE_RATE
    return 0.1 * torch.randn(samples, generator=generator) * (1 + torch.sin(2 * math.pi * 4 * time))


def alone(waveform: Tensor) -> tuple[Tensor, Tensor]:
    return waveform[None], torch.tensor([len(waveform)])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 16_000), min_size=2, max_size=4), extra=st.integers(0, 4_000))
def test_padding_and_neighbours_change_no_prediction(name: Name, lengths: list[int], extra: int) -> None:
    model = MODELS[name]
    waveforms = [speechlike(length, seed) for seed, length in enumerate(lengths)]
    batch = torch.zeros(len(lengths), max(lengths) + extra)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    with torch.inference_mode():
        together = model(batch, torch.tensor(lengths))
        one_by_one = torch.cat([model(*alone(w)) for w in waveforms])
    torch.testing.assert_close(together, one_by_one, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_padding_frames_is_never_read(name: Name) -> None:
    model = MODELS[name]
    features, frames = model.derive(speechlike(16_000).expand(2, -1), torch.tensor([16_000, 5_000]))
    spoilt = features.clone()
    for row, length in zip(spoilt, frames, strict=True):
        row[length:] = 1e3
    torch.testing.assert_close(model.classify(spoilt, frames), model.classify(features, frames))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, HOP, SAMPLE_RATE // 10, SAMPLE_RATE])
def test_gradients_reach_the_waveform(name: Name, samples: int) -> None:
    waveform, lengths = alone(speechlike(samples))
    waveform.requires_grad_()
    (gradient,) = torch.autograd.grad(MODELS[name](waveform, lengths).logsumexp(1).sum(), waveform)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, SAMPLE_RATE // 10, SAMPLE_RATE])
def test_silence_has_finite_logits_and_gradients(name: Name, samples: int) -> None:
    """Energy is quadratic in the waveform: at exact silence its gradient is zero, and so is ours.

    Just beside it the gradient is not.
    """
    for level, expect_gradient in ((0.0, False), (1e-4, True)):
        waveform, lengths = alone(level * speechlike(samples))
        waveform.requires_grad_()
        logits = MODELS[name](waveform, lengths)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), waveform)
        assert logits.isfinite().all() and gradient.isfinite().all()
        assert bool(gradient.abs().max() > 0) == expect_gradient


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_and_shapes(name: Name) -> None:
    model = MODELS[name]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model.classes == CLASSES
    features, frames = model.derive(torch.zeros(3, 4_000), torch.tensor([4_000, 2_000, 1]))
    assert features.shape[0] == 3 and features.shape[2] == model.dims == len(model.norm.mean)
    assert model.classify(features, frames).shape == (3, CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_only_weights_and_calibration_travel(name: Name) -> None:
    """Everything in the state is a parameter or the standardisation; the filterbank stays at home."""
    model = MODELS[name]
    assert set(model.state_dict()) == {n for n, _ in model.named_parameters()} | {"norm.mean", "norm.std"}


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_come_from_the_named_stream_alone(name: Name) -> None:
    before = torch.get_rng_state()
    first = model_of(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second = model_of(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build_model(ModelSettings(name=name), CLASSES, torch_rng_for(1, "other")).state_dict()
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 emotions"):
        build_model(ModelSettings(), 1, rng_for(1, "init"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 99))
def test_masked_quantiles_are_numpys(lengths: list[int], seed: int) -> None:
    wanted = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    values = rng_for(seed, "values").normal(size=(len(lengths), max(lengths), 3))
    got = masked_quantiles(torch.from_numpy(values), torch.tensor(lengths), wanted)
    for row, length, quantiles in zip(values, lengths, got, strict=True):
        np.testing.assert_allclose(quantiles, np.quantile(row[:length], wanted, axis=0), atol=1e-6)


def test_functionals_of_a_constant() -> None:
    """Mean c; quantiles less the mean 0; std, delta std and modulations are sqrt(0 + 1e-6) = 1e-3."""
    values = functionals(torch.full((1, 50, 2), -3.0), torch.tensor([50])).view(18, 2)
    assert torch.allclose(values[0], torch.tensor(-3.0))
    assert torch.allclose(values[3:8], torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(values[[1, 2, *range(8, 18)]], torch.tensor(1e-3), atol=1e-5)


def test_the_quiet_at_both_ends_is_cut_off() -> None:
    """Loudest frame at 0: frames within 5 nats of it span 2 ... 5, with a quiet one (3) inside kept."""
    level = torch.tensor([[-9.0, -6.0, -4.9, -8.0, 0.0, -5.0, -5.1, 0.0]])
    mel = level[:, :, None].expand(1, 8, 2)
    spoken, frames = speech_span(mel, torch.tensor([7]))  # the last frame is padding
    assert frames.tolist() == [4]
    assert spoken[0, :, 0].tolist() == pytest.approx([-4.9, -8.0, 0.0, -5.0])
    silent, kept = speech_span(torch.full((1, 5, 2), -13.8), torch.tensor([5]))
    assert kept.tolist() == [5] and silent.shape == (1, 5, 2)


def test_functionals_of_a_modulated_band() -> None:
    """mel_t = a cos(2 pi 4 t / 50), a = 2, over 100 frames: 8 whole periods of 12.5 frames.

    Mean 0; std a / sqrt(2); |DFT| / frames at 4 Hz is a / 2, at 2 Hz (orthogonal over 2 s) 0; the step
    from frame to frame is -2 a sin(theta / 2) sin(...), theta = 2 pi 4 / 50, of rms sqrt(2) a sin(theta / 2).
    """
    time = torch.arange(100) / 50
    mel = (2.0 * torch.cos(2 * math.pi * 4 * time))[None, :, None]
    values = functionals(mel, torch.tensor([100])).view(18)
    assert values[0].item() == pytest.approx(0.0, abs=1e-5)
    assert values[1].item() == pytest.approx(math.sqrt(2), rel=1e-4)
    assert values[2].item() == pytest.approx(2 * math.sqrt(2) * math.sin(math.pi * 4 / 50), rel=0.01)
    at = {hz: values[8 + i].item() for i, hz in enumerate((0.5, 1, 1.5, 2, 3, 4, 5, 6.5, 8, 12))}
    assert at[4] == pytest.approx(1.0, rel=1e-4)
    assert at[2] == pytest.approx(1e-3, abs=1e-4)


def test_log_mel_of_a_tone() -> None:
    """A 1 kHz tone is loudest in the band of the nearest HTK centre; ten times the amplitude adds ln 100."""
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / SAMPLE_RATE)
    frontend = LogMel()
    loud, frames = frontend(*alone(0.5 * tone))
    soft, _ = frontend(*alone(0.05 * tone))
    assert loud.shape == (1, int(frames), N_MELS) and int(frames) == 51

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    edges = np.linspace(mel(20), mel(8000), N_MELS + 2)
    nearest = int(np.abs(edges[1:-1] - mel(1000)).argmin())
    assert int(loud[0, 25].argmax()) == nearest
    assert (loud - soft)[0, 25, nearest].item() == pytest.approx(math.log(100), rel=1e-4)


def test_frame_counts() -> None:
    assert frames_of(torch.tensor([1, 319, 320, 16_000])).tolist() == [1, 1, 2, 51]


def test_convolution_keeps_the_scale_whatever_its_weights_scale() -> None:
    """Weights are standardised: a hundredfold of them is the same layer; unit noise, unit variance."""
    layer = Convolution(40, 400, 3, 1)
    x, frames = torch.randn(4, 40, 60, generator=torch_rng_for(1, "x")), torch.full((4,), 60)
    out, _ = layer(x, frames)
    assert out[:, :, 1:-1].std().item() == pytest.approx(1.0, abs=0.1)
    with torch.no_grad():
        layer.weight.mul_(100.0)
    torch.testing.assert_close(layer(x, frames)[0], out, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution_of_padded_input_is_that_of_the_bare_one(stride: int) -> None:
    layer = Convolution(2, 8, 5, stride)
    for length in range(1, 8):
        bare = torch.randn(1, 2, length)
        padded = torch.nn.functional.pad(bare, (0, 9))
        expected, frames = layer(bare, torch.tensor([length]))
        got, same_frames = layer(padded, torch.tensor([length]))
        assert int(frames) == int(same_frames) == expected.shape[2] == math.ceil(length / stride)
        torch.testing.assert_close(got[:, :, : int(frames)], expected)
        assert (got[:, :, int(frames) :] == 0).all()


def test_evening_out_the_spectrum_by_hand() -> None:
    """Bands 0 and 4 on average, level 2: half of the colour -2, +2 goes; a louder utterance stays louder."""
    x = torch.tensor([[[0.0, 3.0], [0.0, 5.0], [9.0, 9.0]]])
    evened = even_out_spectrum(x, torch.tensor([2]))
    assert evened.tolist() == [[[1.0, 2.0], [1.0, 4.0], [0.0, 0.0]]]
    torch.testing.assert_close(even_out_spectrum(x + 1, torch.tensor([2]))[:, :2], evened[:, :2] + 1)


def test_statistics_by_hand() -> None:
    """Frames 1, 3 of length 2 (7 is padding): mean 2, variance 1 + 1e-4."""
    pooled = statistics(torch.tensor([[[1.0, 3.0, 7.0]]]), torch.tensor([2]))
    assert pooled[0].tolist() == pytest.approx([2.0, math.sqrt(1 + 1e-4)])


@pytest.mark.parametrize("name", NAMES)
def test_calibrated_features_are_standard(name: Name) -> None:
    model = model_of(name)
    waveforms = [speechlike(8_000 + 900 * i, i) for i in range(6)]
    derived = [model.derive(*alone(w))[0][0] for w in waveforms]
    examples = pad_features(derived, [0] * 6)
    moments = calibrate(model, examples)
    set_calibration(model, moments.mean, moments.mean_square)
    pooled = torch.cat(derived)
    # Constants are rounded: means to half a standard deviation, standard deviations to powers of sqrt(2).
    assert float(model.norm(pooled).mean(0).abs().max()) <= 0.25 + 2e-3
    spread = pooled.std(0, unbiased=False) > 0.05
    assert float(model.norm(pooled).std(0, unbiased=False)[spread].log2().abs().max()) <= 0.25 + 1e-2
