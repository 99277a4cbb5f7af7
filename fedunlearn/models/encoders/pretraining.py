"""Pre-training of a small speech encoder from scratch, without labels and without a network.

Spans of latent frames of a waveform are masked, and the encoder predicts the log-mel frames there (masked
regression: Mockingjay, Liu et al. 2020, arXiv 1910.12638; TERA, Liu et al. 2021, arXiv 2007.06028; here from
the waveform, as in wav2vec 2.0, Baevski et al. 2020, arXiv 2006.11477). From the mean over the frames of
every layer it also predicts the log-mel functionals of the crop: regression onto plain acoustic measures, as
in PASE (Pascual et al. 2019, arXiv 1904.03416). The first of its two convolutions starts as a filterbank.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedunlearn.audio import PCM, SAMPLE_RATE, pad, to_float
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.models.frontend import HOP, N_MELS, WINDOW, LogMel, frame_mask
from fedunlearn.models.functionals import functionals
from fedunlearn.seeding import rng_for, torch_rng_for

KINDS = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"),
    "hubert": ("HubertConfig", "HubertModel"),
    "wavlm": ("WavLMConfig", "WavLMModel"),
}
"""Kind -> its classes in transformers."""

SHORTEST = 0.2
"""Seconds; shorter recordings are not used."""
_KERNELS = (240, 2)
_STRIDES = (160, 2)
"""Together a window of 400 samples every 320, as in published encoders and in the log-mel frontend."""
_PHASES = 4
"""Filters of each frequency, a quarter of a period apart: rectified, they add up to its magnitude."""
_LOWEST, _HIGHEST = 50.0, 7600.0
"""Hz, centre frequencies of the filterbank."""
_GAIN, _BIAS = 10.0, 0.3
"""Norm of an initial filter, and standard deviation of the initial biases."""
SPAN = 10
"""Masked latent frames in a row: 200 ms."""
_WARM_UP = 0.08
"""Share of the steps; afterwards the learning rate falls along a cosine."""
_FUNCTIONALS = 18 * N_MELS


@dataclass(frozen=True)
class Recipe:
    """An encoder's architecture, and how it is trained.

    Attributes:
        kind: "wav2vec2", "hubert" or "wavlm".
        convolutions: channels of the two convolutions; the first >= 8.
        hidden: width of the transformer.
        layers: number of transformer layers.
        heads: number of attention heads, which divides ``hidden``.
        steps: number of AdamW steps.
        batch: crops in a step.
        seconds: length of a crop in s.
        lr: largest learning rate.
        hide: probability that a masked span starts at a frame, in (0, 1).
        seen: weight of the frames that are not masked.
        whole: weight of the functionals, predicted from each layer's mean.
        heard: weight of the log-mel frames, predicted from the convolutions alone.
        gain: crops are made louder or softer by at most this many dB.
        tempo: crops are played faster or slower (and higher or lower) by at most this many octaves.
    """

    kind: str = "wav2vec2"
    convolutions: tuple[int, int] = (256, 192)
    hidden: int = 192
    layers: int = 3
    heads: int = 4
    steps: int = 6000
    batch: int = 4
    seconds: float = 2.0
    lr: float = 2e-3
    hide: float = 0.065
    seen: float = 0.5
    whole: float = 1.0
    heard: float = 1.0
    gain: float = 12.0
    tempo: float = 0.2

    def check(self) -> None:
        """Check the recipe.

        Raises:
            BadInput: the kind is unknown, the heads do not divide the width, or the learning rate is 0.
        """
        problems = []
        if self.kind not in KINDS:
            problems.append(f"--kind {self.kind}: is not known; known are {', '.join(KINDS)}")
        if self.hidden % self.heads:
            problems.append(
                f"--hidden {self.hidden}: must be a multiple of {self.heads}, the attention heads"
            )
        if not 0 < self.lr < math.inf:
            problems.append(f"--lr {self.lr}: must be a number > 0")
        if problems:
            raise BadInput(problems)


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained encoder.

    Attributes:
        encoder: the encoder, in evaluation mode.
        curve: pairs of steps done and mean loss since the last entry.
        recordings: number of recordings it was trained on.
        hours: their total duration in hours.
    """

    encoder: Any
    curve: tuple[tuple[int, float], ...]
    recordings: int
    hours: float


