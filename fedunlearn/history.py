"""What the server remembers of learning, for steps that need more than the global model.

Two things are kept beside the first weights: of every client in every ordinary round the size of its
difference, tensor by tensor, which is all that FedEraser's calibration reads of the updates that it stores
(Liu et al. 2021, IWQoS, doi 10.1109/IWQOS52092.2021.9521274); and each client's last difference,
which says what those who did not ask would still learn. Tensors that are not trained do not enter.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

Norms = dict[int, dict[int, dict[str, float]]]
"""ordinary round, from 1 -> client -> trained tensor -> L2 norm of the client's difference"""


@dataclass
class History:
    """The server's memory of one federated training.

    Attributes:
        trained: names of the model's trained tensors.
        initial: the whole state after calibration: what round 1 started from; empty before.
        norms: of the ordinary rounds.
        last: client -> trained tensor -> its last difference, of an ordinary or a recovery round, as it was
            sent. A client whose data were purged since then has none.
    """

    trained: Sequence[str]
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Norms = field(default_factory=dict)
    last: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def remember(self, client: int, difference: Mapping[str, Tensor], ordinary_round: int | None) -> None:
        """One client's difference.

        Args:
            ordinary_round: 1 ...; None = a recovery round, whose sizes are of no ordinary step.
        """
        self.last[client] = {name: difference[name] for name in self.trained}
        if ordinary_round is not None:
            self.norms.setdefault(ordinary_round, {})[client] = {
                name: math.sqrt(float(difference[name].double().square().sum())) for name in self.trained
            }

    def forget(self, client: int, left: bool) -> None:
        """A client's data were purged: what was made from them goes too.

        Its last difference is a step along the gradient of its utterances, from which they can be guessed
        (Zhu et al. 2019, arXiv 1906.08935). The sizes, a few numbers a round, go where the client ``left``.
        """
        self.last.pop(client, None)
        if left:
            for of_round in self.norms.values():
                of_round.pop(client, None)

    def usual_norm(self, clients: Collection[int]) -> float:
        """Median of these clients' L2 norms, all tensors together, each of its last ordinary round.

        Infinity where none of them took part in any.
        """
        lately = {c: own for of_round in self.norms.values() for c, own in of_round.items() if c in clients}
        return median(math.hypot(*own.values()) for own in lately.values()) if lately else math.inf

    def last_rounds(self) -> dict[int, int]:
        """Client -> the last ordinary round in which it took part."""
        return {client: number for number in sorted(self.norms) for client in self.norms[number]}

    @property
    def bytes_stored(self) -> int:
        """Of all tensors and sizes (8 bytes each)."""
        tensors = [*self.initial.values(), *(t for own in self.last.values() for t in own.values())]
        sizes = sum(len(own) for of_round in self.norms.values() for own in of_round.values())
        return sum(t.nbytes for t in tensors) + 8 * sizes

    def as_tensors(self) -> dict[str, Tensor]:
        """Everything but ``trained`` as named tensors.

        "initial.<tensor>", "last.<client>.<tensor>", and "norms" [n, 2 + tensors] float64: round, client and
        the norms in the order of ``trained``, a row for each.
        """
        rows = [
            [round_, client, *(sizes[name] for name in self.trained)]
            for round_, clients in self.norms.items()
            for client, sizes in clients.items()
        ]
        norms = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 2 + len(self.trained))
        last = {f"last.{c}.{name}": t for c, own in self.last.items() for name, t in own.items()}
        return {"norms": norms, **{f"initial.{name}": t for name, t in self.initial.items()}, **last}

    @classmethod
    def from_tensors(
        cls, trained: Sequence[str], tensors: Mapping[str, Tensor], order: Iterable[str]
    ) -> "History":
        """What ``as_tensors`` gave, with everything in its old order.

        Args:
            order: of the names of the model's whole state.

        Raises:
            KeyError, ValueError: something is missing or does not fit.
        """
        norms = tensors["norms"]
        if norms.ndim != 2 or norms.shape[1] != 2 + len(trained):
            raise ValueError("the norms do not fit the trained tensors")
        history = cls(trained, {name: tensors[f"initial.{name}"] for name in order})
        for round_, client, *sizes in norms.tolist():
            history.norms.setdefault(int(round_), {})[int(client)] = dict(zip(trained, sizes, strict=True))
        clients = {int(key.split(".")[1]) for key in tensors if key.startswith("last.")}
        for client in sorted(clients):
            history.last[client] = {name: tensors[f"last.{client}.{name}"] for name in trained}
        return history
