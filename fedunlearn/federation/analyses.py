"""What takes training to find out: how soon D_f is learned again, and what the shadow federations tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for

ORDERS = 5
"""in which D_f is learned again"""


def relearning(
    judge: Judge,
    model: EmotionModel,
    states: Mapping[str, Mapping[str, Tensor]],
    forget: Sequence[str],
    target: float | None,
    config: Config,
) -> dict[str, Any] | None:
    """``results.relearn``: gradient steps until each model has D_f's accuracy back.

    Args:
        judge: knows D_f. model: of the run's kind. states: by name. forget: D_f.
        target: the original's forget accuracy; None where D_f is empty.

    Returns:
        by model; None where there is nothing to learn again, or it is switched off.
    """
    limit = config.evaluation.relearn_steps
    if target is None or limit == 0:
        return None
    examples = judge.examples(forget)
    return {
        name: relearn(
            model,
            state,
            examples,
            target,
            config.training.local,
            limit,
            [rng_for(config.seed, "relearn", order) for order in range(ORDERS)],
        )
        for name, state in states.items()
    }
