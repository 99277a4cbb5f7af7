"""Settings of the engine that carries the messages, and of when a client can be reached."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import LARGEST_SHAPE, AtLeastOne, Count, OpenFraction, Positive, Settings


class FederationSettings(Settings):
    """The engine, its workers and its tolerance for failures. None of these keys changes a result."""

    engine: Literal["ray", "inline", "flower"] = Field(
        default="ray",
        description='"ray": clients run in persistent Ray workers; "inline": in this process; "flower": on '
        "Flower's own simulation runtime, as with `flwr run`, which is slower.",
    )
    workers: Annotated[int, Field(ge=0, le=LARGEST_SHAPE)] = Field(
        default=0,
        description="Number of Ray workers, each with one CPU and one torch thread; 0 = one for each CPU "
        "that this process may use.",
    )
    ray_address: str = Field(
        default="",
        description='Address of a running Ray cluster, "host:port" or "auto"; clients and their vaults are '
        "then distributed over its nodes. Empty = Ray is started on this machine.",
    )
    node_folder: str = Field(
        default="",
        description="Folder on each node's local disk for the vaults of its clients, wiped at the end of "
        "the run; empty = the node's temporary folder.",
    )
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.8,
        description="Share of the selected clients whose replies a round needs. With fewer replies the run "
        "fails; it does not continue with the model of a few clients.",
    )
    retries: Count = Field(
        default=1,
        description="Number of times a message to a failed client is repeated within the same round.",
    )
    timeout: Positive = Field(
        default=600.0, description="Longest time in seconds that one exchange with the clients may take."
    )
    checkpoint_every: Count = Field(
        default=5,
        description="Ordinary rounds between two checkpoints of the run, from which `--resume` continues. A "
        "checkpoint is always written before and after a deletion is applied. 0 = no checkpoints: the run "
        "cannot be resumed.",
    )

    @model_validator(mode="after")
    def _a_cluster_is_rays(self) -> Self:
        if self.ray_address and self.engine != "ray":
            raise ValueError(f'ray_address needs engine = "ray" (got {self.engine!r})')
        return self


class AvailabilitySettings(Settings):
    """When clients can be reached, and what can go wrong during an unlearn step. By default nothing does."""

    offline: OpenFraction = Field(
        default=0.0,
        description="Probability that a client cannot be reached in a round; 0 = always reachable.",
    )
    offline_rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="Rounds that an absence lasts; it is extended if another one starts before it ends. The "
        "overall share of absences stays `offline`. 1 = every round is drawn independently.",
    )
    trace: str = Field(
        default="",
        description="CSV file with the columns client, from, until: the client is offline in the rounds "
        "from <= round < until, in addition to what `offline` draws. Empty = no trace.",
    )
    slow: OpenFraction = Field(
        default=0.0, description="Probability that the reply of an unlearn step arrives late; 0 = never."
    )
    slow_rounds: AtLeastOne = Field(default=2, description="Rounds by which a late reply is delayed.")
    drop: OpenFraction = Field(
        default=0.0,
        description="Probability that a client drops out during an unlearn step: its work is lost and the "
        "server receives nothing; 0 = never.",
    )
    lease: AtLeastOne = Field(
        default=3,
        description="Rounds that a requester has to return its unlearn update. A reply that is late by this "
        "many rounds or more is refused and the request is assigned again; 1 = within the same round.",
    )
