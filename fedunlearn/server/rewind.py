"""Which earlier model of learning the server keeps, for a baseline that goes back to it."""

from fedunlearn.config import Config
from fedunlearn.unlearning import PRIVILEGED
from fedunlearn.unlearning.privileged.contract import RewindCard


def rewind_round(config: Config) -> int:
    """Return the learning round after which the model is kept; 0 = none is.

    Args:
        config: the experiment; its method says whether, and how far it goes back.
    """
    card = PRIVILEGED.get(config.unlearning.method)
    back = card.rounds(config.unlearning) if isinstance(card, RewindCard) else config.training.rounds
    return max(0, config.training.rounds - back)
