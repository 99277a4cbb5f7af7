"""Deletion requests as the people who made them see them: one request, however many devices serve it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from fedunlearn.report.values import plain
from fedunlearn.results_schema import RequestOutcome, RequestStep, Results

PATH = ("raised", "accepted", "unlearned", "applied", "purged", "verified")
"""the states on the way, in order"""
FULFILLED = ("purged", "verified")
CLOSED = ("withdrawn", "refused")
"""ended without a deletion, as it should"""


@dataclass(frozen=True)
class RequestView:
    """One request of one person.

    Attributes:
        entries: its outcomes, one for each device.
        end: the last timeline round of the run; None where unknown.
    """

    entries: tuple[RequestOutcome, ...]
    end: int | None

    @cached_property
    def id(self) -> str:
        """Its id, as in the ledger."""
        return plain(self.entries[0].id)

    @cached_property
    def clients(self) -> list[str]:
        """The devices, in the order of the results."""
        return list(dict.fromkeys(plain(entry.client) for entry in self.entries))

    @cached_property
    def state(self) -> str:
        """State of the device that is least far."""
        order = {name: place for place, name in enumerate((*PATH, *CLOSED))}
        return min(self.states, key=lambda state: order.get(state, -1))

    @cached_property
    def states(self) -> list[str]:
        """State of each device."""
        return [plain(entry.state) for entry in self.entries]

    @cached_property
    def utterances(self) -> int | None:
        """Number of utterances that it names on all devices."""
        return self.total(lambda entry: entry.utterances)

    @cached_property
    def raised(self) -> int | None:
        """The timeline round in which the first device raised it."""
        return min(self._known(lambda entry: entry.round_raised), default=None)

    @cached_property
    def applied(self) -> int | None:
        """The timeline round in which the last device's update was aggregated; None before that."""
        known = self._known(lambda entry: entry.round_applied)
        return max(known) if len(known) == len(self.entries) else None

    @cached_property
    def waited(self) -> int | None:
        """Rounds from raised to applied, of the device that took longest; None before that."""
        if self.applied is None:
            return None
        return max(self._known(lambda entry: entry.rounds_waited), default=None)

    @cached_property
    def history(self) -> dict[str, int]:
        """State -> the timeline round in which the last device reached it (raised: the first)."""
        return self._reached(lambda step: step.round)

    @cached_property
    def deadline(self) -> int | None:
        """Rounds after it was raised within which it should be verified."""
        return min(self._known(lambda entry: entry.deadline), default=None)

    @cached_property
    def overdue(self) -> bool:
        """Whether its deadline passed before it was verified."""
        return any(entry.overdue for entry in self.entries)

    @cached_property
    def late_by(self) -> int | None:
        """Rounds from the deadline to verification, or to the end where it is open; negative = to spare.

        Deadlines do not count recovery rounds in the middle of learning; timeline rounds do.
        """
        rounds, learning_rounds = self.history, self._reached(lambda step: step.date)
        if self.deadline is None or "raised" not in rounds:
            return None
        if "verified" in rounds:
            when = learning_rounds if learning_rounds.keys() >= {"raised", "verified"} else rounds
            return when["verified"] - when["raised"] - self.deadline
        if self.end is None:
            return None
        uncounted = {state: rounds[state] - at for state, at in learning_rounds.items() if state in rounds}
        skipped = max(uncounted.values(), default=0) - uncounted.get("raised", 0)
        return self.end - rounds["raised"] - skipped - self.deadline

    @cached_property
    def why(self) -> str:
        """Why it is open, withdrawn or refused; empty where no device says."""
        return "; ".join(dict.fromkeys(entry.reason_open for entry in self.entries if entry.reason_open))

    def total(self, number: Callable[[RequestOutcome], int | None]) -> int | None:
        """The sum of a number over the devices; None where one lacks it."""
        known = self._known(number)
        return sum(known) if len(known) == len(self.entries) else None

    def _reached(self, when: Callable[[RequestStep], int | None]) -> dict[str, int]:
        reached: dict[str, list[int]] = {}
        for entry in self.entries:
            for step in entry.history:
                if (number := when(step)) is not None:
                    reached.setdefault(plain(step.state), []).append(number)
        return {
            state: min(numbers) if state == "raised" else max(numbers)
            for state, numbers in reached.items()
            if len(numbers) >= len(self.entries) or state in ("raised", *CLOSED)
        }

    def _known(self, number: Callable[[RequestOutcome], int | None]) -> list[int]:
        found = [number(entry) for entry in self.entries]
        return [value for value in found if value is not None]


def view_requests(results: Results) -> list[RequestView]:
    """Every request, in the order of the results; outcomes of one id are those of one person's devices."""
    grouped: dict[str | int, list[RequestOutcome]] = {}
    for place, entry in enumerate(results.requests):
        grouped.setdefault(entry.id or place, []).append(entry)
    rounds = [entry.round for entry in results.timeline if entry.round is not None]
    end = max(rounds, default=None)
    return [RequestView(tuple(entries), end) for entries in grouped.values()]
