"""How well a model recognises emotions: UAR first, then accuracy, and what it mistakes for what."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]


class Recognition(TypedDict):
    """Of one set of utterances; null (None) where the set is empty."""

    uar: float | None
    accuracy: float | None
    n: int


def uar(labels: Labels, predictions: Labels) -> float | None:
    """Unweighted average recall: the mean over the emotions that occur of the share recognised. [n], [n]"""
    if len(labels) == 0:
        return None
    return float(np.mean([(predictions[labels == c] == c).mean() for c in np.unique(labels)]))


def accuracy(labels: Labels, predictions: Labels) -> float | None:
    """Share recognised. [n], [n]; None where n is 0."""
    return float((labels == predictions).mean()) if len(labels) else None


def recognition(labels: Labels, predictions: Labels) -> Recognition:
    """UAR, accuracy and the number of utterances. [n], [n]"""
    return {"uar": uar(labels, predictions), "accuracy": accuracy(labels, predictions), "n": len(labels)}


def confusion(labels: Labels, predictions: Labels, classes: int) -> list[list[int]]:
    """Counts [true emotion][recognised emotion]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return [[int(n) for n in row] for row in counts]
