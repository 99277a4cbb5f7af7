"""Settings of gradient steps, which nearly every unlearning method takes."""

from typing import Literal

from pydantic import Field

from fedunlearn.config.fields import AtLeastOne, Count, OpenFraction, Positive, Settings


class DescentSettings(Settings):
    """Steps down a loss, and when to stop. Part of every method that takes gradient steps.

    The default learning rate of each method gave the lowest mean gap after recovery among values from 0.002
    to 0.03, on RAVDESS with the functionals model and seeds 101 to 104 (two clients of each seed deleting 10,
    20 and 48 utterances, and four deleting 20 each). Results are never reported for these seeds.
    """

    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd",
        description='"sgd", or "adamw" (Loshchilov & Hutter 2019), which moves transformer layers in fewer '
        "steps, at a lower `lr`.",
    )
    lr: Positive = Field(default=0.01, description="Learning rate.")
    momentum: OpenFraction = Field(
        default=0.9, description='Momentum of "sgd" (0 = plain SGD); beta_1 of "adamw", whose beta_2 is .999.'
    )
    batch_size: AtLeastOne = Field(
        default=32,
        description="Forget utterances (or samples that the method makes from them) in one step.",
    )
    max_steps: Count = Field(
        default=100, description="Largest number of steps; 0 returns the model unchanged."
    )
    stop: Literal["level", "zero", "steps"] = Field(
        default="level",
        description='When to stop before `max_steps`. "level": the accuracy on the forget set has fallen to '
        "the global accuracy on held-out speech, a number that the server sends (chance level if it sends "
        'none); "zero": nothing in the forget set is recognised any more; "steps": never.',
    )
