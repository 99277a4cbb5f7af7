"""How much a client trains in one round: a number of SGD steps, or passes over its utterances."""

import math
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from fedunlearn.config.fields import AtLeastOne, Count, Settings


@dataclass(frozen=True)
class LocalWork:
    """The amount of one client's training in one round.

    Attributes:
        steps: SGD steps; 0 = ``epochs`` passes.
        epochs: passes over the client's utterances, read where ``steps`` is 0.
    """

    steps: int
    epochs: int

    def steps_on(self, examples: int, batch_size: int) -> int:
        """Return the number of SGD steps.

        Args:
            examples: utterances that the client trains on.
            batch_size: utterances in one step; the last of a pass may have fewer.
        """
        return self.steps or self.epochs * math.ceil(examples / batch_size)

    def share(self, ratio: float) -> "LocalWork":
        """Return a share of it: of the steps, rounded up; of the epochs, to the nearest, at least one.

        Args:
            ratio: in (0, 1].
        """
        steps = math.ceil(round(ratio * self.steps, 6))  # a third of 15 is 5, whatever floats make of it
        return LocalWork(steps, max(1, round(ratio * self.epochs)))


class WorkSettings(Settings):
    """How much a client trains in one round."""

    steps: Count = Field(
        default=15,
        description="SGD steps of a client in a round, however much speech it holds: it goes through its "
        "utterances in random order, anew when all were used. 0 = `epochs` passes instead, as in much of the "
        "literature; clients with much speech then drift apart.",
    )
    epochs: AtLeastOne = Field(
        default=5, description="Passes over the client's utterances in a round; read only where `steps` is 0."
    )

    @property
    def work(self) -> LocalWork:
        """The amount of work as one value."""
        return LocalWork(self.steps, self.epochs)

    def with_work(self, work: LocalWork) -> Self:
        """Return the same settings with another amount of work.

        Args:
            work: the new amount.
        """
        return self.model_copy(update={"steps": work.steps, "epochs": work.epochs})
