"""A deletion request, the states it goes through, and which may follow which."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class RequestState(StrEnum):
    """State of a request; each is recorded in the ledger before the next step begins."""

    RAISED = "raised"
    ACCEPTED = "accepted"
    UNLEARNED = "unlearned"
    APPLIED = "applied"
    PURGED = "purged"
    VERIFIED = "verified"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"


FOLLOWS: Mapping[RequestState, frozenset[RequestState]] = {
    # What no model has been trained on is purged without being unlearned; and a device does not see all that
    # the server does with its request (that it was accepted, or its update applied).
    RequestState.RAISED: frozenset(
        {
            RequestState.ACCEPTED,
            RequestState.UNLEARNED,
            RequestState.PURGED,
            RequestState.WITHDRAWN,
            RequestState.REFUSED,
        }
    ),
    RequestState.ACCEPTED: frozenset(
        {RequestState.UNLEARNED, RequestState.PURGED, RequestState.WITHDRAWN, RequestState.REFUSED}
    ),
    RequestState.UNLEARNED: frozenset({RequestState.APPLIED, RequestState.PURGED}),
    RequestState.APPLIED: frozenset({RequestState.PURGED}),
    RequestState.PURGED: frozenset({RequestState.VERIFIED}),
    RequestState.VERIFIED: frozenset(),
    RequestState.WITHDRAWN: frozenset(),
    RequestState.REFUSED: frozenset(),
}
"""state -> the states that may follow; there is no way back"""

OVERDUE = "overdue"
"""recorded beside the states: the deadline passed while the request was open; it is served nevertheless"""

CLOSED = frozenset({RequestState.PURGED, RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED})
"""states in which a device has nothing more to do for a request"""

HOLDS_NONE = "this device holds no utterance"
TRAINS_ON_NONE = "this device trains on no utterance"
NOT_UNDERSTOOD = "what was filed cannot be understood"
_NOTES = {
    HOLDS_NONE: "this device holds no such utterance",
    TRAINS_ON_NONE: "this device holds no such utterance",
    NOT_UNDERSTOOD: NOT_UNDERSTOOD,
}
"""beginning of a refusal's note that quotes the person -> the note that stays once the request is closed"""


class ImpossibleStep(Exception):
    """A request was moved to a state that cannot follow its current one; ``str(error)`` names both."""


def has_passed(now: RequestState, state: RequestState) -> bool:
    """Tell whether a request has reached a state, or has passed it on a shorter way.

    So a repeated step (a retry, a reply after its timeout) has no second effect.

    Args:
        now: the state it is in.
        state: the state in question.
    """
    return state == now or now in _beyond(state)


def step(now: RequestState, to: RequestState) -> RequestState:
    """Return the state after a step: ``to``, or ``now`` if ``to`` was reached before.

    Args:
        now: state before the step.
        to: state to move to.

    Raises:
        ImpossibleStep: ``to`` cannot follow ``now``.
    """
    if has_passed(now, to):
        return now
    if to not in FOLLOWS[now]:
        raise ImpossibleStep(f"a request that is {now} cannot become {to}")
    return to


def _beyond(state: RequestState) -> set[RequestState]:
    later: set[RequestState] = set()
    waiting = list(FOLLOWS[state] - {RequestState.WITHDRAWN, RequestState.REFUSED})
    while waiting:
        following = waiting.pop()
        if following not in later:
            later.add(following)
            waiting += FOLLOWS[following] - {RequestState.WITHDRAWN, RequestState.REFUSED}
    return later


@dataclass(frozen=True)
class DeletionRequest:
    """A deletion request as its device keeps it; only its id, counts, rounds and state leave the device.

    Attributes:
        id: 16 hexadecimal digits that reveal nothing about the speaker or the utterances. A person with
            several devices has one request, with the same id on each.
        client: number of the device.
        what: "all", "some", "emotion", "speaker" or "named".
        round: rounds done when it was raised.
        event: name of the scheduled, random or filed event; raising one twice has one effect.
        utterances: the training utterances to delete: D_f of this request. Device and judge only.
        held_out: the held-out utterances to delete with them. No model is trained on these, so they are
            purged and never unlearned. Device and judge only.
        state: as the device knows it.
        deadline: rounds after ``round`` within which it should be verified; None = none.
        devices: how many of the person's devices hold recordings that must be deleted.
        reason: in the person's own words.
        note: why it was refused, or cannot be withdrawn any more.
        withdrawn: rounds done when it was withdrawn.
        dropped: how many training utterances it named, once it is closed and their ids are dropped.
        dropped_held_out: the same for the held-out ones.
    """

    id: str
    client: int
    what: str
    round: int
    event: str
    utterances: tuple[str, ...]
    state: RequestState = RequestState.RAISED
    deadline: int | None = None
    devices: int = 1
    reason: str = ""
    note: str = ""
    withdrawn: int | None = None
    dropped: int = 0
    held_out: tuple[str, ...] = ()
    dropped_held_out: int = 0

    @property
    def count(self) -> int:
        """Number of its training utterances on this device."""
        return len(self.utterances) or self.dropped

    @property
    def held_out_count(self) -> int:
        """Number of its held-out utterances on this device."""
        return len(self.held_out) or self.dropped_held_out

    @property
    def is_open(self) -> bool:
        """Whether the device still has something to do for it."""
        return self.state not in CLOSED

    def moved(self, state: RequestState) -> "DeletionRequest":
        """Return the request in another state; unchanged if it reached that before.

        Raises:
            ImpossibleStep: it cannot follow.
        """
        return replace(self, state=step(self.state, state))

    def closed(self) -> "DeletionRequest":
        """Return the request without utterance ids and the person's words; counts, rounds and state stay.

        Raises:
            ValueError: it is still open.
        """
        if self.is_open:
            raise ValueError(f"request {self.id} is {self.state}: it cannot be closed yet")
        refused = self.note if self.state is RequestState.REFUSED else ""
        return replace(
            self,
            utterances=(),
            held_out=(),
            reason="",
            note=next((short for full, short in _NOTES.items() if refused.startswith(full)), refused),
            dropped=self.count,
            dropped_held_out=self.held_out_count,
        )

    def at(self, rounds_done: int) -> RequestState:
        """Return the state that is reported to the server after ``rounds_done`` rounds.

        A resumed run that continues from an earlier round sees a withdrawal in the round it was made.
        """
        if (
            self.state is RequestState.WITHDRAWN
            and self.withdrawn is not None
            and rounds_done < self.withdrawn
        ):
            return RequestState.RAISED
        if self.state in {RequestState.ACCEPTED, RequestState.UNLEARNED, RequestState.APPLIED}:
            return RequestState.RAISED
        return RequestState.PURGED if self.state is RequestState.VERIFIED else self.state
