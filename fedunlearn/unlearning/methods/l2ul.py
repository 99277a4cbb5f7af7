"""L2UL-style unlearning, after Ren et al. 2025 (arXiv 2510.04251), on the forget set alone.

Built on Cha et al. 2024, *Learning to Unlearn* (arXiv 2301.11578). The papers' hyper-parameters for speech
are not public; ours are ``L2ULSettings``: random wrong labels, adversarial samples with the original's
outputs, and an elastic term that frees the weights that matter to the forget set ("Adv.+Ela.").
"""

import numpy as np

from fedunlearn.config.unlearning import L2ULSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning.adversarial_fine_tune import adversarial_fine_tune
from fedunlearn.unlearning.contract import ServerScalars, UnlearnResult, method


@method(
    "l2ul",
    source="L2UL-style, after Ren et al. 2025 (arXiv 2510.04251) and Cha et al. 2024 (arXiv 2301.11578)",
    settings=lambda chosen: chosen.l2ul,
    title="L2UL-style, after Ren et al. 2025",
    needs_waveform=lambda chosen: chosen.l2ul.reads_waveform,
)
def l2ul(
    model: EmotionModel,
    forget_set: ForgetSet,
    settings: L2ULSettings,
    rng: np.random.Generator,
    scalars: ServerScalars,
) -> UnlearnResult:
    """Mislabel the forget set, preserve the output on adversarial samples, hold the other weights."""
    return adversarial_fine_tune(model, forget_set, settings, rng, scalars)
