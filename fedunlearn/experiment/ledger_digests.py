"""Writes the digests of updates and global models into the ledger, round by round."""

from collections.abc import Mapping, Sequence

from fedunlearn.blockwise import StateDict
from fedunlearn.ledger import Ledger, LedgerEntry, RoundDigests, blinded_update, update_key
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.server.request_tracker import weights_digest


class LedgerDigests:
    """The digests of the round in progress, and of the last model.

    Args:
        ledger: of the run, opened for writing.

    Attributes:
        models: rounds that have ended since this was made.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self.models = ledger, 0
        self._round: tuple[str, int] | None = None
        self._updates: list[str] = []
        self._last: tuple[tuple[str, int], RoundDigests] | None = None
        self._model: tuple[StateDict, str] | None = None

    def on_update(self, update: Update, phase: Phase, timeline_round: int) -> None:
        """Note an update that is aggregated.

        Args:
            update: as its client sent it.
            phase: of the round.
            timeline_round: the timeline round.
        """
        self._begin(phase, timeline_round)
        key = update_key(self._ledger.salt or b"", str(phase), timeline_round, update.client)
        self._updates.append(blinded_update(key, update.digest))

    def on_model(self, weights: StateDict, phase: Phase, timeline_round: int) -> None:
        """Write the row of a round; nothing where the same round has just ended with the same model.

        Args:
            weights: of the global model, which are not changed any more.
            phase: of the round.
            timeline_round: the timeline round.
        """
        this = self._begin(phase, timeline_round)
        self.models += 1
        digests = RoundDigests(self._digest(weights), tuple(sorted(self._updates)))
        self._round, self._updates = None, []
        # A privileged baseline reports its last round, and then the whole step.
        repeated = self._last and not digests.updates and self._last[0] == this
        if not (repeated and self._last and self._last[1].model == digests.model):
            self._ledger.append_model(*this, digests)
            self._last = this, digests

    def on_commitments(self, commitments: Mapping[int, str], timeline_round: int) -> None:
        """Write rows of devices' commitments, as far as they have changed.

        Args:
            commitments: client -> its commitment; empty = it makes none.
            timeline_round: the timeline round.
        """
        # Not in the order of the clients, which would say whose row is whose.
        for commitment, client in sorted((made, client) for client, made in commitments.items()):
            if commitment:
                self._ledger.append_commitment(client, timeline_round, commitment)

    def learned(self) -> tuple[tuple[int, str], ...]:
        """Read the rows of the learning rounds so far, as (timeline round, content) each."""
        return tuple((row.round, row.content) for row in self._ledger.entries() if _is_learning(row))

    def add_learned(self, rows: Sequence[tuple[int, str]]) -> None:
        """Write the rows of learning rounds that were taken from the reference cache.

        Args:
            rows: from ``learned`` of the run that trained them.
        """
        for timeline_round, content in rows:
            digests = RoundDigests.of_text(content)
            self._ledger.append_model(str(Phase.LEARN), timeline_round, digests)

    def _begin(self, phase: Phase, timeline_round: int) -> tuple[str, int]:
        this = str(phase), timeline_round
        if self._round != this:  # of a round that came to nothing
            self._round, self._updates = this, []
        return this

    def _digest(self, weights: StateDict) -> str:
        if self._model is None or self._model[0] is not weights:
            self._model = weights, weights_digest(weights)
        return self._model[1]


def _is_learning(row: LedgerEntry) -> bool:
    return row.is_of_model and row.state == Phase.LEARN
