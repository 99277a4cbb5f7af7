"""Settings of the federation: the machinery that carries the messages."""

from typing import Annotated, Literal

from pydantic import Field

from fedunlearn.config.fields import Count, Positive, Settings


class FederationSettings(Settings):
    """The machinery. None of it changes a number in the results.

    Attributes:
        engine: "ray" (Flower's simulation) or "inline" (one process).
        workers: Ray workers, one CPU and one torch thread each; 0 = one per CPU core.
        quorum: share of the asked clients whose replies a round needs, in (0, 1]. Fewer: the run fails
            rather than going on with the model of a few.
        retries: how often a client that failed is asked again within its round.
        timeout: seconds that one exchange may take.
    """

    engine: Literal["ray", "inline"] = "ray"
    workers: Count = 0
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    retries: Count = 1
    timeout: Positive = 600.0
