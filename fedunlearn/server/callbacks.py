"""Whoever watches a run, and makes it durable: the server speaks to it and knows nothing of files."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fedunlearn.messages.update import Update
from fedunlearn.server.requests import TrackedRequest


class Callbacks(Protocol):
    """The judge's learning curve, the progress display, the ledger, the checkpoints."""

    def on_round_end(self, row: Mapping[str, Any], weights: Mapping[str, Tensor] | None) -> None:
        """A round is over; ``weights`` where the judge shall look, not to be changed any more."""
        ...

    def on_request_state(self, request: TrackedRequest, state: str, round: int) -> None:
        """A request moved on; must be durable when this returns."""
        ...

    def ledger_head(self) -> str:
        """Hash of the ledger's last row: a device that purges puts it into its receipts."""
        ...

    def on_first_request(self) -> None:
        """Somebody has asked, for the first time, and nothing is forgotten yet."""
        ...

    def on_unlearn_updates(
        self,
        before: Mapping[str, Tensor],
        updates: Sequence[Update],
        asked: Mapping[int, Sequence[str]],
        round: int,
    ) -> dict[int, Any]:
        """Requesters' own updates have come, as they were sent, and have not joined ``before`` yet.

        Args:
            asked: client -> ids of the requests that its update serves.

        Returns:
            client -> what was measured on its update, as plain data
        """
        ...

    def keep(self, copies: int = 1) -> None:
        """Where the run stands must be durable when this returns; ``copies`` in as many files.

        One round more or less does not matter where ``copies`` is 1, so that it may be left out; what is
        removed for good afterwards does, and comes with 2.
        """
        ...
