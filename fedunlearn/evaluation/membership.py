"""Population membership inference: can a model's loss tell forget utterances from never-seen ones?

Yeom et al. 2018 (arXiv 1709.01604) as an AUC. It is an average over people: per-example attacks find more
(Hayes et al. 2024, arXiv 2403.01218), so a value near the retrained model's is needed, not proof.
"""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


class Membership(TypedDict):
    """AUC with a bootstrap 95 % interval, all in [0, 1]; None where either set is empty."""

    auc: float | None
    low: float | None
    high: float | None


def label_mix_weights(forget_labels: Labels, test_labels: Labels) -> npt.NDArray[np.float64]:
    """Weights [n_test] that give the test set the forget set's label mix; 0 for labels it lacks."""
    weights = np.zeros(len(test_labels))
    for label in np.unique(forget_labels):
        here = test_labels == label
        if here.any():
            weights[here] = (forget_labels == label).mean() / here.sum()
    return weights


def membership(
    forget_losses: Losses,
    forget_labels: Labels,
    test_losses: Losses,
    test_labels: Labels,
    resamples: int,
    rng: np.random.Generator,
) -> Membership:
    """Probability that a forget utterance has a lower loss than a test utterance, ties counting half.

    Test utterances are weighted to the forget set's label mix; forget utterances of a label that the test
    set lacks are left out, so that a rare emotion is not taken for membership.

    Args:
        forget_losses, forget_labels: [f]; test_losses, test_labels: [t], of the client speakers.
        resamples: of the bootstrap, which draws utterances of both sets.
        rng: of the bootstrap.

    Raises:
        ValueError: a loss is NaN.
    """
    if np.isnan(forget_losses).any() or np.isnan(test_losses).any():
        raise ValueError("membership: a loss is NaN")
    comparable = np.isin(forget_labels, test_labels)
    forget_losses, forget_labels = forget_losses[comparable], forget_labels[comparable]
    if len(forget_losses) == 0 or len(test_losses) == 0:
        return {"auc": None, "low": None, "high": None}
    weights = label_mix_weights(forget_labels, test_labels)
    lower = (forget_losses[:, None] < test_losses[None, :]) + 0.5 * (
        forget_losses[:, None] == test_losses[None, :]
    )
    point = float(lower.mean(0) @ weights / weights.sum())
    drawn_forget = rng.multinomial(len(forget_losses), _uniform(len(forget_losses)), size=resamples)
    drawn_test = rng.multinomial(len(test_losses), _uniform(len(test_losses)), size=resamples) * weights
    total = drawn_forget.sum(1) * drawn_test.sum(1)
    resampled = ((drawn_forget @ lower) * drawn_test).sum(1)[total > 0] / total[total > 0]
    low, high = np.quantile(resampled, [0.025, 0.975]) if len(resampled) else (point, point)
    # Weighted sums of ones may come out an ulp above 1.
    auc, low, high = np.clip([point, low, high], 0.0, 1.0).tolist()
    return {"auc": auc, "low": low, "high": high}


def _uniform(n: int) -> npt.NDArray[np.float64]:
    return np.full(n, 1.0 / n)
