"""The ablations of the product's method: its switches, one variant each."""

from dataclasses import dataclass
from typing import Any

from fedunlearn.study.grid import Variant, variant_of


@dataclass(frozen=True)
class Ablation:
    """One combination of the method's switches.

    Attributes:
        name: a letter; the product's own combination is A.
        objective: what the forget set is trained towards.
        hold: samples on which the model is held.
        importance: of the weights in the elastic term; empty = without the term.
    """

    name: str
    objective: str
    hold: str
    importance: str = ""

    @property
    def variant(self) -> Variant:
        """The variant that a comparison runs.

        Objectives without a target accuracy of their own stop at the level of held-out speech.
        """
        settings: dict[str, Any] = {"objective": self.objective, "hold": self.hold}
        settings["stop"] = "steps" if self.objective == "calibrated" else "level"
        settings["elasticity"] = ELASTICITY if self.importance else 0.0
        if self.importance:
            settings["importance"] = self.importance
        return Variant(self.name, variant_of("default").algorithm, tuple(settings.items()))


ELASTICITY = 0.1
"""weight of the elastic term where there is one"""

ABLATIONS = tuple(
    Ablation(chr(ord("A") + number), *switches)
    for number, switches in enumerate(
        (
            ("calibrated", "adversarial"),
            ("calibrated", "noisy"),
            ("calibrated", "none"),
            ("masked", "adversarial"),
            ("masked", "none"),
            ("misclassify", "adversarial"),
            ("misclassify", "none"),
            ("relabel", "adversarial"),
            ("relabel", "none"),
            ("relabel", "adversarial", "flipped-mas"),
            ("calibrated", "adversarial", "flipped-mas"),
            ("calibrated", "adversarial", "mas"),
            ("calibrated", "adversarial", "fisher"),
            ("calibrated", "adversarial", "none"),
        )
    )
)
"""One switch after the other, from the product's own method (A) to the paper's combination (J) and back."""
