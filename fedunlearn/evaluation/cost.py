"""What each phase costs: time on the clients, time on the clock, bytes on the wire and in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter


@dataclass
class PhaseCost:
    """Counters of one phase.

    Attributes:
        rounds: exchanges in which clients computed.
        client_seconds: of computing (CPU time of the device's one thread), summed over clients, measured on
            them.
        wall_seconds: on the server's clock.
        bytes_up, bytes_down: of all messages from and to clients, failed attempts included.
        bytes_stored: of what the server remembers for later when the phase was over: under "learn" its
            history (whether or not this run's settings read it), under "recover" the unlearn steps.
    """

    rounds: int = 0
    client_seconds: float = 0.0
    wall_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_stored: int = 0

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Add the time spent inside to ``wall_seconds``."""
        start = perf_counter()
        try:
            yield
        finally:
            self.wall_seconds += perf_counter() - start

    @classmethod
    def of(cls, counted: Mapping[str, float]) -> "PhaseCost":
        """What ``as_dict`` gave."""
        return cls(
            rounds=int(counted["rounds"]),
            client_seconds=counted["client_seconds"],
            wall_seconds=counted["wall_seconds"],
            bytes_up=int(counted["bytes_up"]),
            bytes_down=int(counted["bytes_down"]),
            bytes_stored=int(counted["bytes_stored"]),
        )

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for results.json."""
        return asdict(self)
