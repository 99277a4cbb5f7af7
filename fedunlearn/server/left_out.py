"""Models without one client each: what the global model would be had this client not taken part in learning.

How much worse a person is recognised by a model that does not know the voice differs between people. The
model without the client says it for this very person, at no training: it moves by the others' mean update.

Let d be the update of a client with n of the round's N examples and m the mean of all updates. Without the
client the mean is m + c (m - d), c = n / (N - n). So the difference of the model without the client to the
global model grows by c (m - d) in each round. The others' updates were computed from the global model, which
the client has trained, and such a copy drifts away; it is therefore drawn back to the global model by
``PULL`` a round:

    delta <- (1 - PULL) (delta + eta c (m - d)),

eta being the server's learning rate. With the server's momentum or FedAdam none is kept: what a client has
sent goes on moving the model there, and with eta = lr / (1 - beta) the CNN was forgotten too little (one
seed, a whole client of nEMO: gap .122 against .085 without). Nor for a model for which ``PULL`` was not
measured: on an encoder's head, 60 rounds, it makes the level too low (RAVDESS, seed 1: .087 against .052).

It is leave-one-out, of one client, with the others' steps as they were. FedEraser (Liu et al. 2021) and the
closed forms of Halimi et al. 2022 (arXiv 2207.05521) subtract a client's updates, too; here the result is not
the unlearned model: the requester reads from it how its own speech would be answered, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel, trained_tensors
from fedunlearn.unlearning import METHODS

PULL = 0.04
"""Share of the difference that is given up in a round.

With .025 the level of the log-odds is too low by .4 to .9 standard deviations of held-out speech, with .05
too high by .2 to .3 (RAVDESS, nEMO, seeds 101 to 106). With either, people's levels correlate with those of
retrained models by .98 (20 clients of RAVDESS), .85 (7 of nEMO) and .82 (RAVDESS in 5).
"""
_MOST_BYTES = 1 << 26
"""of all clients' differences, which are in every checkpoint; where they would take more, none is kept"""
_PREFIX = "left_out."
_NEVER_AGAIN = "left_out_forgotten"


@dataclass
class LeftOut:
    """The differences of the models without one client to the global model.

    Attributes:
        differences: client -> trained tensor -> its difference, float32. A client that has not trained yet
            has none: the global model is without it.
        forgotten: clients whose data were purged. What the model owes to them is no longer followed.
    """

    differences: dict[int, StateDict] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    _round: dict[int, tuple[int, StateDict]] = field(default_factory=dict)

    def add(self, update: Update, trained: Sequence[str]) -> None:
        """Take one client's update of the current learning round.

        Args:
            update: copied.
            trained: names of the model's trained tensors.
        """
        own = {name: update.difference[name].clone() for name in trained}
        self._round[update.client] = update.examples, own

    def end_round(self, mean: Mapping[str, Tensor] | None, eta: float) -> None:
        """Move all differences by what the round did.

        Args:
            mean: of the round's updates, weighted by examples; None = the global model has not moved.
            eta: the server's step.
        """
        total = sum(examples for examples, _ in self._round.values())
        for client, (examples, update) in sorted(self._round.items()):
            if client in self.forgotten or mean is None or examples == total:
                continue
            rate = eta * examples / (total - examples)
            moved = {name: (mean[name] - value).mul_(rate).float() for name, value in update.items()}
            before = self.differences.get(client)
            if before is not None:
                moved = {name: value.add_(before[name]) for name, value in moved.items()}
            self.differences[client] = moved
        self._round.clear()
        for client, own in self.differences.items():
            self.differences[client] = {name: value * (1.0 - PULL) for name, value in own.items()}

    def forget(self, client: int) -> None:
        """Forget a client whose data were purged, for good: its later updates are not the whole of it.

        Args:
            client: whose.
        """
        self.differences.pop(client, None)
        self.forgotten.add(client)

    def as_tensors(self) -> dict[str, Tensor]:
        """Write it as named tensors: "left_out.<client>.<tensor>", "left_out_forgotten" int64 [clients]."""
        named = {f"{_PREFIX}{c}.{name}": t for c, own in self.differences.items() for name, t in own.items()}
        return {**named, _NEVER_AGAIN: torch.tensor(sorted(self.forgotten), dtype=torch.int64)}

    @classmethod
    def from_tensors(cls, trained: Sequence[str], tensors: Mapping[str, Tensor]) -> "LeftOut | None":
        """Read what ``as_tensors`` gave; None where they were not kept.

        Args:
            trained: names of the model's trained tensors.
            tensors: these and others.

        Raises:
            KeyError: something is missing.
        """
        if _NEVER_AGAIN not in tensors:
            return None
        clients = {int(key.split(".")[1]) for key in tensors if key.startswith(_PREFIX)}
        differences = {
            c: {name: tensors[f"{_PREFIX}{c}.{name}"] for name in trained} for c in sorted(clients)
        }
        return cls(differences, set(tensors[_NEVER_AGAIN].tolist()))


def keep_left_out(config: Config, model: EmotionModel) -> LeftOut | None:
    """Begin to keep the models without one client each, if the experiment wants them.

    Args:
        config: the experiment.
        model: of the run.

    Returns:
        None where they are switched off or would be too large, for a model for which ``PULL`` was not
        measured, and with any server optimiser but plain averaging
    """
    numbers = sum(tensor.nbytes for tensor in trained_tensors(model).values())
    fits = config.partition.client_count * numbers <= _MOST_BYTES
    plain = config.training.server_optimizer == "average"
    wanted = config.unlearning.left_out_models and model.follows_left_out
    return LeftOut() if wanted and plain and fits else None


def difference_for(config: Config, left_out: LeftOut | None, client: int) -> StateDict | None:
    """Return what goes with a message to a client that unlearns, or rehearses it.

    Args:
        config: the experiment.
        left_out: of the main line; None = none are kept.
        client: that is asked.

    Returns:
        trained tensor -> difference of the model without this client to the global model; None where the
        method does not read it, or there is none
    """
    card = METHODS.get(config.unlearning.method)
    if card is None or not card.reads_log_odds or left_out is None:
        return None
    return left_out.differences.get(client)
