"""KLoM, KL divergence of margins: how far unlearned models' answers to an utterance are from retrained ones'.

Georgiev et al. 2024 (arXiv 2410.23232, appendix E.1) and Rinberg et al. 2025 (the Easy Data Unlearning
Benchmark). The margin of an utterance is the log-odds of its true class. Over many unlearned models it has a
distribution, over many retrained models another; KLoM is the divergence of the first from the second,
utterance by utterance. Unlike an average over utterances it sees a method that gives easy utterances hard
answers and hard ones easy answers, and unlike U-LiRA it asks for more than the two means: answers that do not
vary from model to model as a retrained model's do count, too.

Of shadow federations, the unlearned models are those that were trained on the utterance (IN) and unlearned
it, the retrained ones those that never heard it (OUT), before their own unlearn step. These were trained on
the other utterances that they hold, half of the forget set; a model retrained without all of it is not among
shadows.

Histograms of few models are far from each other by chance alone. The value is therefore given beside that of
retrained models against other retrained models, both from the same number of models; and beside the same
divergence of Gaussians fitted to the margins, which takes fewer models to be known.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from fedunlearn.evaluation.lira import LEAST_DEVIATION
from fedunlearn.evaluation.shadow_attack import BooleanMask, CannotAttack, Matrix
from fedunlearn.results_schema import KlomScores

BINS = 20
"""of equal width, from the least to the largest margin of both samples"""
LEAST_SHARE = 1e-5
"""what a bin without a retrained model counts as: margins that nowhere overlap give at most ln 1e5 = 11.5"""
CLIP = 100.0
"""nats; margins beyond count as this"""
LEAST_MODELS = 8
"""on either side, below which an utterance is left out: histograms of fewer are all apart. Two samples of one
Gaussian are by the median 8.7 nats apart with 4 models, 6.7 with 8, 3.8 with 16, 1.7 with 32, .9 with 50"""
SPLITS = 20
"""random choices of the models compared, over which an utterance's value is averaged"""

Margins = npt.NDArray[np.floating]


def klom(unlearned: Margins, retrained: Margins) -> float:
    """KL(unlearned || retrained) of binned margins of one utterance, in nats, >= 0.

    As the published implementation, but that the largest margin of all counts in the last bin; there it is in
    none, and is lost.

    Args:
        unlearned: margins under unlearned models, [n >= 1], nats.
        retrained: margins under retrained models, [m >= 1], nats.

    Raises:
        ValueError: a margin is NaN, or there are none.
    """
    if not len(unlearned) or not len(retrained) or np.isnan(unlearned).any() or np.isnan(retrained).any():
        raise ValueError("klom: needs margins of both kinds of models, none of them NaN")
    p_values, q_values = np.clip(unlearned, -CLIP, CLIP), np.clip(retrained, -CLIP, CLIP)
    low, high = (float(f([f(p_values), f(q_values)])) for f in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (p_values, q_values))
    # With bins that no retrained model is in, q sums up to a little more than 1.
    return max(0.0, float(rel_entr(p, np.maximum(q, LEAST_SHARE)).sum()))


def gaussian_klom(unlearned: Margins, retrained: Margins) -> float:
    """KL(unlearned || retrained) of Gaussians with the margins' means and variances, in nats, >= 0.

    Args:
        unlearned: margins under unlearned models, [n >= 2], nats.
        retrained: margins under retrained models, [m >= 2], nats.
    """
    p, q = (np.clip(values, -CLIP, CLIP) for values in (unlearned, retrained))
    own, wanted = (max(float(values.var(ddof=1)), LEAST_DEVIATION**2) for values in (p, q))
    apart = float(p.mean() - q.mean())
    return 0.5 * ((own + apart**2) / wanted - 1.0 - math.log(own / wanted))


def klom_of_shadows(
    margins: Matrix, never_heard: Matrix, inside: BooleanMask, rng: np.random.Generator
) -> tuple[KlomScores, KlomScores]:
    """Compute KLoM of each candidate over shadow models, and the same of retrained against retrained models.

    Args:
        margins: [S, K] of S shadows on K candidates, after unlearning; NaN where not known.
        never_heard: [S, K] before any unlearn step, read where ``inside`` is False.
        inside: [S, K], True where the shadow was trained on the candidate.
        rng: draws the models that are compared.

    Returns:
        (of the unlearned models, of retrained models among each other), over the same candidates

    Raises:
        CannotAttack: no candidate has ``LEAST_MODELS`` models on each side.
    """
    found, null, counts = list[list[float]](), list[list[float]](), list[int]()
    for k in range(inside.shape[1]):
        mine = margins[inside[:, k], k]
        others = never_heard[~inside[:, k], k]
        mine, others = mine[~np.isnan(mine)], others[~np.isnan(others)]
        models = min(len(mine), len(others) // 2)
        if models < LEAST_MODELS:
            continue
        own, between = np.empty((SPLITS, 2)), np.empty((SPLITS, 2))
        for split in range(SPLITS):
            drawn = rng.permutation(others)
            one, other = drawn[:models], drawn[models : 2 * models]
            mine = rng.permutation(mine)
            own[split] = klom(mine[:models], one), gaussian_klom(mine[:models], one)
            between[split] = klom(other, one), gaussian_klom(other, one)
        found.append(own.mean(0).tolist())
        null.append(between.mean(0).tolist())
        counts.append(models)
    if not found:
        raise CannotAttack(
            f"KLoM needs utterances that at least {LEAST_MODELS} shadows were trained on and "
            f"{2 * LEAST_MODELS} were not: set evaluation.shadows higher (got {len(inside)})"
        )
    return _summary(found, counts), _summary(null, counts)


def _summary(found: list[list[float]], models: list[int]) -> KlomScores:
    values, gaussian = np.array(found).T
    return KlomScores(
        mean=float(values.mean()),
        median=float(np.median(values)),
        p95=float(np.quantile(values, 0.95)),
        gaussian=float(np.median(gaussian)),
        n=len(values),
        models=round(float(np.median(models))),
    )
