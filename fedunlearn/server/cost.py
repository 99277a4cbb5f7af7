"""What each phase costs: clients' and wall time, bytes on the wire and in memory, by role."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

REQUESTING = frozenset({"train.unlearn", "train.forget_part", "query.purge"})
"""kinds of message to clients that have requested a deletion: to unlearn, and to purge"""


@dataclass
class RoleCost:
    """What a phase cost the clients in one role, and the wire to them.

    Attributes:
        client_seconds: of computing (CPU time of the device's one thread), summed over clients, measured on
            them.
        bytes_up: of all messages from them, failed attempts included.
        bytes_down: of all messages to them, failed attempts included.
    """

    client_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    @classmethod
    def of(cls, counted: Mapping[str, Any]) -> "RoleCost":
        """Make it from plain numbers.

        Args:
            counted: from ``dataclasses.asdict``.
        """
        return cls(counted["client_seconds"], int(counted["bytes_up"]), int(counted["bytes_down"]))


@dataclass
class PhaseCost:
    """Counters of one phase; what clients cost is the sum over both roles.

    Attributes:
        rounds: exchanges in which clients computed.
        wall_seconds: of the server, in s.
        bytes_stored: of what the server remembers for later when the phase was over: under "learn" its
            history (last differences only where the settings read them), under "recover" the unlearn steps.
        requesters: of messages of the kinds ``REQUESTING``.
        others: of all other messages: a client that has requested a deletion before and trains in recovery
            does so as one of all.
    """

    rounds: int = 0
    wall_seconds: float = 0.0
    bytes_stored: int = 0
    requesters: RoleCost = field(default_factory=RoleCost)
    others: RoleCost = field(default_factory=RoleCost)

    @property
    def client_seconds(self) -> float:
        """Seconds of computing, summed over clients."""
        return self.requesters.client_seconds + self.others.client_seconds

    @property
    def bytes_up(self) -> int:
        """Bytes from all clients."""
        return self.requesters.bytes_up + self.others.bytes_up

    @property
    def bytes_down(self) -> int:
        """Bytes to all clients."""
        return self.requesters.bytes_down + self.others.bytes_down

    def share(self, kind: str) -> RoleCost:
        """Return the cost that a message counts towards.

        Args:
            kind: of the message.
        """
        return self.requesters if kind in REQUESTING else self.others

    @contextmanager
    def measure_time(self) -> Iterator[None]:
        """Add the time spent inside to ``wall_seconds``."""
        start = perf_counter()
        try:
            yield
        finally:
            self.wall_seconds += perf_counter() - start

    @classmethod
    def of(cls, counted: Mapping[str, Any]) -> "PhaseCost":
        """Make it from plain numbers.

        Args:
            counted: from ``as_dict``.
        """
        roles = counted["roles"]
        return cls(
            rounds=int(counted["rounds"]),
            wall_seconds=counted["wall_seconds"],
            bytes_stored=int(counted["bytes_stored"]),
            requesters=RoleCost.of(roles["requesters"]),
            others=RoleCost.of(roles["others"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, for checkpoints and cached references."""
        return {
            "rounds": self.rounds,
            "client_seconds": self.client_seconds,
            "wall_seconds": self.wall_seconds,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "bytes_stored": self.bytes_stored,
            "roles": {"requesters": asdict(self.requesters), "others": asdict(self.others)},
        }
