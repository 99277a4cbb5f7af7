"""Thresholds, set on honest runs and retrained models of the choosing seeds alone; and detection rates."""

import math
from collections.abc import Sequence
from typing import get_args

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


MOST_READ = max(map(len, READS.values()))
"""statistics of the verifier that reads most"""


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
    """Set a verifier's limits, one for each statistic that it reads.

    Each is the higher of two quantiles: over the honest runs, and over the models that were retrained beside
    them, which have not all of the statistics. A verifier of k statistics sets each at the k-th part of the
    rate (Bonferroni), so that all together keep to it.

    Args:
        verifier: which.
        references: honest runs of the choosing seeds.
        false_alarms: rate of the verifier.

    Raises:
        BadInput: there are too few.
    """
    names = READS[verifier]
    if not names:
        return Threshold(verifier=verifier)
    rate = false_alarms / len(names)
    least = least_references(rate)
    if len(references) < least:
        raise BadInput(
            f"--choosing {len(references)}: thresholds at {false_alarms:g} false alarms need at "
            f"least {least} seeds"
        )
    limits = []
    for name in names:
        ends = []
        for seen in ([o.statistics for o in references], [o.retrained for o in references]):
            values = [value for one in seen if (value := _value(one, name)) is not None]
            if len(values) >= least:
                ends.append(upper_quantile(values, rate))
        limits.append(max(ends, default=math.inf))
    return Threshold(verifier=verifier, statistics=names, limits=tuple(limits), references=len(references))


def exceeded(threshold: Threshold, statistics: Statistics) -> tuple[str, ...]:
    """List the statistics of a run that are above a verifier's limits.

    Args:
        threshold: of the verifier.
        statistics: of the run.
    """
    limits = zip(threshold.statistics, threshold.limits, strict=True)
    return tuple(
        name for name, limit in limits if (value := _value(statistics, name)) is not None and value > limit
    )


def raises_alarm(threshold: Threshold, observation: Observation) -> bool:
    """Decide whether a verifier raises an alarm, by an exact check or by a statistic.

    Args:
        threshold: of the verifier.
        observation: of a run.
    """
    contradictions = observation.contradictions.of(threshold.verifier)
    return bool(contradictions or exceeded(threshold, observation.statistics))


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
