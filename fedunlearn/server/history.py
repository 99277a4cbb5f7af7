"""What the server remembers of learning, for steps that need more than the global model.

Three things are kept besides the first weights: of every client in every learning round the size of its
difference, tensor by tensor, which is all that FedEraser's calibration reads of the updates that it stores
(Liu et al. 2021, IWQoS, doi 10.1109/IWQOS52092.2021.9521274); where the settings read it, each client's
last difference, which says what clients without a request would still learn; and what the model would lack
without each client (``LeftOut``). The last two are as many models as there are clients. Tensors that are not
trained do not enter. Where a baseline goes back to an earlier model (``rewind_round``), that is kept, too.
"""

import math
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedunlearn.messages.update import Update
from fedunlearn.server.left_out import LeftOut

NormsOfClients = dict[int, dict[str, float]]
"""client -> trained tensor -> L2 norm of the client's difference"""
_REWIND_TO = "rewind_to"


@dataclass
class History:
    """The server's record of one federated training.

    Attributes:
        trained: names of the model's trained tensors.
        initial: the whole state after calibration: what round 1 started from; empty before.
        last: client -> trained tensor -> its last difference, of an ordinary or a recovery round, as it was
            sent. A client whose data were purged since then has none.
        keeps_last: whether last differences are remembered at all.
        left_out: the models without one client each; None = they are not kept.
        rewind_to: learning round after which the whole model is kept; 0 = none is.
        earlier: that model; empty before the round, and after a purge, as it has learned what was purged.
    """

    trained: Sequence[str]
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    last: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    keeps_last: bool = True
    left_out: LeftOut | None = None
    rewind_to: int = 0
    earlier: Mapping[str, Tensor] = field(default_factory=dict)
    # learning round, from 1 -> rows of a client and its sizes, in the order of ``trained``
    _rows: dict[int, "array[float]"] = field(default_factory=dict)

    def remember(self, update: Update, learning_round: int | None) -> None:
        """Remember one client's update.

        Args:
            update: copied where it is kept.
            learning_round: 1 ...; None = a recovery round, whose sizes are of no ordinary step.
        """
        if self.keeps_last:
            self.last[update.client] = {name: update.difference[name].clone() for name in self.trained}
        if learning_round is not None:
            row = (update.client, *(update.sizes[name] for name in self.trained))
            self._rows.setdefault(learning_round, array("d")).extend(row)
            if self.left_out is not None:
                self.left_out.add(update, self.trained)

    def end_round(self, mean: Mapping[str, Tensor] | None, eta: float) -> None:
        """Note that a learning round is over.

        Args:
            mean: of its updates, weighted by examples; None = the global model has not moved.
            eta: the server's step.
        """
        if self.left_out is not None:
            self.left_out.end_round(mean, eta)

    def keep_model(self, weights: Mapping[str, Tensor], learning_round: int) -> None:
        """Keep the model after a learning round, if it is the one to go back to.

        Args:
            weights: of the model.
            learning_round: from 1.
        """
        if learning_round == self.rewind_to:
            self.earlier = dict(weights)

    def forget(self, client: int, left: bool) -> None:
        """Forget what was made from a client's data, which were purged.

        Its last difference is a step along the gradient of its utterances, from which they can be guessed
        (Zhu et al. 2019, arXiv 1906.08935). The sizes, a few numbers a round, go where the client ``left``.

        What stays depends on the purged data, too: the sizes of a client that has not left; the others' last
        differences, each a step from a model that had learned the data; the others' ``left_out``, in which is
        the mean of all updates; and the normalisation constants in ``initial``.

        Args:
            client: whose.
            left: whether it holds no training data any more.
        """
        self.last.pop(client, None)
        self.earlier = {}
        if self.left_out is not None:
            self.left_out.forget(client)
        if left:
            for learning_round in self._rows:
                table = self._table(learning_round)
                self._rows[learning_round] = array("d", table[table[:, 0] != client].ravel())

    @property
    def norms(self) -> dict[int, NormsOfClients]:
        """Ordinary round, from 1 -> client -> trained tensor -> L2 norm of the client's difference."""
        return {learning_round: self.norms_of(learning_round) for learning_round in self._rows}

    def norms_of(self, learning_round: int) -> NormsOfClients:
        """Read the norms of one learning round; empty where no client took part in it.

        Args:
            learning_round: from 1.
        """
        rows = self._table(learning_round).tolist()
        return {int(client): dict(zip(self.trained, own, strict=True)) for client, *own in rows}

    def usual_norm(self, clients: Collection[int]) -> float:
        """Compute the median of clients' L2 norms, all tensors together, each of its last learning round.

        Args:
            clients: that count.

        Returns:
            infinity where none of them took part in any round
        """
        lately: dict[int, float] = {}
        for learning_round in sorted(self._rows, reverse=True):
            rows = self._table(learning_round).tolist()
            lately = {int(c): math.hypot(*own) for c, *own in rows if c in clients} | lately
            if len(lately) == len(clients):
                break
        return median(lately.values()) if lately else math.inf

    def last_rounds(self) -> dict[int, int]:
        """Find the last learning round in which each client took part."""
        return {
            int(client): learning_round
            for learning_round in sorted(self._rows)
            for client in self._table(learning_round)[:, 0]
        }

    @property
    def bytes_stored(self) -> int:
        """Bytes of all tensors and sizes (8 bytes each)."""
        tensors = [
            *self.initial.values(),
            *self.earlier.values(),
            *(t for own in self.last.values() for t in own.values()),
        ]
        if self.left_out is not None:
            tensors += [t for own in self.left_out.differences.values() for t in own.values()]
        rows = sum(map(len, self._rows.values())) // (1 + len(self.trained))
        return sum(t.nbytes for t in tensors) + 8 * rows * len(self.trained)

    def _table(self, learning_round: int) -> npt.NDArray[np.float64]:
        rows: Any = self._rows.get(learning_round, ())
        return np.array(rows, np.float64).reshape(-1, 1 + len(self.trained))

    def as_tensors(self) -> dict[str, Tensor]:
        """Write everything but ``trained`` as named tensors.

        "initial.<tensor>", "last.<client>.<tensor>", those of ``LeftOut``, and "norms" [n, 2 + tensors]
        float64: round, client and the norms in the order of ``trained``, a row for each; where a model is
        kept, "rewind_to" and "earlier.<tensor>".
        """
        tables = {learning_round: self._table(learning_round) for learning_round in self._rows}
        dated = [np.insert(table, 0, learning_round, axis=1) for learning_round, table in tables.items()]
        norms = torch.from_numpy(np.concatenate([np.zeros((0, 2 + len(self.trained))), *dated]))
        last = {f"last.{c}.{name}": t for c, own in self.last.items() for name, t in own.items()}
        left_out = {} if self.left_out is None else self.left_out.as_tensors()
        earlier = {f"earlier.{name}": t for name, t in self.earlier.items()}
        if self.rewind_to:
            earlier[_REWIND_TO] = torch.tensor(self.rewind_to)
        return {
            "norms": norms,
            **{f"initial.{name}": t for name, t in self.initial.items()},
            **last,
            **left_out,
            **earlier,
        }

    @classmethod
    def from_tensors(
        cls, trained: Sequence[str], tensors: Mapping[str, Tensor], order: Iterable[str]
    ) -> "History":
        """Read what ``as_tensors`` gave, with everything in its old order.

        Args:
            trained: names of the model's trained tensors.
            tensors: from ``as_tensors``.
            order: of the names of the model's whole state.

        Raises:
            KeyError: something is missing.
            ValueError: something does not fit.
        """
        norms = tensors["norms"]
        if norms.ndim != 2 or norms.shape[1] != 2 + len(trained):
            raise ValueError("the norms do not fit the trained tensors")
        history = cls(trained, {name: tensors[f"initial.{name}"] for name in order})
        for learning_round, *row in norms.tolist():
            history._rows.setdefault(int(learning_round), array("d")).extend(row)
        clients = {int(key.split(".")[1]) for key in tensors if key.startswith("last.")}
        for client in sorted(clients):
            history.last[client] = {name: tensors[f"last.{client}.{name}"] for name in trained}
        history.left_out = LeftOut.from_tensors(trained, tensors)
        if _REWIND_TO in tensors:
            history.rewind_to = int(tensors[_REWIND_TO])
            kept = {name: tensors.get(f"earlier.{name}") for name in order}
            history.earlier = {name: t for name, t in kept.items() if t is not None}
        return history
