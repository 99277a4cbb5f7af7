"""Rewind-to-delete: go back to an earlier model of learning, and train on what is kept from there.

Mu & Klabjan 2024, *Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions* (arXiv
2409.09778).

1. Take the global model as it was some ordinary rounds ago.
2. Repeat the rounds since then without the forget sets.

The earlier model has trained on the forget sets, for fewer rounds. The paper also adds Gaussian noise to the
result, from which its certificate follows; here there is neither. The server keeps that one earlier model,
and drops it when the utterances are purged: a later request, or one before that round, goes back to the
initial weights.
"""

from fedunlearn.unlearning.privileged.contract import RewindCard

CARD = RewindCard(
    name="rewind-to-delete",
    source="rewind-to-delete, Mu & Klabjan 2024 (arXiv 2409.09778), without noise",
    rounds=lambda settings: settings.rewind_to_delete.rounds,
)
