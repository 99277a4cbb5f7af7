"""How well a model recognises emotions: UAR, accuracy (WA), macro F1 and the confusion matrix."""

import numpy as np

from fedunlearn.evaluation.intervals import Labels, accuracy_interval, uar_interval
from fedunlearn.results_schema import Recognition


def uar(labels: Labels, predictions: Labels) -> float | None:
    """Compute the unweighted average recall of labels [n]: the mean over emotions of the share recognised."""
    if len(labels) == 0:
        return None
    return float(np.mean([(predictions[labels == c] == c).mean() for c in np.unique(labels)]))


def accuracy(labels: Labels, predictions: Labels) -> float | None:
    """Compute the share of labels [n] that the predictions [n] match; None where n is 0."""
    return float((labels == predictions).mean()) if len(labels) else None


def macro_f1(labels: Labels, predictions: Labels) -> float | None:
    """Compute the mean of the F1 scores of the emotions that occur in truth or prediction; None for no label.

    As scikit-learn's ``f1_score(average="macro")``: F1 = 2 TP / (2 TP + FP + FN) of each emotion. One that is
    recognised where it never occurs counts with 0, unlike in the UAR.

    Args:
        labels: the true classes, [n].
        predictions: the recognised classes, [n].
    """
    if len(labels) == 0:
        return None
    scores = []
    for emotion in np.union1d(labels, predictions):
        true, found = labels == emotion, predictions == emotion
        scores.append(2.0 * (true & found).sum() / (true.sum() + found.sum()))
    return float(np.mean(scores))


def recognition(labels: Labels, predictions: Labels, *, with_uar: bool = True) -> Recognition:
    """UAR and accuracy with their 95 % intervals, macro F1, and the number of utterances.

    Args:
        labels: the true classes, [n].
        predictions: the recognised classes, [n].
        with_uar: whether to give UAR and macro F1: of utterances chosen by their emotion they say nothing.
    """
    share, ends = accuracy(labels, predictions), accuracy_interval(labels, predictions)
    if not with_uar:
        return Recognition(accuracy=share, n=len(labels), accuracy_interval=ends)
    return Recognition(
        uar=uar(labels, predictions),
        accuracy=share,
        macro_f1=macro_f1(labels, predictions),
        n=len(labels),
        accuracy_interval=ends,
        uar_interval=uar_interval(labels, predictions),
    )


def confusion(labels: Labels, predictions: Labels, classes: int) -> list[list[int]]:
    """Counts [true emotion][recognised emotion]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return [[int(n) for n in row] for row in counts]
