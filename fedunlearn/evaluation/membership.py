"""Population membership inference: can a model's loss tell forget utterances from never-seen ones?

Yeom et al. 2018 (arXiv 1709.01604) as an AUC. It is an average over people: per-example attacks find more
(Hayes et al. 2024, arXiv 2403.01218; ``lira``), so a value near the retrained model's is needed, not proof.

Two forms. The first compares D_f with the test speech of all client speakers; a requester whose voice is
easier than other people's looks like a member there, trained on or not. The second compares utterances of
one speaker only, which leaves few test utterances and a wide interval.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit  # scipy.stats takes a second to import

from fedunlearn.evaluation.roc import LOW_RATES, ROUNDING, corners, low_rates, thin
from fedunlearn.results_schema import MembershipAttack, RocCurve

Losses = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Weights = npt.NDArray[np.float64]


def lower(forget_losses: Losses, test_losses: Losses) -> Weights:
    """Pairs [f, t]: 1 where the forget utterance has the lower loss, 1/2 where both have the same, else 0."""
    forget, test = forget_losses[:, None], test_losses[None, :]
    shares: Weights = (forget < test) + 0.5 * (forget == test)
    return shares


def label_mix_weights(forget_labels: Labels, test_labels: Labels) -> Weights:
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
) -> MembershipAttack:
    """Probability that a forget utterance has a lower loss than a test utterance, ties counting half.

    Test utterances are weighted to the forget set's label mix; forget utterances of a label that the test
    set lacks are left out, so that a rare emotion is not taken for membership.

    Args:
        forget_losses: losses on D_f, [f].
        forget_labels: true classes of D_f, [f].
        test_losses: losses on test speech of client speakers, [t].
        test_labels: true classes of the test speech, [t].
        resamples: of the bootstrap, which draws utterances of both sets.
        rng: of the bootstrap.

    Raises:
        ValueError: a loss is NaN.
    """
    _refuse_nan(forget_losses, test_losses)
    comparable = np.isin(forget_labels, test_labels)
    forget_losses, forget_labels = forget_losses[comparable], forget_labels[comparable]
    weights = label_mix_weights(forget_labels, test_labels)
    curve = corners(-forget_losses, -test_losses, weights)
    if curve is None:
        return MembershipAttack(
            auc=None, low=None, high=None, n=0, tpr_at=dict.fromkeys(LOW_RATES), roc=RocCurve.empty()
        )
    pairs = np.broadcast_to(weights, (len(forget_losses), len(weights)))
    auc, low, high = _auc(forget_losses, test_losses, pairs, resamples, rng)
    return MembershipAttack(
        auc=auc,
        low=low,
        high=high,
        n=len(forget_losses),
        tpr_at={**low_rates(*curve)},
        roc=thin(*curve),
    )


def same_speaker(
    forget_losses: Losses,
    forget_labels: Labels,
    forget_speakers: npt.NDArray[np.generic],
    test_losses: Losses,
    test_labels: Labels,
    test_speakers: npt.NDArray[np.generic],
    resamples: int,
    rng: np.random.Generator,
) -> MembershipAttack:
    """Probability that a forget utterance has a lower loss than a test utterance of the same speaker.

    Ties count half. For each speaker, the test utterances are weighted to the label mix of its own forget
    utterances, and forget utterances of a label that its test speech lacks are left out; then every forget
    utterance that is left counts alike. The interval is for these speakers, not for others: utterances are
    drawn again, people are not. The TPR at a low FPR is that of a threshold for each speaker.

    Args:
        forget_losses: losses on D_f, [f].
        forget_labels: true classes of D_f, [f].
        forget_speakers: speakers of D_f, [f].
        test_losses: losses on test speech of client speakers, [t].
        test_labels: true classes of the test speech, [t].
        test_speakers: speakers of the test speech, [t].
        resamples: of the bootstrap, which draws utterances of both sets.
        rng: of the bootstrap.

    Raises:
        ValueError: a loss is NaN.
    """
    _refuse_nan(forget_losses, test_losses)
    pairs = np.zeros((len(forget_losses), len(test_losses)))
    for speaker in np.unique(forget_speakers):
        own, tested = forget_speakers == speaker, test_speakers == speaker
        own[own] = np.isin(forget_labels[own], test_labels[tested])
        pairs[np.ix_(own, tested)] = label_mix_weights(forget_labels[own], test_labels[tested])
    compared = pairs.any(1)
    if not compared.any():
        return MembershipAttack(auc=None, low=None, high=None, n=0, tpr_at=dict.fromkeys(LOW_RATES))
    forget_losses, pairs = forget_losses[compared], pairs[compared]
    auc, low, high = _auc(forget_losses, test_losses, pairs, resamples, rng)
    # Each is found at the false positive rate among the test utterances of its own speaker.
    alarms = (pairs * (test_losses <= forget_losses[:, None])).sum(1) / pairs.sum(1)
    rates = {name: float((alarms <= most + ROUNDING).mean()) for name, most in LOW_RATES.items()}
    return MembershipAttack(auc=auc, low=low, high=high, n=len(forget_losses), tpr_at={**rates})


def _auc(
    forget_losses: Losses, test_losses: Losses, pairs: Weights, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The weighted share of pairs [f, t] in which the forget utterance has the lower loss, and its interval.

    f, t >= 1.
    """
    won = pairs * lower(forget_losses, test_losses)
    point = won.sum() / pairs.sum()
    drawn_forget = rng.multinomial(len(forget_losses), _uniform(len(forget_losses)), size=resamples)
    drawn_test = rng.multinomial(len(test_losses), _uniform(len(test_losses)), size=resamples)
    total = ((drawn_forget @ pairs) * drawn_test).sum(1)
    resampled = ((drawn_forget @ won) * drawn_test).sum(1)[total > 0] / total[total > 0]
    tail = _tail(min(len(forget_losses), len(test_losses)))
    low, high = np.quantile(resampled, [tail, 1.0 - tail]) if len(resampled) else (point, point)
    # Weighted sums of ones may come out an ulp above 1.
    auc, low, high = np.clip([point, low, high], 0.0, 1.0).tolist()
    return auc, low, high


def _tail(n: int) -> float:
    """What to leave out on each side for a 95 % interval: less than 2.5 % where n is small.

    The expanded percentile interval (Hesterberg 2015, doi 10.1080/00031305.2015.1089789): resamples of n
    spread less than samples do, by sqrt((n - 1) / n), and their tails are the normal's, not Student's.
    """
    if n < 2:
        return 0.0
    return float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975)))


def _refuse_nan(*losses: Losses) -> None:
    if any(np.isnan(part).any() for part in losses):
        raise ValueError("membership: a loss is NaN")


def _uniform(n: int) -> Weights:
    return np.full(n, 1.0 / n)
