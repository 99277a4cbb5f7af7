"""Settings of the federation: the machinery that carries the messages, and when a device can be reached."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import LARGEST_SHAPE, AtLeastOne, Count, OpenFraction, Positive, Settings


class FederationSettings(Settings):
    """The machinery. None of it changes a number in the results.

    Attributes:
        engine: "ray" (worker processes that stay), "inline" (this process) or "flower" (Flower's own
            simulation on Ray, as ``flwr run`` plays it; slower).
        workers: Ray workers, one CPU and one torch thread each; 0 = one per CPU that this process may use.
        ray_address: of a running Ray cluster, "host:port" or "auto"; devices and their vaults are then dealt
            to its nodes. Empty = Ray is started on this machine.
        node_folder: folder on each node's own disk for the vaults of its devices, wiped at the end; empty =
            the temporary one.
        quorum: share of the asked clients whose replies a round needs, in (0, 1]. Fewer: the run fails
            rather than going on with the model of a few.
        retries: how often a client that failed is asked again within its round.
        timeout: seconds that one exchange may take.
        checkpoint_every: rounds after which the standing of the run is written down, from which ``--resume``
            goes on; before and after a deletion is applied it always is. 0 = never: such a run cannot be
            taken up.
    """

    engine: Literal["ray", "inline", "flower"] = "ray"
    workers: Annotated[int, Field(ge=0, le=LARGEST_SHAPE)] = 0
    ray_address: str = ""
    node_folder: str = ""
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    retries: Count = 1
    timeout: Positive = 600.0
    checkpoint_every: Count = 5

    @model_validator(mode="after")
    def _a_cluster_is_rays(self) -> Self:
        if self.ray_address and self.engine != "ray":
            raise ValueError(f'ray_address needs engine = "ray" (got {self.engine!r})')
        return self


class AvailabilitySettings(Settings):
    """When devices can be reached, and how an unlearn step may go wrong on them. By default it never does.

    Attributes:
        offline: chance in [0, 1) that a client cannot be reached in a round; 0 = always reachable.
        offline_rounds: rounds that an absence lasts, longer where another begins before it ends; ``offline``
            stays what it is. 1 = each round by itself.
        trace: a CSV file with the columns client, from, until: the client is offline in the rounds
            from <= round < until, besides what ``offline`` draws. Empty = none.
        slow: chance in [0, 1) that the reply of an unlearn step comes late; 0 = never.
        slow_rounds: by how many rounds.
        drop: chance in [0, 1) that a client drops in the middle of an unlearn step: its work is lost, and the
            server hears nothing; 0 = never.
        lease: rounds that a requester has for its unlearn reply. One that is late by as many or more is
            refused, and the request given out anew; 1 = within the round. Nothing is ever late by default.
    """

    offline: OpenFraction = 0.0
    offline_rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    trace: str = ""
    slow: OpenFraction = 0.0
    slow_rounds: AtLeastOne = 2
    drop: OpenFraction = 0.0
    lease: AtLeastOne = 3
