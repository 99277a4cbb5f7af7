"""How far answers move: the collateral shift of an unlearn step, and the spread of answers on the forget set.

An unlearn step should move the answers on what is deleted, and no others. A retrained model would answer
speech that was neither deleted nor ever trained on as the original does, but for the chance of another seed
and, where a speaker's training speech was deleted, for knowing that voice less well. What a step moves there
beyond that is collateral damage, and it gives the deleted utterances away: these are held near their targets
while everything around them moves. An answer here is the log-odds of the true emotion,
phi = ln p_y - ln(1 - p_y), in nats. The measures are this project's own.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from fedunlearn.evaluation.shadow_attack import BooleanMask, Matrix
from fedunlearn.results_schema import CollateralShift, LogOddsShift, TargetsFollowed

LogOddsVector = npt.NDArray[np.float64]


def shift(before: LogOddsVector, after: LogOddsVector) -> LogOddsShift:
    """Measure how far the log-odds of the same utterances moved from one model to another.

    Args:
        before: log-odds under the first model, [n], nats.
        after: the same under the second, [n]; an utterance with a value that is not finite is left out.

    Returns:
        rms and mean of after - before, and the least-squares slope of after on before: 1 = moved alike, below
        1 = flattened, with the rms of the residuals. None without any utterance; no slope where ``before`` is
        constant.
    """
    known = np.isfinite(before) & np.isfinite(after)
    start, end = before[known], after[known]
    if not len(start):
        return LogOddsShift(rms=None, mean=None, slope=None, residual=None, n=0)
    moved, centred = end - start, start - start.mean()
    squares = float(centred @ centred)
    slope = float(centred @ end) / squares if squares > 0.0 else None
    left = end - end.mean() - (slope or 0.0) * centred
    return LogOddsShift(
        rms=_rms(moved),
        mean=float(moved.mean()),
        slope=slope,
        residual=None if slope is None else _rms(left),
        n=len(start),
    )


def mean_shift(shifts: Sequence[LogOddsShift]) -> LogOddsShift:
    """Average shifts of the same utterances between several pairs of models.

    Args:
        shifts: one for each pair; none at all = an empty part.

    Returns:
        the mean of each measure; None where it is unknown for any pair
    """
    if not shifts:
        return LogOddsShift.empty()
    return LogOddsShift(
        rms=_mean([s.rms for s in shifts]),
        mean=_mean([s.mean for s in shifts]),
        slope=_mean([s.slope for s in shifts]),
        residual=_mean([s.residual for s in shifts]),
        n=shifts[0].n,
    )


def shift_between(models: Sequence[LogOddsVector]) -> LogOddsShift:
    """Measure how far models that differ in their seed alone are from each other.

    Args:
        models: log-odds of the same n utterances under each, [n].

    Returns:
        the mean over ordered pairs; empty with fewer than two
    """
    return mean_shift([shift(a, b) for a, b in permutations(models, 2)])


def never_heard_shift(phi: Mapping[str, Matrix], inside: BooleanMask) -> CollateralShift:
    """Measure the shift of what shadow models were never trained on, while they unlearned other utterances.

    Args:
        phi: stage -> log-odds [S, K] of S shadows on K candidates.
        inside: [S, K], True where the shadow was trained on the candidate.

    Returns:
        "seeds" is from one shadow to another, on the candidates that neither was trained on: shadows differ
        in their seed and in the other candidates that they were trained on
    """
    before, shadows = phi["original"], range(len(inside))
    starts, ends = [np.empty(0)], [np.empty(0)]
    for one, other in permutations(shadows, 2):
        neither = ~inside[one] & ~inside[other]
        starts.append(before[one, neither])
        ends.append(before[other, neither])
    return CollateralShift(
        unlearned=shift(before[~inside], phi["unlearned"][~inside]),
        recovered=shift(before[~inside], phi["recovered"][~inside]),
        seeds=shift(np.concatenate(starts), np.concatenate(ends)),
    )


def targets_followed(phi: Mapping[str, Matrix], targets: Matrix) -> TargetsFollowed:
    """Measure how well answers on deleted utterances follow what they were trained towards.

    Args:
        phi: stage -> log-odds [S, K] of S shadows on K candidates.
        targets: [S, K] log-odds that the requesters trained towards; NaN where there were none.

    Returns:
        shifts from the targets; empty where there are none
    """
    known = ~np.isnan(targets)
    if not known.any():
        return TargetsFollowed.empty()
    return TargetsFollowed(
        unlearned=shift(targets[known], phi["unlearned"][known]),
        recovered=shift(targets[known], phi["recovered"][known]),
    )


def spread(answers: Sequence[LogOddsVector]) -> float | None:
    """Return the standard deviation of log-odds over utterances, in nats.

    Args:
        answers: log-odds under each of several models, [n]; the mean over the models is returned.

    Returns:
        None without models, or where one has fewer than two finite answers
    """
    return _mean([_deviation(one[np.isfinite(one)]) for one in answers])


def _rms(values: LogOddsVector) -> float:
    return float(np.sqrt((values**2).mean()))


def _deviation(values: LogOddsVector) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
