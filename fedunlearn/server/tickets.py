"""How devices note tickets: what an update weighs in the global model, and how fast a ticket fades.

A device knows how training moves its own copy of the model. How much of that reaches the global model, and
how fast the other clients' training undoes any departure from it, the server knows: it sends both numbers
with an ordinary round.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.training import round_lr
from fedunlearn.unlearning import notes_tickets


@dataclass(frozen=True)
class TicketTerms:
    """How devices note tickets in a round.

    Attributes:
        weight: by how much the global model moves for a client's update, for each utterance of the client;
            0 = no tickets are noted.
        fading: share of what was noted that fades in the round, in [0, 1).
    """

    weight: float = 0.0
    fading: float = 0.0

    def weigh(self, noted: Tensor) -> Tensor:
        """Return what a client has noted [n, K] as part of the global model's step."""
        return noted * (self.weight * len(noted))

    def as_settings(self) -> dict[str, float]:
        """Return the numbers as settings of a message."""
        return {"weight": self.weight, "fading": self.fading}


def ticket_terms(
    config: Config, learning_round: int, trained_on: int, clients: int, noted: bool = True
) -> TicketTerms:
    """Decide how devices note tickets in a round of the main line.

    With server momentum beta a mean update moves the model by 1 / (1 - beta) times its length in the end.

    Args:
        config: the experiment.
        learning_round: from 1.
        trained_on: utterances that the round's clients train on.
        clients: how many these are.
        noted: False = in this round none are.

    Returns:
        none are noted where the method reads none
    """
    training, local = config.training, config.training.local
    if not noted or not notes_tickets(config) or not trained_on:
        return TicketTerms()
    gain = training.server_lr
    if training.server_optimizer == "momentum":
        gain /= 1.0 - training.server_momentum
    steps = local.work.steps_on(round(trained_on / clients), local.batch_size)
    travelled = gain * round_lr(training, learning_round) * steps / (1.0 - local.momentum)
    return TicketTerms(gain / trained_on, -math.expm1(-config.unlearning.tickets.fading * travelled))


def check_tickets(config: Config) -> None:
    """Check that devices can note tickets if the method reads them.

    Args:
        config: the experiment.

    Raises:
        BadInput: clients or the server do not train by gradient descent, which is a sum of parts.
    """
    if not notes_tickets(config):
        return
    method, problems = config.unlearning.method, []
    if config.training.local.optimizer != "sgd":
        problems.append(f'training.local.optimizer: "{method}" takes back parts in updates of SGD; set "sgd"')
    if config.training.server_optimizer == "adam":
        problems.append(
            f'training.server_optimizer: "{method}" takes back parts in a mean; set "average" or "momentum"'
        )
    if problems:
        raise BadInput(problems)
