"""What all parts of the server work with."""

from dataclasses import dataclass

from fedunlearn.config import Config
from fedunlearn.models.contract import EmotionModel
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients
from fedunlearn.server.late_clients import LateClients
from fedunlearn.server.state import ServerState


@dataclass(frozen=True)
class ServerContext:
    """What the parts of one server share.

    Attributes:
        clients: sends messages and reads replies.
        config: the experiment.
        template: a model of the run's kind.
        state: all that lasts; the parts change it.
        callbacks: called for every round, request and checkpoint.
        availability: when each client can be reached.
    """

    clients: Clients
    config: Config
    template: EmotionModel
    state: ServerState
    callbacks: Callbacks
    availability: Availability

    def reachable(self) -> tuple[int, ...]:
        """List the active clients that can be reached now, in order."""
        return self.reachable_at(self.state.rounds_done)

    def reachable_at(self, rounds_done: int) -> tuple[int, ...]:
        """List the active clients that can be reached once so many rounds are done, in order.

        Args:
            rounds_done: rounds done.
        """
        return tuple(c for c in self.clients.active if self.availability.reachable(c, rounds_done))

    def training_at(self, rounds_done: int) -> tuple[int, ...]:
        """List the active clients that can be reached and have joined learning by then, in order.

        Args:
            rounds_done: rounds done.
        """
        absent = LateClients.of(self.config).absent(rounds_done)
        return tuple(client for client in self.reachable_at(rounds_done) if client not in absent)
