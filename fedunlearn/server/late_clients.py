"""Clients that join learning late, so that the others' model can be measured on speakers that it never heard.

What a model that never heard a speaker makes of that speaker is what unlearning all of a client's speech aims
at. Before they join, the late clients' speech is that of unknown speakers to the global model.
"""

from dataclasses import dataclass

from fedunlearn.config import Config
from fedunlearn.seeding import rng_for

_AT_LEAST_LEARN = 2
"""clients that learn from the first round: one client's model is not everybody's"""


@dataclass(frozen=True)
class LateClients:
    """The clients that join learning late, and when.

    Attributes:
        clients: their numbers.
        rounds: ordinary training rounds that they take no part in, from the first; 0 where nobody is late.
    """

    clients: frozenset[int]
    rounds: int

    @classmethod
    def of(cls, config: Config) -> "LateClients":
        """Draw them from the seed of the experiment, whatever the stream of a training.

        Args:
            config: the experiment.
        """
        training, clients = config.training, config.partition.client_count
        count = min(max(1, round(training.late_clients * clients)), clients - _AT_LEAST_LEARN)
        if training.late_clients == 0.0 or training.late_rounds == 0 or count < 1:
            return cls(frozenset(), 0)
        drawn = rng_for(config.seed, "late clients").permutation(clients)[:count]
        return cls(frozenset(int(client) for client in drawn), training.late_rounds)

    def absent(self, rounds_done: int) -> frozenset[int]:
        """Return the clients that do not train yet.

        Args:
            rounds_done: ordinary training rounds done.
        """
        return self.clients if rounds_done < self.rounds else frozenset()

    def are_measured_after(self, learning_round: int) -> bool:
        """Find out whether this is the last round without them.

        Args:
            learning_round: from 1.
        """
        return bool(self.clients) and learning_round == self.rounds
