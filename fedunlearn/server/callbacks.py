"""What the server calls when something has happened, so that others can watch a run and make it durable."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedunlearn.blockwise import StateDict
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.server.requests import TrackedRequest


class DigestCallbacks(Protocol):
    """Makes durable what was aggregated and what became of it."""

    def on_update(self, update: Update, phase: Phase, timeline_round: int) -> None:
        """Receive an update, as its client sent it, that is aggregated in a round of the main line.

        Args:
            update: valid until this returns.
            phase: of the round.
            timeline_round: the timeline round.
        """
        ...

    def on_model(self, weights: StateDict, phase: Phase, timeline_round: int) -> None:
        """Receive the global model after a round of the main line or a purge.

        Args:
            weights: not to be changed any more.
            phase: of the round.
            timeline_round: the timeline round.
        """
        ...

    def on_commitments(self, commitments: Mapping[int, str], timeline_round: int) -> None:
        """Receive devices' commitments to the recordings that they hold.

        Args:
            commitments: client -> its commitment; empty = it makes none.
            timeline_round: the timeline round.
        """
        ...


class Callbacks(Protocol):
    """Watches a run; the server itself knows nothing of files."""

    @property
    def digests(self) -> DigestCallbacks:
        """Called with every model and every update of the main line."""
        ...

    def on_round_end(self, row: Mapping[str, Any], weights: StateDict | None) -> None:
        """Receive the row of a round that has ended.

        Args:
            row: of the timeline, or of a training beside it.
            weights: to be evaluated, and not to be changed any more; None = not this time.
        """
        ...

    def on_request_state(self, request: TrackedRequest, state: str, timeline_round: int) -> None:
        """Receive a request's new state, which must be durable when this returns.

        Args:
            request: the request.
            state: the state it has reached.
            timeline_round: the timeline round.
        """
        ...

    def ledger_head(self) -> str:
        """Return the hash of the ledger's last row, which a device that purges writes into its receipts."""
        ...

    def on_first_request(self) -> None:
        """Act on the first request for a deletion of what was learned, before anything is unlearned."""
        ...

    def on_unlearn_updates(
        self,
        before: StateDict,
        updates: Sequence[Update],
        request_ids: Mapping[int, Sequence[str]],
        timeline_round: int,
    ) -> dict[int, Any]:
        """Receive the requesters' own updates, as they were sent, before they join the global model.

        Args:
            before: the global model's weights.
            updates: of the requesters.
            request_ids: client -> ids of the requests that its update serves.
            timeline_round: the timeline round.

        Returns:
            client -> what was measured on its update, as plain data
        """
        ...

    def checkpoint(self, copies: int = 1) -> None:
        """Save the state of the run; it must be durable when this returns.

        One round more or less does not matter where ``copies`` is 1, so that it may be left out. Where
        something is purged next, it does matter: such calls come with 2.

        Args:
            copies: files to write the same state to.
        """
        ...
