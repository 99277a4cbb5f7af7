"""A deletion request, the states it goes through, and which may follow which."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class RequestState(StrEnum):
    """What has become of a request; each is recorded in the ledger before the next step begins."""

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
    # the server does with its request (it is never told that it was accepted, or its update applied).
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
"""state -> the states that may come next. There is no way back."""

OVERDUE = "overdue"
"""recorded beside the states: the deadline passed while the request was open; it is served all the same"""

CLOSED = frozenset({RequestState.PURGED, RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED})
"""A device has nothing more to do for a request in one of these."""


HOLDS_NONE = "this device holds no utterance"
TRAINS_ON_NONE = "this device trains on no utterance"
NOT_UNDERSTOOD = "what was filed cannot be understood"
_NOTES = {
    HOLDS_NONE: "this device holds no such utterance",
    TRAINS_ON_NONE: "this device holds no such utterance",
    NOT_UNDERSTOOD: NOT_UNDERSTOOD,
}
"""how the note of a refusal begins that goes on in the person's own words -> what is left of it in the end"""


class ImpossibleStep(Exception):
    """A request was to go to a state that cannot follow the one it is in; ``str(error)`` names both."""


def has_passed(now: RequestState, state: RequestState) -> bool:
    """Whether a request that is ``now`` has been in ``state``, or went past it on a shorter way.

    So a step that is taken again (a retry, a reply after its timeout) has no second effect.
    """
    return state == now or now in _beyond(state)


def step(now: RequestState, to: RequestState) -> RequestState:
    """The state after a step: ``to``, or ``now`` where that was reached before.

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
    """One client's wish as its device keeps it. None of this but id, counts, dates and state leaves it.

    Attributes:
        id: 16 hexadecimal digits that tell nothing about the speaker or the utterances. A person with several
            devices has one request, with the same id on each.
        client: who asks.
        what: "all", "some", "emotion", "speaker" or "named".
        round: rounds done when it was raised.
        event: the schedule's or arrival's name, or that of a person's wish; raising one twice has one effect.
        utterances: the training utterances that must go: D_f of this request. Device and judge only.
        held_out: the held-out utterances that must go with them. No model is trained on these, so they are
            purged and never unlearned. Device and judge only.
        state: as the device knows it.
        deadline: rounds after ``round`` within which it should be verified; None = none.
        devices: how many of the person's devices hold speech that must go.
        reason: in the person's own words.
        note: what the device has to say of it: why it is refused, or cannot be withdrawn any more.
        withdrawn: rounds done when it was withdrawn.
        dropped: how many training utterances it named, once it is closed and they are dropped.
        dropped_held_out: the same of the held-out ones.
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
        """Training utterances of it on this device."""
        return len(self.utterances) or self.dropped

    @property
    def held_out_count(self) -> int:
        """Held-out utterances of it on this device."""
        return len(self.held_out) or self.dropped_held_out

    @property
    def is_open(self) -> bool:
        """Whether the device has something to do for it still."""
        return self.state not in CLOSED

    def moved(self, state: RequestState) -> "DeletionRequest":
        """In a state; the same where that was reached before.

        Raises:
            ImpossibleStep: it cannot follow.
        """
        return replace(self, state=step(self.state, state))

    def closed(self) -> "DeletionRequest":
        """Without the utterance ids and the person's words; counts, dates and the state stay.

        Raises:
            ValueError: it is open still.
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
        """Its state as the server may hear it when ``rounds_done`` rounds are done.

        A run that was killed and goes on from an earlier date hears of a withdrawal when it was made.
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
