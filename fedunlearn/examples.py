"""Labelled utterances as tensors, ready for a model."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Derived features of n utterances, padded to the longest.

    Attributes:
        features: [n, T, D] float32, zero on padding frames.
        frames: [n] int64, true lengths in frames, >= 1.
        labels: [n] int64 in 0 ... C-1.
    """

    features: Tensor
    frames: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Examples":
        """Select examples.

        Args:
            index: positions, in the order of the result.

        Returns:
            The examples, padded to the longest of them.
        """
        frames = self.frames[index]
        width = int(frames.max()) if len(frames) else 0
        return Examples(self.features[index, :width], frames, self.labels[index])

    def followed_by(self, other: "Examples") -> "Examples":
        """Join two sets of examples of the same width T: these, then the other ones."""
        return Examples(
            torch.cat([self.features, other.features]),
            torch.cat([self.frames, other.frames]),
            torch.cat([self.labels, other.labels]),
        )


@dataclass(frozen=True)
class ForgetSet:
    """D_f of one request: everything that an unlearning method may see of anyone's data.

    Attributes:
        examples: derived features and labels of the n utterances to be forgotten.
        waveform: [n, S] float32 in [-1, 1], zero beyond the true lengths.
        samples: [n] int64, true lengths in samples.
        unknown: [n] float64, the log-odds of the true classes under the model without this client's own
            updates, which the server sends; None = it was not sent.
        tickets: [n, K] float32, what the device noted of each utterance while the model was trained on it;
            None = it notes nothing, or has nothing of one of them.
    """

    examples: Examples
    waveform: Tensor
    samples: Tensor
    unknown: Tensor | None = None
    tickets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.examples)


def pad_features(features: list[Tensor], labels: list[int]) -> Examples:
    """Stack features of different lengths into one set of examples.

    Args:
        features: n tensors [T_i, D], float32 or float16.
        labels: n labels.
    """
    frames = torch.tensor([len(f) for f in features], dtype=torch.int64)
    if not features:
        return Examples(torch.zeros(0, 0, 0), frames, torch.zeros(0, dtype=torch.int64))
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True).float()
    return Examples(padded, frames, torch.tensor(labels, dtype=torch.int64))
