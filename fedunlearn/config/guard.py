"""Settings of the guard, of the attackers that test it, and of the noise on unlearn updates."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import Count, Fraction, NonNegative, OpenFraction, Settings


class GuardSettings(Settings):
    """What the server asks of an unlearn update before it joins.

    Attributes:
        norm: longest update, as a multiple of the median length of the last ordinary differences of those
            who did not ask; 0 = any length.
        together: the same for the joint step of several requesters, so that nobody gains by sharing an
            attack out among devices; 0 = any length.
        too_long: what happens to an update that is longer: "clip" it to that length, or "refuse" it. A joint
            step that is too long is always clipped.
        drop: by how much one update may lower the accuracy on the held-out speech of those who did not ask,
            in (0, 1]; k updates together k times as much. 0 = they are not asked, which saves two exchanges
            a step.
        silenced: largest share of its probes (random features that the model calls by a class) that a class
            may lose by one update, in (0, 1); 0 = not looked at.
        harmful: what happens to an update that does more: "scale" it back to the largest of 1/2, 1/4 and 1/8
            that does not, or "refuse" it; one that does more even at 1/8 is refused in either case. A refused
            request stays accepted and is asked again at the next listening.
    """

    norm: NonNegative = 12.0
    together: NonNegative = 18.0
    too_long: Literal["clip", "refuse"] = "clip"
    drop: Fraction = 0.3
    silenced: OpenFraction = 0.95
    harmful: Literal["scale", "refuse"] = "scale"


class AttackerSettings(Settings):
    """Clients that lie when they are asked to unlearn: test clients, for measuring the guard.

    Attributes:
        clients: which ones lie; empty = nobody.
        kind: what they send: "scaled" (their honest update, ``factor`` times), "flipped" (the same,
            backwards), "targeted" (all their speech learned with ``target`` relabelled as the next class,
            that step ``factor`` times) or "random" (a random direction, ``factor`` times as long as their
            honest update). "scaled" with factor 1 is honest.
        factor: >= 0.
        target: class number, 0 ...; read by "targeted".
    """

    clients: tuple[Count, ...] = ()
    kind: Literal["scaled", "flipped", "targeted", "random"] = "scaled"
    factor: NonNegative = 5.0
    target: Count = 0


class PrivacySettings(Settings):
    """Client-side noise on the unlearn update: the Gaussian mechanism on one release.

    Attributes:
        clip: longest update that leaves the device, L2 norm over the trained weights; 0 = no clipping.
        noise: multiplier sigma >= 0: every trained weight gets Gaussian noise of standard deviation
            sigma * clip; 0 = none. Needs a clip.
        delta: of the (epsilon, delta) that results report, in (0, 1).
    """

    clip: NonNegative = 0.0
    noise: NonNegative = 0.0
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.noise and not self.clip:
            raise ValueError("noise is measured in clips: with noise > 0 give a clip > 0")
        return self
