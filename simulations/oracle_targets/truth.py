"""What models that were never trained on an utterance answer on it, as targets of an unlearn step.

No method can know this: it takes models trained without the utterance. It is known here because shadow
federations leave a random half of the candidates out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.collateral import LogOddsVector
from fedunlearn.evaluation.shadow_attack import BooleanMask, Matrix
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.unlearning.adversarial_fine_tune import adversarial_fine_tune
from fedunlearn.unlearning.contract import Method, ServerScalars, UnlearnResult

LEAST_MODELS = 2
"""models never trained on an utterance, for a standard deviation"""

TargetsFrom = Literal["mean", "drawn"]


@dataclass(frozen=True)
class Truth:
    """Log-odds of the true emotion under models that were never trained on the utterance, in nats.

    Attributes:
        mean: [K].
        std: [K], over models; of a sample.
    """

    mean: LogOddsVector
    std: LogOddsVector


def truth_of(phi: Matrix, inside: BooleanMask) -> Truth:
    """Measure the truth in shadow federations before they unlearn.

    A shadow that was trained on an utterance takes no part in that utterance's truth.

    Args:
        phi: log-odds [S, K] under the original models of S shadows on K candidates, nats.
        inside: [S, K], True where the shadow was trained on the candidate.

    Raises:
        RunFailed: fewer than ``LEAST_MODELS`` shadows were never trained on a candidate.
    """
    models = (~inside).sum(0)
    if models.min(initial=LEAST_MODELS) < LEAST_MODELS:
        raise RunFailed(
            f"{int((models < LEAST_MODELS).sum())} utterances are outside fewer than {LEAST_MODELS} of the "
            f"{len(inside)} shadow federations, so their true answers are unknown: set --shadows higher "
            "(those that are there are kept)"
        )
    outside = np.where(inside, np.nan, phi)
    return Truth(np.nanmean(outside, 0), np.nanstd(outside, 0, ddof=1))


def targets_from(truth: Truth, how: TargetsFrom, seed: int, federation: int) -> LogOddsVector:
    """Make the targets of one federation.

    Args:
        truth: of K candidates.
        how: "mean", or "drawn" from a Gaussian with the truth's mean and standard deviation.
        seed: of the experiment.
        federation: number of the shadow, or -1 for the run itself; each draws its own.

    Returns:
        log-odds [K], nats
    """
    if how == "mean":
        return truth.mean
    normal = rng_for(seed, "oracle", federation).standard_normal(len(truth.mean))
    return truth.mean + truth.std * normal


@dataclass(frozen=True)
class Oracle:
    """CALM's step towards targets from outside. It takes the place of the method in replayed federations.

    Attributes:
        targets: utterance -> log-odds of its true emotion, in nats.
    """

    targets: Mapping[str, float]

    def method_for(self, ids: Sequence[str]) -> Method:
        """Return the step for the utterances with these ids.

        Args:
            ids: of the forget set, in its order.
        """
        wanted = torch.tensor([self.targets[u] for u in ids], dtype=torch.float64)

        def unlearn(
            model: EmotionModel,
            forget_set: ForgetSet,
            settings: UnlearningSettings,
            rng: np.random.Generator,
            scalars: ServerScalars,
        ) -> UnlearnResult:
            return adversarial_fine_tune(model, forget_set, settings.calm, rng, scalars, wanted)

        return unlearn
