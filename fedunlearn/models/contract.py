"""The interface of every emotion model, on which training, unlearning and attacks rely."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.examples import Examples
from fedunlearn.models.explicit import ExplicitGradients
from fedunlearn.models.frontend import frame_mask


class Standardise(nn.Module):
    """Computes (x - mean) / std with constants that are part of the model's state.

    The constants come from one calibration round before training (each client sends its local mean and mean
    square once; the server averages them and rounds coarsely), never from pooled audio. They are sent and
    checkpointed like any other weight. Neither gradients nor deletions change them.

    Args:
        dims: number of features D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("std", torch.ones(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features [..., D]."""
        return (x - self.mean) / self.std


def constants_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the normalisation constants from a model's weights."""
    return {name: value for name, value in weights.items() if name.startswith("norm.")}


class EmotionModel(nn.Module, ABC):
    """A speech emotion recogniser in two parts: ``derive`` (fixed) and ``classify`` (trained).

    ``derive`` computes from waveforms the features that a vault may store beside the audio; it has no trained
    parameters. ``classify`` computes logits from features. Both are differentiable, so that an attack can
    perturb the features or the waveform.
    """

    norm: Standardise
    feature_name: str
    """Name of the derived features; models with equal names share them."""
    dims: int
    """Width D of one feature frame."""
    classes: int
    """Number of emotions C."""
    feature_dtype: torch.dtype = torch.float32
    """In which a vault stores the features, float32 or float16; ``derive`` gives float32 of these values."""
    summary_rows: int = 0
    """Rows at the start of the features that describe a whole utterance: they are neither cut nor masked."""
    frame_seconds: float | None = None
    """Seconds from one feature frame to the next; None if an utterance is one frame."""
    calibration_seconds: float | None = None
    """Seconds from one row of ``calibration_rows`` to the next; None if an utterance gives one row."""
    device: str = "cpu"
    """Device of its expensive part. Inputs may be there or on the CPU, where logits always are."""
    stores_features: bool = True
    """Whether a vault should store the features; False if computing them is as fast as reading them."""

    follows_left_out: bool = False
    """Whether the server follows what it would be without each client (``server/left_out.py``)."""

    @property
    def feature_mean(self) -> Tensor:
        """Mean feature frame, [D]."""
        return self.norm.mean

    def unit_at(self, features: Tensor) -> Tensor:
        """Return the unit of noise and attacks: what size 1 adds to a feature.

        Args:
            features: [B, T, D].

        Returns:
            Values >= 0 that broadcast against the features.
        """
        return self.norm.std

    def calibration_rows(self, features: Tensor, frames: Tensor) -> Tensor:
        """Return the rows on which ``norm`` is calibrated; here the unpadded frames.

        The rows must not depend on the trained weights.

        Args:
            features: [B, T, D].
            frames: [B] true lengths.

        Returns:
            Rows [m, D'], where D' is the width of ``norm``.
        """
        return features[frame_mask(frames, features.shape[1])]

    def noise(self, count: int, frames: int, generator: torch.Generator) -> Tensor:
        """Draw random features from the normal distribution that ``norm`` describes.

        Args:
            count: number of utterances.
            frames: frames of each.
            generator: source of randomness.

        Returns:
            Features [count, frames, D].
        """
        drawn = torch.randn(count, frames, self.dims, generator=generator)
        return drawn.mul_(self.norm.std).add_(self.feature_mean)

    def answers_to(self, noise: Tensor) -> Tensor:
        """Compute logits [n, C] of random features that ``noise`` has drawn."""
        return self.classify(noise, torch.full((len(noise),), noise.shape[1], dtype=torch.int64))

    def smoothable(self) -> Iterator[tuple[Tensor, Tensor | float]]:
        """Yield the trained matrices [outputs, inputs] in whose small singular values memorisation resides.

        Each comes with its values before training (or 0): the singular directions are those of the
        difference.
        """
        return ((p, 0.0) for p in self.parameters() if p.requires_grad and p.dim() == 2)

    def pieces(self, lengths: Tensor) -> list[Tensor]:
        """Group positions of utterances with true lengths [B] for joint computation; here in one group."""
        return [torch.arange(len(lengths))]

    @property
    def first_layer(self) -> str:
        """Name, in the state dict, of the first trained layer's weights: a matrix or kernels, not a bias.

        Models create their layers in the order in which features pass through them.
        """
        trained = ((name, p) for name, p in self.named_parameters() if p.requires_grad)
        return next(name for name, p in trained if p.dim() > 1 and len(p) > 1)

    def about(self) -> dict[str, Any]:
        """Describe the recogniser for results.json.

        Returns:
            "weights": what training starts from ("from nothing", "pre-trained" or "random"); "parameters":
            their number; "travels": number of values in a message. An encoder adds more keys.
        """
        travels = sum(value.numel() for value in self.state_dict().values())
        parameters = sum(p.numel() for p in self.parameters())
        return {"weights": "from nothing", "parameters": parameters, "travels": travels}

    @abstractmethod
    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features from waveforms.

        Args:
            waveform: [B, S] in [-1, 1], zero beyond the true lengths.
            samples: [B] true lengths in samples.

        Returns:
            Features [B, T, D] and their true lengths in frames [B].
        """

    @abstractmethod
    def classify(self, features: Tensor, frames: Tensor) -> Tensor:
        """Compute logits from features.

        Args:
            features: [B, T, D], zero beyond the true lengths.
            frames: [B] true lengths in frames.

        Returns:
            Logits [B, C].
        """

    def explicit_gradients(
        self, examples: Examples, rng: torch.Generator, in_span: bool
    ) -> ExplicitGradients | None:
        """Return the cross-entropy and its gradients written out, with which training is faster.

        Args:
            examples: on which the model is trained.
            rng: source of dropout.
            in_span: whether all inputs are examples or mixtures of them, the weights do not decay, and each
                example is used about once or more.

        Returns:
            None, as here: the model trains by autograd.
        """
        return None

    @property
    def ticket_size(self) -> int:
        """How many numbers a device notes of an utterance while the model is trained on it; here C."""
        return self.classes

    def contribution(self, examples: Examples, tickets: Tensor) -> dict[str, Tensor]:
        """Compute what training on some utterances has taken from the weights; here, approximately.

        Args:
            examples: the n utterances.
            tickets: [n, ``ticket_size``] float32, what was noted of them.

        Returns:
            for each trained tensor what the model would have more without them, in the unit of the tickets
        """
        return contribution_by_residuals(self, examples, tickets)

    def features_of(self, pcm: PCM) -> Tensor:
        """Compute the features [T, D] of one recording, without gradients.

        One utterance at a time, hence without padding: a device and the judge get the same bits, whatever
        else they hold.

        Args:
            pcm: int16 [S] at 16 kHz.

        Returns:
            In ``feature_dtype``.
        """
        waveform, samples = pad([to_float(pcm)])
        with torch.no_grad():
            features, frames = self.derive(waveform, samples)
        return features[0, : int(frames[0])].to(self.feature_dtype)

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Compute logits [B, C] from waveforms [B, S] with true lengths [B]."""
        return self.classify(*self.derive(waveform, samples))


class MelModel(EmotionModel):
    """A recogniser whose features are computed from log-mel frames, which an attack can perturb."""

    @abstractmethod
    def log_mel(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-mel frames from which the features are computed.

        Args:
            waveform: [B, S] in [-1, 1], zero beyond the true lengths.
            samples: [B] true lengths in samples.

        Returns:
            Log-mel [B, T, M] in nats, zero on padding frames, and true lengths in frames [B], >= 1.
        """

    @abstractmethod
    def from_mel(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features from log-mel frames.

        Args:
            mel: [B, T, M], as ``log_mel`` returns it.
            frames: [B] true lengths.

        Returns:
            Features [B, T', D] and their true lengths [B].
        """

    def derive(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features from waveforms.

        Args:
            waveform: [B, S] in [-1, 1], zero beyond the true lengths.
            samples: [B] true lengths in samples.

        Returns:
            Features [B, T, D] and their true lengths in frames [B].
        """
        return self.from_mel(*self.log_mel(waveform, samples))


def contribution_by_residuals(model: EmotionModel, examples: Examples, tickets: Tensor) -> dict[str, Tensor]:
    """Compute what training on some utterances has taken from the weights, from their residuals.

    A step of gradient descent takes the sum over its batch of J^T r from the weights, where r = p - y is the
    gradient of an utterance's loss by its logits and J that of its logits by the weights. A ticket is the sum
    of r over the steps, each as large as its effect, and J that of the present model in evaluation mode: an
    approximation, as J changes in training.

    Args:
        model: not changed.
        examples: the n utterances.
        tickets: [n, C] float32.

    Returns:
        as of ``EmotionModel.contribution``
    """
    names, was_training = trained_names(model), model.training
    model.eval()
    with torch.enable_grad():
        parameters = [p for p in model.parameters() if p.requires_grad]
        logits = model.classify(examples.features, examples.frames)
        found = torch.autograd.grad((logits * tickets).sum(), parameters)
    model.train(was_training)
    return dict(zip(names, found, strict=True))


def trained_tensors(model: EmotionModel) -> dict[str, Tensor]:
    """Return a model's trained tensors by name, in its order; they share its memory."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def trained_names(model: EmotionModel) -> list[str]:
    """List the names of a model's trained tensors, in its order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
