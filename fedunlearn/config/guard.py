"""Settings of the server's guard, of the malicious clients that test it, and of noise on unlearn updates."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import Count, Fraction, NonNegative, OpenFraction, Settings


class GuardSettings(Settings):
    """The bounds that the server puts on an unlearn update before it is aggregated."""

    rehearsals: Count = Field(
        default=3,
        description="Clients without a request that rehearse each unlearn step: they run its method on "
        "as much of their own speech as the largest request of the step deletes, keep nothing of it, and "
        "report how long the update is and what it does to the model. The bounds follow from that; 0 = none.",
    )
    norm: NonNegative = Field(
        default=2.0,
        description="Largest L2 norm of one unlearn update, as a multiple of the longest rehearsed one, or "
        "of a quarter of the distance that the global model has travelled since its first weights, where "
        "that is more. It is at most that distance, or this multiple of the median rehearsal, where that is "
        "more; 0 = unbounded.",
    )
    together: NonNegative = Field(
        default=2.0,
        description="The same bound on the joint step of k requesters, as a multiple of sqrt(k) times that "
        "length, and at most k times as far, so that splitting an attack over several clients gains "
        "little; 0 = unbounded.",
    )
    too_long: Literal["clip", "refuse"] = Field(
        default="clip",
        description='What happens to an update above `norm`: "clip" shortens it to the bound, "refuse" '
        "rejects it. A joint step above `together` is always clipped.",
    )
    drop: Fraction = Field(
        default=0.15,
        description="How much more accuracy, on the held-out speech of the clients that have no request, one "
        "update may cost than the median rehearsal costs the client that rehearses; k updates together may "
        "cost k times as much. 0 = not measured, which saves two exchanges in every unlearn step.",
    )
    silenced: OpenFraction = Field(
        default=0.5,
        description="How much more of its probes (random features that the model assigns to a class) a class "
        "may lose through one update than in any rehearsal, where these count as 0.3 at least. The limit is "
        "at most 0.95, or this much more than the median rehearsal where that is more, and 0.95 without "
        "rehearsals; 0 = not measured.",
    )
    harmful: Literal["scale", "refuse"] = Field(
        default="scale",
        description='What happens to an update that exceeds `drop` or `silenced`: "scale" multiplies it by '
        'the largest of 1/2, 1/4 and 1/8 that satisfies both, "refuse" rejects it. An update that fails '
        "even at 1/8 is refused in either case. A refused request stays accepted and is asked again in a "
        "later round.",
    )

    @property
    def bounds(self) -> bool:
        """Whether any of its bounds is in force."""
        return any((self.norm, self.together, self.drop, self.silenced))

    @property
    def rehearses(self) -> bool:
        """Whether clients are asked to rehearse."""
        return self.bounds and self.rehearsals > 0


class AttackerSettings(Settings):
    """Malicious clients, which send manipulated unlearn updates. They exist to test the guard."""

    clients: tuple[Count, ...] = Field(
        default=(), description="Numbers of the malicious clients; empty = none."
    )
    kind: Literal["scaled", "flipped", "targeted", "random"] = Field(
        default="scaled",
        description='What they send. "scaled": their honest update times `factor` (factor 1 is honest); '
        '"flipped": minus that; "targeted": an update trained with the class `target` relabelled as the '
        'next class, times `factor`; "random": a random direction, `factor` times as long as the honest '
        "update.",
    )
    factor: NonNegative = Field(default=5.0, description="Factor by which the manipulated update is scaled.")
    target: Count = Field(
        default=0,
        description='Number of the class that is relabelled, counted from 0; read by "targeted" only.',
    )


class PrivacySettings(Settings):
    """Noise that a client adds to its unlearn update: the Gaussian mechanism applied to one release."""

    clip: NonNegative = Field(
        default=0.0,
        description="Largest L2 norm, over the trained weights, of an update that leaves the device; 0 = no "
        "clipping.",
    )
    noise: NonNegative = Field(
        default=0.0,
        description="Noise multiplier sigma: Gaussian noise of standard deviation sigma * `clip` is added "
        "to every trained weight. Needs `clip` > 0. 0 = no noise.",
    )
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=1e-5, description="The delta for which the results report epsilon."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.noise and not self.clip:
            raise ValueError("noise is measured in clips: with noise > 0 give a clip > 0")
        return self
