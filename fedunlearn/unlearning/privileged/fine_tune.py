"""Fine-tuning on the retain sets: ordinary local training without the forget sets.

The plainest privileged baseline (Golatkar et al. 2020, arXiv 1911.04933, compare with it): it forgets only
what training on the rest happens to overwrite. With few rounds it is the recovery that follows every method.
"""

from fedunlearn.unlearning.privileged.contract import Plan, RoundsCard, retain_half

CARD = RoundsCard(
    name="fine-tune",
    source="fine-tuning on retained data, as in Golatkar et al. 2020 (arXiv 1911.04933)",
    plan=lambda settings: Plan(settings.fine_tune.rounds),
    retain=retain_half(lambda settings: settings.fine_tune),
)
