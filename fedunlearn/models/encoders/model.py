"""A pre-trained speech encoder with an emotion head: frozen parts are shared, trained parts are sent.

The head is that of the SUPERB benchmark (Yang et al. 2021, arXiv 2105.01051), as in transformers'
``...ForSequenceClassification``: a softmax-weighted sum of all layers, a projection, the mean over the
unpadded frames, a linear classifier. Everything before the mean is linear, so the mean can be taken first.
Therefore an utterance passes what is frozen only once: the whole encoder, or the layers below those that are
trained, of which the means and the last one's hidden states are kept.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.config.model import ModelSettings
from fedunlearn.errors import BadInput
from fedunlearn.models.contract import EmotionModel, Standardise
from fedunlearn.models.encoders.checkpoint import Checkpoint, check_trains, load, lowest_trained
from fedunlearn.models.encoders.devices import arithmetic, choose, make_ready
from fedunlearn.models.encoders.layers import first_state, later_states
from fedunlearn.models.encoders.published_head import PublishedHead, load_head
from fedunlearn.models.frontend import frame_mask

LORA_TARGETS = {
    "wav2vec2": ("q_proj", "v_proj"),
    "hubert": ("q_proj", "v_proj"),
    "wavlm": ("intermediate_dense", "output_dense"),
}
"""Queries and values, as in Hu et al. 2022 (arXiv 2106.09685). WavLM's attention bypasses adapters, so there
the two feed-forward layers are adapted."""
_AROUND = 401
"""samples: 25 ms"""
_VARIANCE_FLOOR = 1e-7
"""Added to an utterance's variance, as in transformers' feature extractor."""


class TrueFramesGroupNorm(nn.GroupNorm):
    """The normalisation over time in the first convolution of "group" encoders, over unpadded frames only.

    The ordinary one includes padding, so that an utterance's output depends on what else is in its batch.

    Args:
        norm: a group norm with one channel in each group; its gain and bias are shared, not copied.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.frames: Tensor | None = None
        """True lengths [B] of the next batch; None if it has no padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, T]; values beyond the true lengths are meaningless."""
        if self.frames is None:
            return super().forward(x)
        values = x.float()
        real, count = frame_mask(self.frames, x.shape[2])[:, None, :], self.frames[:, None, None]
        mean = (values * real).sum(2, keepdim=True) / count
        centred = (values - mean) * real
        std = (centred.square().sum(2, keepdim=True) / count + self.eps).sqrt()
        return (centred / std * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


@dataclass(frozen=True)
class _Listener:
    """The shared pre-trained encoder. It is not a module, so that its parameters are not those of a model."""

    encoder: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Listener":
        return self


@lru_cache(maxsize=2)
def _listener(checkpoint: Checkpoint, device: str) -> _Listener:
    encoder = load(checkpoint)
    first = encoder.feature_extractor.conv_layers[0]
    if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
        first.layer_norm = TrueFramesGroupNorm(first.layer_norm)
    # In training transformers would keep all of a frozen encoder's activations: for gradients of its input.
    encoder.feature_extractor._freeze_parameters()
    return _Listener(encoder.eval().requires_grad_(False).to(device))


class EncoderModel(EmotionModel):
    """A speech encoder (wav2vec 2.0, HuBERT or WavLM) and an emotion head.

    Its hidden states are numbered 0 ... L: 0 is the input of the first transformer layer, L the output of the
    last. The features are what is computed below the trained part:

    - ``trains = "head"``: the means over time of all hidden states, [1, (L + 1) * H].
    - "top:N", "lora" and "lora:N": the means of the frozen hidden states 0 ... F - 1, one row each, and then
      the frames of hidden state F, the input of the lowest trained layer: [F + T, H], F = L - N or, with
      "lora", 0. They are rounded to what a vault keeps (``state_precision``). ``classify`` computes the
      layers from F on.
    - "all": the waveform, [samples, 1] (with mean 0 and variance 1 if the encoder was trained on such), which
      ``classify`` passes through the encoder.

    ``state_dict`` contains what is sent: the normalisation constants and the trained parameters, on the CPU.
    The rest is the checkpoint, which every device has and all models of a process share.

    Args:
        checkpoint: the pre-trained encoder.
        classes: number of emotions C, >= 2.
        settings: ``settings.encoder`` and ``settings.dropout`` are read.

    Raises:
        BadInput: the encoder has fewer layers than are to be trained, LoRA needs peft, which is missing, or
            there is no head to be kept with a label for each class.
    """

    def __init__(self, checkpoint: Checkpoint, classes: int, settings: ModelSettings) -> None:
        super().__init__()
        chosen = settings.encoder
        check_trains(checkpoint, chosen.trains)
        self.checkpoint, self.classes, self.trains = checkpoint, classes, chosen.trains
        self.device, self.precision = choose(chosen.device, chosen.precision)
        make_ready(self.device, chosen.deterministic)
        self._piece = round(chosen.seconds_at_once * SAMPLE_RATE)
        self._listener = _listener(checkpoint, self.device)
        config = self.pretrained.config
        # The output of the convolutions counts as a layer, too.
        self.layers, self.hidden = config.num_hidden_layers + 1, config.hidden_size
        kernels_and_strides = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self._least = _receptive_field(kernels_and_strides)
        self._first_kernel, self._first_stride = kernels_and_strides[0]
        stride = math.prod(config.conv_stride)
        border = lowest_trained(chosen.trains, config.num_hidden_layers)
        # Another device or precision gives other bits.
        made_by = f"{checkpoint.sha256[:16]}-{self.device}-{self.precision}"
        if chosen.trains == "head":
            self.feature_name, self.dims = f"layers-{made_by}", self.layers * self.hidden
        elif border is not None:
            self.feature_name, self.dims = f"states-{border}-{made_by}-{chosen.state_precision}", self.hidden
            self.feature_dtype = torch.float16 if chosen.state_precision == "float16" else torch.float32
            self.summary_rows, self.frame_seconds = border, stride / SAMPLE_RATE
            self.encoder = _trainable(self.pretrained, settings)
            # The trained layers alone hold activations; the convolutions hold as much as all layers or more.
            trained = config.num_hidden_layers - border
            self._piece_above = self._piece * 2 * config.num_hidden_layers // (trained * stride)
        else:
            self.feature_name = "normalised-waveform" if checkpoint.normalise else "waveform"
            self.dims, self.frame_seconds, self.stores_features = 1, 1 / SAMPLE_RATE, False
            self.encoder = _trainable(self.pretrained, settings)
        self.norm = Standardise(self.layers * self.hidden)
        self.keeps_head = chosen.head == "kept"
        kept = _kept_head(checkpoint, classes, chosen.labels) if self.keeps_head else None
        width = len(kept.projector_bias) if kept else chosen.projection
        self.layer_weights = nn.Parameter(torch.full((self.layers,), 1 / self.layers))
        self.projector = nn.Linear(self.hidden, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(width, classes)
        if kept:
            self._begin_with(kept)
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        self._travels = trained | {f"norm.{name}" for name, _ in self.norm.named_buffers()}

    def _begin_with(self, head: PublishedHead) -> None:
        with torch.no_grad():
            self.layer_weights.copy_(head.layer_weights)
            self.projector.weight.copy_(head.projector_weight)
            self.projector.bias.copy_(head.projector_bias)
            self.classifier.weight.copy_(head.classifier_weight)
            self.classifier.bias.copy_(head.classifier_bias)

    # ---- what is sent -------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what is sent, in the order of the modules, on the CPU."""
        whole = super().state_dict(*args, **kwargs)
        return {name: value.cpu() for name, value in whole.items() if name in self._travels}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Set what is sent. Raises RuntimeError if the tensors are not exactly those."""
        if strict and set(state_dict) != self._travels:
            odd = sorted(set(state_dict) ^ self._travels)
            raise RuntimeError(f"weights of another model: {', '.join(odd[:3])}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncoderModel":
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if name not in self._travels:
                memo[id(tensor)] = tensor
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def about(self) -> dict[str, Any]:
        """Describe the recogniser, with kind, sha256, what is trained, device and precision in addition."""
        facts = super().about()
        if self.trains == "head":
            facts["parameters"] += sum(p.numel() for p in self.pretrained.parameters())
        return facts | {
            "weights": "random" if self.checkpoint.is_random else "pre-trained",
            "kind": self.checkpoint.kind,
            "sha256": self.checkpoint.sha256,
            "trains": self.trains,
            "device": self.device,
            "precision": self.precision,
        }

    # ---- features ----------------------------------------------------------------------------------------

    @property
    def feature_mean(self) -> Tensor:
        """Mean feature frame, [D]; of hidden states those of the last frozen one; 0 for waveforms."""
        if self.keeps_states:
            return self.norm.mean.view(self.layers, self.hidden)[self.summary_rows]
        return self.norm.mean if self.trains == "head" else torch.zeros(1)

    @property
    def keeps_states(self) -> bool:
        """Whether the features are hidden states of the frozen part."""
        return self.trains not in ("head", "all")

    @property
    def pretrained(self) -> Any:
        """The encoder before training; shared, not to be changed."""
        return self._listener.encoder

    def unit_at(self, features: Tensor) -> Tensor:
        """Return the standard deviations of the layers' means, or a waveform's local loudness within 25 ms.

        Of hidden states, the frames' unit is the standard deviation over the utterance's own frames, in each
        dimension; that of a frozen layer's mean is its standard deviation over speech.

        Noise of constant loudness fills the pauses and dominates an encoder's output: on RAVDESS white noise
        30 dB below the speech moved the layers' means by 2.5 standard deviations, noise with 0.3 of the local
        loudness by 0.8.
        """
        if self.trains == "head":
            return self.norm.std
        if self.keeps_states:
            below, states = features[:, : self.summary_rows], features[:, self.summary_rows :]
            real = (states != 0).any(2, keepdim=True)  # padding is zero
            count = real.sum(1, keepdim=True).clamp(min=1)
            centred = (states - states.sum(1, keepdim=True) / count) * real
            of_frames = (centred.square().sum(1, keepdim=True) / count).sqrt()
            of_means = self.norm.std.view(self.layers, self.hidden)[: self.summary_rows]
            return torch.cat([of_means.expand_as(below), of_frames.expand_as(states)], 1)
        power = features[:, :, 0].square()[:, None]
        around = nn.functional.avg_pool1d(power, _AROUND, 1, _AROUND // 2)
        return around[:, 0, :, None].sqrt()

    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features from waveforms, see ``EmotionModel.derive``."""
        if self.checkpoint.normalise:
            waveform = normalised(waveform, samples.to(waveform.device))
        if self.keeps_states:
            return self._frozen_rows(waveform, samples)
        if self.trains == "all":
            return waveform[:, :, None], samples
        means = self._layer_means(self.pretrained, waveform, samples)
        return means.flatten(1)[:, None, :], torch.ones_like(samples)

    def calibration_rows(self, features: Tensor, frames: Tensor) -> Tensor:
        """Return the layers' means [B, (L + 1) * H] of the encoder before training, one row an utterance."""
        if self.trains == "head":
            return features[:, 0]
        with torch.no_grad():
            return self._means_of(self.pretrained, features, frames).flatten(1)

    def noise(self, count: int, frames: int, generator: torch.Generator) -> Tensor:
        """Draw random means of all layers [count, 1, (L + 1) * H], not waveforms.

        An encoder's outputs hardly differ between noisy waveforms. The layers of an encoder are correlated,
        so the same numbers are drawn for all of them.
        """
        drawn = torch.randn(count, 1, self.hidden, generator=generator)
        return self.norm.mean + self.norm.std * drawn.repeat(1, 1, self.layers)

    def smoothable(self) -> Iterator[tuple[Tensor, Tensor | float]]:
        """Yield the encoder's trained matrices, each with its pre-trained values.

        The head is excluded: it is linear, so what it has learned has fewer directions than there are
        emotions, among the many random ones of its initial projection. LoRA's adapters are of low rank
        already.
        """
        if self.trains != "head" and not self.trains.startswith("lora"):
            pretrained = dict(self.pretrained.named_parameters())
            for name, weight in self.encoder.named_parameters():
                if weight.requires_grad and weight.dim() == 2:
                    yield weight, pretrained[name]

    def answers_to(self, noise: Tensor) -> Tensor:
        """Compute the head's logits [n, C] of random means that ``noise`` has drawn."""
        return self._decide(noise[:, 0].reshape(-1, self.layers, self.hidden))

    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        """Compute logits [B, C] from features [B, T, D], see ``EmotionModel.classify``."""
        if self.trains == "head":
            return self.answers_to(features)
        return self._decide(self._means_of(self.encoder, features, frames))

    def _decide(self, means: Tensor) -> Tensor:
        """Compute logits [B, C] from the layers' means [B, L + 1, H]."""
        mean, of_layer, of_width = self.standardisation()
        standard = (means - mean) / (of_layer[:, None] * of_width)
        pooled = torch.einsum("l,blh->bh", self.layer_weights.softmax(0), standard)
        logits: Tensor = self.classifier(self.projector(self.dropout(pooled)))
        return logits

    def standardisation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean [L + 1, H] and the scales: one number for each layer [L + 1], times a vector [H].

        The scales' product approximates ``norm.std`` in a form that can be folded into the head, so that the
        saved model needs no normalisation. A head that was kept was trained on raw means: 0 and 1.
        """
        mean = self.norm.mean.view(self.layers, self.hidden)
        if self.keeps_head:
            return torch.zeros_like(mean), torch.ones(self.layers), torch.ones(self.hidden)
        std = self.norm.std.view(self.layers, self.hidden)
        of_layer = std.square().mean(1).sqrt()
        return mean, of_layer, (std / of_layer[:, None]).square().mean(0).sqrt()

    # ---- through the encoder -----------------------------------------------------------------------------

    def _means_of(self, encoder: Any, features: Tensor, frames: Tensor) -> Tensor:
        """Compute all layers' means [B, L + 1, H] from hidden states or waveforms, on the CPU."""
        if self.keeps_states:
            return self._upper_means(encoder, features, frames)
        return self._layer_means(encoder, features[:, :, 0], frames)

    def _layer_means(self, encoder: Any, waveform: Tensor, samples: Tensor) -> Tensor:
        """Average every layer's output over the unpadded frames: [B, L + 1, H], on the CPU."""
        if len(samples) == 0:
            return torch.zeros(0, self.layers, self.hidden)

        def listen(piece: Tensor, seed: int) -> Tensor:
            return self._listen(encoder, *self._cut(waveform[piece], samples[piece]), seed)

        return _in_pieces(listen, self.pieces(samples), encoder.training)

    def _frozen_rows(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features [B, F + T, H] that the frozen part gives, on the CPU, and their lengths."""
        widest = torch.tensor(waveform.shape[1]).clamp(min=self._least)
        width = int(self._frames_of(widest))
        if len(samples) == 0:
            return torch.zeros(0, self.summary_rows + width, self.hidden), samples

        def pass_below(piece: Tensor, seed: int) -> Tensor:
            rows = self._pass_below(*self._cut(waveform[piece], samples[piece]))
            return nn.functional.pad(rows, (0, 0, 0, self.summary_rows + width - rows.shape[1]))

        rows = _in_pieces(pass_below, self.pieces(samples), False)
        if self.feature_dtype == torch.float16:
            largest = torch.finfo(torch.float16).max
            kept = rows.detach().clamp(-largest, largest).half().float()
            rows = rows + (kept - rows.detach())  # the gradient passes as if nothing were rounded
        return rows, self.summary_rows + self._frames_of(samples.clamp(min=self._least))

    def _upper_means(self, encoder: Any, features: Tensor, frames: Tensor) -> Tensor:
        """Compute all layers' means [B, L + 1, H] from what the frozen part gives, on the CPU."""
        if len(frames) == 0:
            return torch.zeros(0, self.layers, self.hidden)
        lengths = frames - self.summary_rows

        def pass_above(piece: Tensor, seed: int) -> Tensor:
            until = self.summary_rows + int(lengths[piece].max())
            states = features[piece, self.summary_rows : until]
            return self._pass_above(encoder, states, lengths[piece], seed)

        above = _in_pieces(pass_above, _grouped(lengths, self._piece_above), encoder.training)
        return torch.cat([features[:, : self.summary_rows], above], 1)

    def _frames_of(self, samples: Tensor) -> Tensor:
        frames: Tensor = self.pretrained._get_feat_extract_output_lengths(samples)
        return frames

    def _cut(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cut a piece to its longest utterance; none is shorter than one frame."""
        lengths = samples.clamp(min=self._least)
        padded = nn.functional.pad(waveform, (0, max(0, self._least - waveform.shape[1])))
        return padded[:, : int(lengths.max())], lengths

    def pieces(self, lengths: Tensor) -> list[Tensor]:
        """Group positions into pieces of limited audio, padding included, that pass the encoder together.

        Utterances of similar length are grouped, so that little is padding: 3 % for 32 utterances of RAVDESS
        in pieces of 30 s, where grouping neighbours would give 12 %.
        """
        return _grouped(lengths, self._piece)

    def _listen(self, encoder: Any, waveform: Tensor, samples: Tensor, seed: int) -> Tensor:
        """Compute the layers' means [b, L + 1, H] of one piece [b, S]."""
        x, mask, frames = self._placed(encoder, waveform, samples)
        with self._computing(seed if encoder.training else None):
            states = encoder(x, attention_mask=mask, output_hidden_states=True).hidden_states
        real = frame_mask(frames, states[0].shape[1])
        return _means(states, real, frames).cpu()

    def _pass_below(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Compute the rows [b, F + T, H] of one piece [b, S]."""
        x, mask, frames = self._placed(self.pretrained, waveform, samples)
        with self._computing(None):
            states = [first_state(self.pretrained, x, mask)]
            real = frame_mask(frames, states[0].shape[1])
            states += later_states(self.pretrained, states[0], real, 0, self.summary_rows)
        *below, border = states
        rows = border.float() * real[:, :, None]
        return torch.cat([_means(below, real, frames), rows], 1).cpu() if below else rows.cpu()

    def _pass_above(self, encoder: Any, states: Tensor, lengths: Tensor, seed: int) -> Tensor:
        """Compute the means [b, L + 1 - F, H] of one piece of hidden states [b, T, H]."""
        x, frames = states.to(self.device), lengths.to(self.device)
        real = frame_mask(frames, x.shape[1])
        with self._computing(seed if encoder.training else None):
            above = later_states(encoder, x, real, self.summary_rows, self.layers - 1)
        return _means([x, *above], real, frames).cpu()

    def _placed(
        self, encoder: Any, waveform: Tensor, samples: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return one piece [b, S] on the device, its mask [b, S] if it has padding, and its frames [b]."""
        x, lengths = waveform.to(self.device), samples.to(self.device)
        first = encoder.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), TrueFramesGroupNorm):
            valid = (samples - self._first_kernel) // self._first_stride + 1
            # Decided on the CPU: a GPU tensor would force a synchronisation.
            padded = bool((valid < (x.shape[1] - self._first_kernel) // self._first_stride + 1).any())
            first.layer_norm.frames = valid.to(self.device) if padded else None
        # Without a mask attention has faster kernels, and a GPU is not made to wait.
        mask = frame_mask(lengths, x.shape[1]).long() if bool((samples < x.shape[1]).any()) else None
        return x, mask, self._frames_of(lengths)

    @contextmanager
    def _computing(self, seed: int | None) -> Iterator[None]:
        """Compute in the encoder's precision; dropout draws from the seed."""
        drawing = nullcontext() if seed is None else _Seeded(seed, self.device)
        with drawing, arithmetic(self.device, self.precision), _quiet():
            yield


def _in_pieces(compute: Callable[[Tensor, int], Tensor], pieces: list[Tensor], draws: bool) -> Tensor:
    """Compute rows for groups of positions, each with a seed, and put them in order.

    Where gradients are needed and there is more than one group, each is computed again for them.
    """
    again = torch.is_grad_enabled() and len(pieces) > 1
    made = []
    for piece in pieces:
        # Dropout must be the same when a piece is recomputed for its gradients.
        seed = int(torch.randint(2**62, ())) if draws else 0
        if again:
            made.append(recomputed(compute, piece, seed, use_reentrant=False, preserve_rng_state=False))
        else:
            made.append(compute(piece, seed))
    return torch.cat(made)[torch.cat(pieces).argsort()] if len(pieces) > 1 else made[0]


def _grouped(lengths: Tensor, limit: int) -> list[Tensor]:
    """Group positions by similar length, so that no group, padding included, is longer than the limit."""
    if len(lengths) * int(lengths.max()) <= limit:
        return [torch.arange(len(lengths))]
    order, start, cuts = lengths.argsort(stable=True), 0, list[int]()
    for i, length in enumerate(lengths[order].tolist()):
        if i > start and (i + 1 - start) * length > limit:
            cuts.append(i - start)
            start = i
    return list(torch.split(order, [*cuts, len(lengths) - start]))


def _means(states: Sequence[Tensor], real: Tensor, frames: Tensor) -> Tensor:
    """Average hidden states [b, T, H] over the true frames: [b, number of states, H]."""
    # One layer at a time: all at once would be the largest tensor here.
    means = [(state.float() * real[:, :, None]).sum(1) / frames[:, None] for state in states]
    return torch.stack(means, 1)


def _kept_head(checkpoint: Checkpoint, classes: int, labels: tuple[str, ...]) -> PublishedHead:
    if len(labels) != classes:
        raise BadInput(
            f"model.encoder.labels: names {len(labels)} labels, but there are {classes} emotions; name one "
            'for each emotion, or replace the head: model.encoder.head = "new"'
        )
    return load_head(checkpoint, labels)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning about WavLM's two masks of different types, which are correct."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
        yield


class _Seeded:
    """A context in which torch draws from a seed; its generators are restored afterwards."""

    def __init__(self, seed: int, device: str) -> None:
        self._seed, self._gpu = seed, torch.device(device).type == "cuda"
        self._fork: Any = torch.random.fork_rng([torch.cuda.current_device()] if self._gpu else [])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.default_generator.manual_seed(self._seed)
        if self._gpu:
            torch.cuda.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def normalised(waveform: Tensor, samples: Tensor) -> Tensor:
    """Normalise each utterance to mean 0 and variance 1 over its true samples, zero beyond.

    Args:
        waveform: [B, S], zero beyond the true lengths.
        samples: [B] true lengths, >= 1.
    """
    real, count = frame_mask(samples, waveform.shape[1]), samples[:, None]
    centred = (waveform - waveform.sum(1, keepdim=True) / count) * real
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + _VARIANCE_FLOOR).sqrt()


def _receptive_field(kernels_and_strides: list[tuple[int, int]]) -> int:
    """Compute the number of samples that one frame sees."""
    field = 1
    for kernel, stride in reversed(kernels_and_strides):
        field = (field - 1) * stride + kernel
    return field


def _trainable(pretrained: Any, settings: ModelSettings) -> Any:
    """Copy an encoder so that the trained part has its own tensors; the rest is shared."""
    trains, config = settings.encoder.trains, pretrained.config
    lowest, adapts = lowest_trained(trains, config.num_hidden_layers) or 0, trains.startswith("lora")
    layers = [str(i) for i in range(lowest, config.num_hidden_layers)]
    chosen: set[str] = set()
    if not adapts:
        for name, _ in pretrained.named_parameters():
            parts = name.split(".")
            upper = parts[:2] == ["encoder", "layers"] and parts[2] in layers
            # Parameters on which no hidden state depends have no gradient.
            unused = name == "masked_spec_embed" or (
                config.do_stable_layer_norm and name.startswith("encoder.layer_norm.")
            )
            if upper or (trains == "all" and not unused):
                chosen.add(name)
    named = (*pretrained.named_parameters(), *pretrained.named_buffers())
    copied = copy.deepcopy(pretrained, {id(tensor): tensor for name, tensor in named if name not in chosen})
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(name in chosen)
    return _with_adapters(copied, config.model_type, layers, settings) if adapts else copied


def _with_adapters(encoder: Any, kind: str, layers: list[str], settings: ModelSettings) -> Any:
    from peft import LoraConfig, inject_adapter_in_model

    adapters = LoraConfig(
        r=settings.encoder.lora_rank,
        lora_alpha=settings.encoder.lora_alpha,
        target_modules=rf"encoder\.layers\.({'|'.join(layers)})\..*\.({'|'.join(LORA_TARGETS[kind])})",
        lora_dropout=0.0,
    )
    return inject_adapter_in_model(adapters, encoder)
