"""The bootstrap of the gap: the same utterances are resampled for every model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedunlearn.evaluation.membership import label_mix_weights, lower

Values = npt.NDArray[np.float64]
"""Forget, retain and test accuracy and membership AUC, in this order; NaN = there is none."""


@dataclass(frozen=True)
class Answers:
    """A model's predictions on one set of n utterances.

    Attributes:
        right: [n] bool, whether it recognises each.
        losses: [n] nats.
        labels: [n] the true classes.
    """

    right: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


class Draws:
    """Utterances of each set drawn again, with replacement; every model is measured on the same draws.

    Args:
        forget: number of utterances of D_f.
        retain: number of utterances of D_r.
        test: number of utterances of D_t.
        resamples: how often they are drawn, B.
        rng: of the draws.
    """

    def __init__(self, forget: int, retain: int, test: int, resamples: int, rng: np.random.Generator) -> None:
        self._counts = [_draw(n, resamples, rng) for n in (forget, retain, test)]

    def measure(self, forget: Answers, retain: Answers, test: Answers) -> tuple[Values, Values]:
        """The four measures of the gap, [4] as they are and [B, 4] as drawn."""
        accuracies = [
            _both(part.right, counts)
            for part, counts in zip((forget, retain, test), self._counts, strict=True)
        ]
        columns = [*accuracies, self._auc(forget, test)]
        return np.array([c[0] for c in columns]), np.stack([c[1] for c in columns], axis=1)

    def _auc(self, forget: Answers, test: Answers) -> tuple[float, Values]:
        drawn_forget, drawn_test = self._counts[0], self._counts[2]
        comparable = np.isin(forget.labels, test.labels)
        if not comparable.any():
            return np.nan, np.full(len(drawn_forget), np.nan)
        weights = label_mix_weights(forget.labels[comparable], test.labels)
        losses = forget.losses[comparable]
        won = lower(losses, test.losses)
        point = float(won.mean(0) @ weights / weights.sum())
        chosen, weighted = drawn_forget[:, comparable], drawn_test * weights
        total = chosen.sum(1) * weighted.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return point, ((chosen @ won) * weighted).sum(1) / total


def differences(
    draws: Draws, model: Sequence[Answers], references: Sequence[Sequence[Answers]]
) -> tuple[Values, Values]:
    """A model minus each of S references: [4, S] as they are and [B, 4, S] as drawn.

    Args:
        draws: the resamples.
        model: its answers on the forget, retain and test set.
        references: the answers of each reference on the same sets.
    """
    own, drawn = draws.measure(*model)
    others = [draws.measure(*reference) for reference in references]
    observed = np.stack([own - other for other, _ in others], axis=1)
    return observed, np.stack([drawn - other for _, other in others], axis=2)


def _draw(n: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """How often each of n was drawn: [B, n]."""
    return (
        rng.multinomial(n, np.full(n, 1.0 / n), size=resamples) if n else np.zeros((resamples, 0), np.int64)
    )


def _both(right: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64]) -> tuple[float, Values]:
    if not len(right):
        return np.nan, np.full(len(counts), np.nan)
    return float(right.mean()), counts @ right / len(right)
