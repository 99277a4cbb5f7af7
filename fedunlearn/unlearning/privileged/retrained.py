"""Training from scratch without the forget sets, as a method: the target of all others, and its cost.

The same rounds and schedule as the judge's retrained model, from other random weights and with other
batches; so its gap is the noise between retrained models.
"""

from fedunlearn.unlearning.privileged.contract import ScratchCard

CARD = ScratchCard(name="retrained", source="learning anew without the forget set: what unlearning is to be")
