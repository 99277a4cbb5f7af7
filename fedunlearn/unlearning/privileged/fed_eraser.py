"""FedEraser: repeat past rounds with short new updates scaled to the old norms.

Liu et al. 2021, *FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning Models*,
IWQoS (arXiv 2012.13891).

1. Begin with the weights that learning began with.
2. For every ``interval``-th ordinary round, the clients train on what they keep from the model calibrated so
   far, for calibration_ratio of an ordinary round's steps or epochs.
3. A client's new difference gives the direction, its old one the size: |old| * new / |new|, by tensor.
4. The server averages them, as in an ordinary round.

A client that took no part in the old round takes none in the new. The normalisation constants stay those
that training began with: the paper has none. It erases whole clients; here one that keeps some of its
utterances goes on with these. The judge's retrained model begins with the same weights, and so the two may
stand nearer to each other than retrained models of different seeds do.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.unlearning.privileged.contract import HistoryCard


def rounds(settings: UnlearningSettings, done: int) -> Sequence[int]:
    """Ordinary rounds 1, 1 + interval, ... of those done."""
    return range(1, done + 1, settings.fed_eraser.interval)


def calibrate(difference: Mapping[str, Tensor], sizes: Mapping[str, float]) -> StateDict:
    """The new direction with the old size (L2), tensor by tensor; float64.

    Args:
        difference: new weights minus the weights it started from.
        sizes: of the old difference; a tensor without one, which is not trained, comes back as it is. A
            new difference of zeros has no direction and stays zeros.
    """
    calibrated: StateDict = {}
    for name, new in difference.items():
        wide = new.double()
        length = math.sqrt(float(wide.square().sum()))
        calibrated[name] = wide * (sizes[name] / length) if name in sizes and length else wide
    return calibrated


CARD = HistoryCard(
    name="fed-eraser",
    source="FedEraser, Liu et al. 2021 (arXiv 2012.13891)",
    rounds=rounds,
    work=lambda settings, ordinary: ordinary.share(settings.fed_eraser.calibration_ratio),
    calibrate=calibrate,
)