class PretrainingObjective(nn.Module):
    """The pre-training task and its linear output layers, which are discarded after training.

    Args:
        recipe: sizes and weights of the loss terms.
    """

    mel_mean: Tensor
    mel_std: Tensor
    whole_mean: Tensor
    whole_std: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.log_mel = LogMel()
        self.frame = nn.Linear(recipe.hidden, N_MELS)
        self.heard = nn.Linear(recipe.convolutions[-1], N_MELS)
        self.whole = nn.ModuleList(nn.Linear(recipe.hidden, _FUNCTIONALS) for _ in range(recipe.layers + 1))
        for name, width in (("mel", N_MELS), ("whole", _FUNCTIONALS)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    @torch.no_grad()
    def targets(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the targets.

        Args:
            waveform: [B, S].
            samples: [B] true lengths, >= 400.

        Returns:
            Log-mel [B, T, 40], whose frame t covers the samples that latent frame t sees, and functionals
            [B, 720].
        """
        frames = latent_frames(samples)
        # The frontend centres its windows on multiples of the hop; half a window on, they start there.
        mel, _ = self.log_mel(waveform[:, WINDOW // 2 :], samples - WINDOW // 2)
        mel = mel[:, : int(frames.max())]
        return mel, functionals(mel * frame_mask(frames, mel.shape[1])[:, :, None], frames)

    def calibrate(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set mean and standard deviation of the targets from some crops."""
        mels, wholes = [], []
        for waveform, samples in batches:
            mel, whole = self.targets(waveform, samples)
            mels.append(mel[frame_mask(latent_frames(samples), mel.shape[1])])
            wholes.append(whole)
        for name, values in (("mel", torch.cat(mels)), ("whole", torch.cat(wholes))):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(values.std(0, unbiased=False).clamp(min=1e-3))

    def forward(self, encoder: Any, waveform: Tensor, samples: Tensor, hidden: Tensor) -> Tensor:
        """Compute the loss of one batch, a scalar.

        Args:
            encoder: an encoder of transformers, in training mode.
            waveform: [B, S], zero beyond the true lengths.
            samples: [B] true lengths, >= 400.
            hidden: bool [B, T], the masked latent frames.
        """
        mel, whole = self.targets(waveform, samples)
        mel = (mel - self.mel_mean) / self.mel_std
        whole = ((whole - self.whole_mean) / self.whole_std).clamp(-5, 5)
        true = frame_mask(latent_frames(samples), mel.shape[1])
        mask = frame_mask(samples, waveform.shape[1]).long()
        with _convolution_features(encoder) as features, warnings.catch_warnings():
            # WavLM's attention takes its mask as booleans.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
            states = encoder(
                waveform, attention_mask=mask, mask_time_indices=hidden & true, output_hidden_states=True
            ).hidden_states
        predicted = self.frame(states[-1])
        seen = distance(predicted, mel, ~hidden & true)
        loss = distance(predicted, mel, hidden & true) + self.recipe.seen * seen
        loss = loss + self.recipe.heard * distance(self.heard(features[0].transpose(1, 2)), mel, true)
        weight = true[:, :, None] / true.sum(1)[:, None, None]
        for tell, state in zip(self.whole, states, strict=True):
            error = (tell((state * weight).sum(1)) - whole).abs().mean()
            loss = loss + self.recipe.whole / len(states) * error
        return loss


def distance(predicted: Tensor, mel: Tensor, counted: Tensor) -> Tensor:
    """Compute the mean absolute difference over the selected frames; 0 if none is selected.

    Args:
        predicted: [B, T, M], predictions.
        mel: [B, T, M], targets.
        counted: bool [B, T], the selected frames.
    """
    return ((predicted - mel).abs().mean(2) * counted).sum() / counted.sum().clamp(min=1)


def latent_frames(samples: Tensor) -> Tensor:
    """Compute the number of latent frames [B] of waveforms with ``samples`` [B] samples, >= 400."""
    return (samples - WINDOW) // HOP + 1


def build(recipe: Recipe, seed: int) -> Any:
    """Build an encoder with initial weights, in training mode.

    Every convolution normalises over channels ("layer"), never over time, and waveforms are not normalised
    (``do_normalize`` false), since loudness is a cue to emotion. The first convolution is initialised with
    ``filterbank``.
    """
    import transformers

    config, model = (getattr(transformers, name) for name in KINDS[recipe.kind])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(torch_rng_for(seed, "pretraining", "weights").get_state())
        encoder = model(
            config(
                hidden_size=recipe.hidden,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                intermediate_size=2 * recipe.hidden,
                conv_dim=list(recipe.convolutions),
                num_feat_extract_layers=len(recipe.convolutions),
                conv_kernel=list(_KERNELS),
                conv_stride=list(_STRIDES),
                conv_bias=True,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
                num_conv_pos_embeddings=32,
                num_conv_pos_embedding_groups=recipe.heads,
                layerdrop=0.0,
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                final_dropout=0.0,
            )
        )
        first = encoder.feature_extractor.conv_layers[0].conv
        with torch.no_grad():
            filters = _GAIN * filterbank(first.out_channels // _PHASES, first.kernel_size[0])
            first.weight[: len(filters), 0] = filters
            first.bias.normal_(0.0, _BIAS)
    return encoder.train()


def filterbank(frequencies: int, samples: int) -> Tensor:
    """Compute windowed cosines whose centre frequencies are equally spaced on the mel scale.

    Initial values of learned filters, as in SincNet (Ravanelli & Bengio 2018, arXiv 1808.00158) and LEAF
    (Zeghidour et al. 2021, arXiv 2101.08596).

    Args:
        frequencies: number of centre frequencies, >= 2, from 50 to 7600 Hz.
        samples: length of a filter at 16 kHz. The Hann window inside is shorter where the frequencies are far
            apart: two periods of the distance to the next one, but at least a fifth of the filter.

    Returns:
        [4 * frequencies, samples], each of norm 1: all frequencies at phase 0, then at 90, 180, 270 degrees.
    """
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (_LOWEST, _HIGHEST))
    hz = 700 * (10 ** (torch.linspace(lowest, highest, frequencies) / 2595) - 1)
    gap = torch.diff(hz, append=2 * hz[-1:] - hz[-2:-1])
    length = (2 * SAMPLE_RATE / gap).clamp(samples / 5, samples)[:, None]
    place = torch.arange(samples) - (samples - 1) / 2
    window = torch.where(place.abs() < length / 2, torch.cos(math.pi * place / length).square(), 0.0)
    turns = hz[:, None] * place / SAMPLE_RATE
    phases = [window * torch.cos(2 * math.pi * (turns + k / _PHASES)) for k in range(_PHASES)]
    return F.normalize(torch.cat(phases), dim=1)


def pretrain(
    recordings: Sequence[PCM], recipe: Recipe, seed: int, progress: Callable[[int, float], None] | None = None
) -> Pretrained:
    """Pre-train an encoder. It computes on one thread: the same seed gives the same bits.

    Args:
        recordings: int16 [S] at 16 kHz; those shorter than 0.2 s are not used.
        recipe: architecture and schedule.
        seed: seed of all random numbers.
        progress: called after each step with the number of steps done and the loss.

    Raises:
        BadInput: no recording is long enough.
        RunFailed: the loss is not finite.
    """
    usable = [r for r in recordings if len(r) >= SHORTEST * SAMPLE_RATE]
    if not usable:
        raise BadInput(f"nothing to learn from: not one recording is {SHORTEST:g} s long")
    with _one_thread():
        encoder = build(recipe, seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(torch_rng_for(seed, "pretraining", "answers").get_state())
            objective = PretrainingObjective(recipe)
        calibration = [crops(usable, recipe, rng_for(seed, "pretraining", "scale", n)) for n in range(64)]
        objective.calibrate([(waveform, samples) for waveform, samples, _ in calibration])
        parameters = [*encoder.parameters(), *objective.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
        losses: list[float] = []
        curve: list[tuple[int, float]] = []
        for step in range(1, recipe.steps + 1):
            loss = objective(encoder, *crops(usable, recipe, rng_for(seed, "pretraining", "step", step)))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise RunFailed(f"pre-training: the loss of step {step} is not finite; lower --lr")
            if progress is not None:
                progress(step, losses[-1])
            if step % max(recipe.steps // 20, 1) == 0 or step == recipe.steps:
                curve.append((step, float(np.mean(losses))))
                losses.clear()
    hours = sum(map(len, usable)) / SAMPLE_RATE / 3600
    return Pretrained(encoder.eval(), tuple(curve), len(usable), hours)


def crops(
    recordings: Sequence[PCM], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch of crops, each with its own tempo and loudness, and the latent frames to mask.

    Returns:
        Waveforms [B, S], true lengths [B] in samples, and a mask, bool [B, T], that selects at least one
        latent frame of each crop and none beyond its end.
    """
    chosen = rng.integers(len(recordings), size=recipe.batch)
    waveform, samples = pad([_piece(to_float(recordings[i]), recipe, rng) for i in chosen])
    frames = latent_frames(samples)
    width = int(frames.max())
    starts = rng.random((recipe.batch, width)) < recipe.hide
    starts[np.arange(recipe.batch), rng.integers(frames.numpy())] = True
    hidden = np.zeros_like(starts)
    for k in range(SPAN):
        hidden[:, k:] |= starts[:, : max(width - k, 0)]
    return waveform, samples, torch.from_numpy(hidden) & frame_mask(frames, width)


def _piece(
    waveform: npt.NDArray[np.float32], recipe: Recipe, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    tempo = 2.0 ** rng.uniform(-recipe.tempo, recipe.tempo)
    gain = 10.0 ** (rng.uniform(-recipe.gain, recipe.gain) / 20)
    wanted = round(recipe.seconds * SAMPLE_RATE * tempo)
    start = int(rng.integers(max(len(waveform) - wanted, 0) + 1))
    cut = torch.from_numpy(waveform[start : start + wanted] * np.float32(gain))
    length = min(round(len(cut) / tempo), round(recipe.seconds * SAMPLE_RATE))
    played: npt.NDArray[np.float32] = F.interpolate(cut[None, None], size=length, mode="linear")[0, 0].numpy()
    return played


def _rate(step: int, steps: int) -> float:
    """Share of the largest learning rate that applies after a number of steps."""
    done = (step + 1) / steps
    return min(1.0, done / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


@contextmanager
def _convolution_features(encoder: Any) -> Iterator[list[Tensor]]:
    """Append the output of the convolutions, [B, C, T], to a list inside this context."""
    features: list[Tensor] = []
    hook = encoder.feature_extractor.register_forward_hook(lambda *call: features.append(call[-1]))
    try:
        yield features
    finally:
        hook.remove()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
