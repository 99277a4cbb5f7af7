"""What the devices of a replayed federation have noted of their utterances, as their vaults hold it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedunlearn.vault.tickets import fade


class ReplayedTickets:
    """The tickets of all clients.

    Args:
        train: of each client, in client order, the ids of what it trains on.

    Attributes:
        noted: client -> the last round that was noted, and the tickets [n, K] of its training utterances.
    """

    def __init__(self, train: Sequence[tuple[str, ...]]) -> None:
        self.noted: dict[int, tuple[int, Tensor]] = {}
        self._sizes = [len(own) for own in train]
        self._where = {u: (client, row) for client, own in enumerate(train) for row, u in enumerate(own)}

    def note(self, client: int, ids: Sequence[str], part: Tensor, round: int, fading: float) -> None:
        """Note what a round has taught of a client's utterances.

        Args:
            client: 0 ...
            ids: of the m utterances that it trained on.
            part: [m, K], weighted.
            round: number of the learning round.
            fading: as of ``fade``.
        """
        whole = torch.zeros(self._sizes[client], part.shape[1])
        whole[[self._where[u][1] for u in ids]] = part
        before, noted = self.noted.get(client, (round - 1, torch.zeros_like(whole)))
        self.noted[client] = round, fade(noted, whole, fading, round - before)

    def resume(self, noted: Mapping[int, tuple[int, Tensor]]) -> None:
        """Go on from what had been noted.

        Args:
            noted: as of this class.
        """
        self.noted = dict(noted)

    def of(self, ids: Sequence[str]) -> Tensor | None:
        """Return the tickets [m, K] of utterances of one client; None where it has noted none."""
        client = self._where[ids[0]][0] if ids else None
        if client not in self.noted:
            return None
        return self.noted[client][1][[self._where[u][1] for u in ids]]
