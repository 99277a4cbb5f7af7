"""Deletion requests as their people see them: one wish, whatever the number of devices that serve it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedunlearn.report.values import at, number_at, plain, rows

PATH = ("raised", "accepted", "unlearned", "applied", "purged", "verified")
"""the states on the way, in order"""
FULFILLED = ("purged", "verified")
CLOSED = ("withdrawn", "refused")
"""ended without anything being deleted, and rightly so"""


@dataclass(frozen=True)
class RequestView:
    """One request of one person.

    Attributes:
        entries: its rows of the results, one a device.
        end: the last round of the run's clock; None where unknown.
    """

    entries: tuple[Any, ...]
    end: float | None

    @cached_property
    def id(self) -> str:
        """As in the ledger."""
        return plain(at(self.entries[0], "id"))

    @cached_property
    def clients(self) -> list[str]:
        """The devices, in the order of the results."""
        return list(dict.fromkeys(plain(at(entry, "client")) for entry in self.entries))

    @cached_property
    def state(self) -> str:
        """Of the device that is least far."""
        order = {name: place for place, name in enumerate((*PATH, *CLOSED))}
        return min(self.states, key=lambda state: order.get(state, -1))

    @cached_property
    def states(self) -> list[str]:
        """Of each device."""
        return [plain(at(entry, "state")) for entry in self.entries]

    @cached_property
    def utterances(self) -> float | None:
        """On all devices."""
        return self.total("utterances")

    @cached_property
    def raised(self) -> float | None:
        """The round of the clock in which the first device said so."""
        return min(self._known("round_raised"), default=None)

    @cached_property
    def applied(self) -> float | None:
        """The round in which the last device's update had joined the model; None before that."""
        known = self._known("round_applied")
        return max(known) if len(known) == len(self.entries) else None

    @cached_property
    def waited(self) -> float | None:
        """Rounds from raised to applied, of the device that took longest; None before that."""
        return max(self._known("rounds_waited"), default=None) if self.applied is not None else None

    @cached_property
    def history(self) -> dict[str, float]:
        """State -> the round of the clock in which the last device reached it (raised: the first)."""
        return self._reached("round")

    @cached_property
    def deadline(self) -> float | None:
        """Rounds after it was raised within which it was to be verified."""
        return min(self._known("deadline"), default=None)

    @cached_property
    def overdue(self) -> bool:
        """Whether its deadline passed before it was verified."""
        return any(at(entry, "overdue") is True for entry in self.entries)

    @cached_property
    def late_by(self) -> float | None:
        """Rounds from the deadline to verification, or to the end where it is open; negative = to spare.

        Deadlines do not count recovery rounds in the middle of learning, where the clock does.
        """
        clock, dates = self.history, self._reached("date")
        if self.deadline is None or "raised" not in clock:
            return None
        if "verified" in clock:
            when = dates if dates.keys() >= {"raised", "verified"} else clock
            return when["verified"] - when["raised"] - self.deadline
        if self.end is None:
            return None
        uncounted = {state: clock[state] - date for state, date in dates.items()}
        skipped = max(uncounted.values(), default=0.0) - uncounted.get("raised", 0.0)
        return self.end - clock["raised"] - skipped - self.deadline

    @cached_property
    def why(self) -> str:
        """Why it is open, withdrawn or refused; empty where nobody said."""
        said = dict.fromkeys(str(at(e, "reason_open")) for e in self.entries if at(e, "reason_open"))
        return "; ".join(said)

    def total(self, name: str) -> float | None:
        """The sum of a number over devices; None where one lacks it."""
        known = self._known(name)
        return sum(known) if len(known) == len(self.entries) else None

    def _reached(self, what: str) -> dict[str, float]:
        reached: dict[str, list[float]] = {}
        for entry in self.entries:
            for step in rows(at(entry, "history")):
                when = number_at(step, what)
                if when is not None:
                    reached.setdefault(plain(at(step, "state")), []).append(when)
        return {
            state: min(when) if state == "raised" else max(when)
            for state, when in reached.items()
            if len(when) >= len(self.entries) or state in ("raised", *CLOSED)
        }

    def _known(self, name: str) -> list[float]:
        found = [number_at(entry, name) for entry in self.entries]
        return [value for value in found if value is not None]


def wishes(results: Mapping[str, Any]) -> list[RequestView]:
    """Every request, in the order of the results; rows of one id are one person's devices."""
    grouped: dict[Any, list[Any]] = {}
    for place, entry in enumerate(rows(at(results, "requests"))):
        name = at(entry, "id")
        grouped.setdefault(name if isinstance(name, str) and name else place, []).append(entry)
    clock = [number_at(row, "round") for row in rows(at(results, "timeline"))]
    end = max((round_ for round_ in clock if round_ is not None), default=None)
    return [RequestView(tuple(entries), end) for entries in grouped.values()]
