"""Informed membership inference: the attacker knows how models of this method treat forgotten speech.

After Dinis et al. 2026. The attacker has other models that were unlearned by the same method, and knows of
*other requests'* utterances which of these models unlearned them (IN) and which never saw them (OUT). A
classifier learns the difference from the models' outputs and is then shown models and utterances that it has
never seen: each request is left out in turn, and so are the attacked models. A simple attack assumes that
members have low losses; this one learns which losses they have. So it also detects a method that moves the
loss to a common value, or too far.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from fedunlearn.evaluation.lira import confidence
from fedunlearn.evaluation.shadow_attack import (
    BooleanMask,
    CannotAttack,
    Matrix,
    attack_result,
    auc_and_rates,
)
from fedunlearn.results_schema import RequestAttack, ShadowAttackScores

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

FOLDS = 4
"""parts that the shadows fall into: a model is attacked with what the models of the other parts teach"""


def outputs(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """The features that the attacker uses: [..., K, 4]; NaN where a logit is not finite.

    The true class's confidence phi (nats; of the same order as the loss, but not rounded to 0 where the loss
    is), the entropy of the prediction (nats), the margin between the two likeliest classes (nats), the true
    class.
    """
    phi = confidence(logits, labels)
    wide = np.where(np.isnan(phi)[..., None], 0.0, logits.astype(np.float64))
    log_p = wide - logsumexp(wide, axis=-1, keepdims=True)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    first_two = np.sort(wide, axis=-1)[..., -2:]
    margin = first_two[..., 1] - first_two[..., 0]
    return np.stack([phi, entropy, margin, np.broadcast_to(labels.astype(np.float64), phi.shape)], -1)


def informed(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    inside: BooleanMask,
    request: npt.NDArray[np.integer],
    resamples: int,
    rng: np.random.Generator,
) -> ShadowAttackScores:
    """Attack every request with a classifier trained on the other requests and other shadows.

    Gradient-boosted trees (scikit-learn) on ``outputs``; the score is their log odds. The interval is for
    these requests' speakers: utterances and shadows are drawn again, requests are not.

    Args:
        logits: [S, K, C] of S shadows on K candidate utterances.
        labels: [K].
        inside: [S, K], True where the shadow was trained on the utterance (and unlearned it, if it did).
        request: [K], the request that each candidate belongs to.
        resamples: of the bootstrap, see ``attack_result``.
        rng: of the bootstrap and of the classifier.

    Returns:
        the scores, also by request, in the order of their numbers.

    Raises:
        CannotAttack: fewer than 2 requests or 2 shadows, or none to learn both IN and OUT from.
    """
    numbers = np.unique(request)
    if len(numbers) < 2:
        raise CannotAttack(
            f"the informed attack learns from other requests: it needs 2 or more (got {len(numbers)})"
        )
    if len(inside) < 2:
        raise CannotAttack(f"the informed attack learns from other shadows: it needs 2 (got {len(inside)})")
    shown = outputs(logits, labels)
    known = ~np.isnan(shown).any(-1)
    part_of = np.arange(len(inside)) % FOLDS
    seed = int(rng.integers(2**31))
    scores: Matrix = np.full(inside.shape, np.nan)
    for part in np.unique(part_of):
        for number in numbers:
            attacked = _cells(part_of == part, request == number) & known
            lesson = _cells(part_of != part, request != number) & known
            if attacked.any() and 0 < inside[lesson].sum() < lesson.sum():
                classifier = _classifier(int(lesson.sum()), seed).fit(shown[lesson], inside[lesson])
                scores[attacked] = classifier.decision_function(shown[attacked])
    result = attack_result(scores, inside, resamples, rng)
    result.requests = [_of_request(int(number), scores, inside, request == number) for number in numbers]
    return result


def _of_request(number: int, scores: Matrix, inside: BooleanMask, own: BooleanMask) -> RequestAttack:
    auc, rates = auc_and_rates(scores[:, own], inside[:, own])
    return RequestAttack(request=number, auc=auc, n=int(own.sum()), tpr_at=rates)


def _cells(shadows: BooleanMask, utterances: BooleanMask) -> BooleanMask:
    cells: BooleanMask = shadows[:, None] & utterances[None, :]
    return cells


def _classifier(examples: int, seed: int) -> "HistGradientBoostingClassifier":
    from sklearn.ensemble import HistGradientBoostingClassifier  # a second, and few runs attack like this

    # Small trees with full leaves: there are some thousands of pairs, but only dozens of utterances.
    return HistGradientBoostingClassifier(
        max_iter=50,
        max_leaf_nodes=8,
        min_samples_leaf=max(1, min(40, examples // 20)),
        early_stopping=False,
        categorical_features=[3],
        random_state=seed,
    )
