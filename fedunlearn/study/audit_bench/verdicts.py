"""Thresholds, set on honest runs and retrained models of the choosing seeds alone; and detection rates."""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from fedunlearn.errors import BadInput
from fedunlearn.evaluation.intervals import share_interval
from fedunlearn.study.audit_bench.audit_file import (
    DetectionRate,
    Observation,
    Statistics,
    Threshold,
    VerifierName,
)

VERIFIERS: tuple[VerifierName, ...] = get_args(VerifierName)
"""in the order of the table"""
READS: dict[VerifierName, tuple[str, ...]] = {
    "requester": ("returns",),
    "requester-who-tests": ("forgets", "returns"),
    "committee": ("returns", "damage"),
    "auditor": ("remains",),
    "auditor-with-records": ("remains",),
    "replay": (),
}
"""verifier -> names of the statistics that it reads"""


def least_references(false_alarms: float) -> int:
    """Return how many choosing seeds a threshold at this rate of false alarms needs.

    Args:
        false_alarms: in (0, 1).
    """
    return math.ceil(1.0 / false_alarms - 1e-9) - 1


def upper_quantile(values: Sequence[float], false_alarms: float) -> float:
    """Return the smallest of the values that a further one exceeds with at most this probability.

    If the n values and the further one are exchangeable, the k-th smallest is exceeded with probability
    (n + 1 - k) / (n + 1) at most, as in conformal prediction (Vovk et al. 2005, ISBN 978-0-387-00152-4).

    Args:
        values: at least ``least_references`` of them.
        false_alarms: in (0, 1).

    Raises:
        ValueError: there are too few.
    """
    k = math.ceil((len(values) + 1) * (1.0 - false_alarms) - 1e-9)
    if k > len(values):
        raise ValueError(f"{len(values)} values are too few for {false_alarms:g} false alarms")
    return sorted(values)[k - 1]


def set_threshold(
    verifier: VerifierName, references: Sequence[Observation], false_alarms: float
) -> Threshold:
    """Set a verifier's threshold.

    The higher of two quantiles: over the honest runs, and over the models that were retrained beside them,
    which have not all of the statistics.

    Args:
        verifier: which.
        references: honest runs of the choosing seeds.
        false_alarms: rate.

    Raises:
        BadInput: there are too few.
    """
    names = READS[verifier]
    if not names:
        return Threshold(verifier=verifier)
    if len(references) < least_references(false_alarms):
        raise BadInput(
            f"--choosing {len(references)}: a threshold at {false_alarms:g} false alarms needs at least "
            f"{least_references(false_alarms)} seeds"
        )
    columns = [[v for o in references if (v := _value(o.statistics, n)) is not None] for n in names]
    centres = tuple(float(np.mean(values)) for values in columns)
    scales = tuple(float(np.std(values, ddof=1)) or 1.0 for values in columns)
    unset = Threshold(verifier=verifier, statistics=names, centres=centres, scales=scales)
    ends = []
    for statistics in ([o.statistics for o in references], [o.retrained for o in references]):
        scores = [s for one in statistics if (s := score_of(unset, one)) is not None]
        if len(scores) >= least_references(false_alarms):
            ends.append(upper_quantile(scores, false_alarms))
    return unset.model_copy(update={"threshold": max(ends), "references": len(references)})


def score_of(threshold: Threshold, statistics: Statistics) -> float | None:
    """Compute a verifier's score: the largest of its statistics, each standardised; None where it has none.

    Args:
        threshold: of the verifier.
        statistics: of a run.
    """
    parts = zip(threshold.statistics, threshold.centres, threshold.scales, strict=True)
    found = [
        (value - centre) / scale
        for name, centre, scale in parts
        if (value := _value(statistics, name)) is not None
    ]
    return max(found, default=None)


def raises_alarm(threshold: Threshold, observation: Observation) -> bool:
    """Decide whether a verifier raises an alarm, by an exact check or by its score.

    Args:
        threshold: of the verifier.
        observation: of a run.
    """
    if observation.contradictions.of(threshold.verifier):
        return True
    score = score_of(threshold, observation.statistics)
    return threshold.threshold is not None and score is not None and score > threshold.threshold


def detection_rates(
    thresholds: Sequence[Threshold], observations: Sequence[Observation]
) -> list[DetectionRate]:
    """Compute how often each verifier finds each server.

    Args:
        thresholds: of the verifiers.
        observations: of the detection seeds.
    """
    rates = []
    for cheat in dict.fromkeys(o.cheat for o in observations):
        own = [o for o in observations if o.cheat == cheat]
        for threshold in thresholds:
            found = sum(raises_alarm(threshold, o) for o in own)
            exact = sum(bool(o.contradictions.of(threshold.verifier)) for o in own)
            low, high = share_interval(found, len(own)) or (0.0, 1.0)
            rates.append(
                DetectionRate(
                    cheat=cheat,
                    verifier=threshold.verifier,
                    found=found,
                    exact=exact,
                    runs=len(own),
                    low=low,
                    high=high,
                )
            )
    return rates


def _value(statistics: Statistics, name: str) -> float | None:
    value: float | None = getattr(statistics, name)
    return value
