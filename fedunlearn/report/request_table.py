"""What was asked and what became of it, and which requests were served together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.request_view import FULFILLED, RequestView, wishes
from fedunlearn.report.tables import Cell
from fedunlearn.report.values import (
    MISSING,
    at,
    count,
    fraction,
    many,
    number_at,
    numbers,
    plain,
    rows,
    significant,
)


@dataclass(frozen=True)
class RequestRow:
    """A line of the request table; ``tone`` is "good", "bad" or "open", ``note`` says why it stands there."""

    tone: str
    state: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RequestTable:
    """The table: names of the columns after number and state, and its lines."""

    columns: tuple[str, ...]
    rows: tuple[RequestRow, ...]


@dataclass(frozen=True)
class Batch:
    """Requests that joined the model in one unlearn step.

    Attributes:
        waited: rounds, on average;
        longest: rounds.
        forget, test: the global model's forget accuracy and test UAR, before and after the step.
    """

    round: str
    requests: str
    utterances: str
    waited: str
    longest: str
    forget: str
    test: str


def request_table(results: Mapping[str, Any]) -> RequestTable:
    """One line a request, in the order of the results; deadlines where somebody set one."""
    asked = wishes(results)
    columns: dict[str, Callable[[RequestView], Cell]] = {
        "request": lambda wish: Cell(wish.id),
        "client": _client,
        "what": lambda wish: Cell(_each(wish, "what", plain)),
        "utterances": _utterances,
        "raised": lambda wish: Cell(count(wish.raised)),
        "applied": _applied,
        "deadline": _deadline,
        "forget accuracy": _forget,
        "steps": lambda wish: Cell(_each(wish, "steps", count), _each(wish, "stopped", _stop)),
        "adversarial": lambda wish: Cell(
            count(wish.total("adversarial")), _each(wish, "attack_success", _hits)
        ),
        "update norm": lambda wish: Cell(_each(wish, "update_norm", significant)),
    }
    if all(wish.deadline is None for wish in asked):
        del columns["deadline"]
    if not any(wish.total("adversarial") for wish in asked):
        del columns["adversarial"]
    lines = [
        RequestRow(_tone(wish), wish.state, _note(wish), tuple(write(wish) for write in columns.values()))
        for wish in asked
    ]
    return RequestTable(tuple(columns), tuple(lines))


def batches(results: Mapping[str, Any]) -> list[Batch]:
    """Requests by the round in which they were applied; empty where none waited and no window was set."""
    entries = rows(at(results, "requests"))
    waited = [number_at(entry, "rounds_waited") for entry in entries]
    if not any(waited) and not number_at(results, "config", "deletions", "window"):
        return []
    served: dict[float, list[Any]] = {}
    for entry in entries:
        round_ = number_at(entry, "round_applied")
        if round_ is not None:
            served.setdefault(round_, []).append(entry)
    return [_batch(results, round_, own) for round_, own in sorted(served.items())]


def unreachable(results: Mapping[str, Any]) -> str:
    """In how many rounds clients could not be reached, and how many at most; empty where all always could."""
    told = [numbers(pair) for pair in rows(at(results, "availability", "unreachable"))]
    known = [pair[-1] for pair in told if pair and pair[-1]]
    clients = number_at(results, "corpus", "clients")
    if not known:
        return ""
    of = f" of {count(clients)}" if clients is not None else ""
    return (
        f"In {many(len(known), 'round')} some clients could not be reached, {count(max(known))}{of} at most."
    )


def _batch(results: Mapping[str, Any], round_: float, entries: Sequence[Any]) -> Batch:
    waits = [wait for entry in entries if (wait := number_at(entry, "rounds_waited")) is not None]
    sizes = [number_at(entry, "utterances") for entry in entries]
    known = [size for size in sizes if size is not None]
    return Batch(
        count(round_),
        count(len({plain(at(entry, "id")) for entry in entries})),
        count(sum(known)) if len(known) == len(sizes) else MISSING,
        f"{sum(waits) / len(waits):.1f}" if waits else MISSING,
        count(max(waits, default=None)),
        _moved(results, round_, "forget_accuracy"),
        _moved(results, round_, "test_uar"),
    )


def _moved(results: Mapping[str, Any], round_: float, measure: str) -> str:
    """A measure of the global model before and after the unlearn step of a round."""
    before: float | None = None
    for row in rows(at(results, "timeline")):
        value = number_at(row, measure)
        if at(row, "phase") == "unlearn" and number_at(row, "round") == round_:
            return MISSING if before is None or value is None else f"{fraction(before)} → {fraction(value)}"
        before = before if value is None else value
    return MISSING


def _tone(wish: RequestView) -> str:
    return "good" if wish.state in FULFILLED else "bad" if wish.state == "refused" else "open"


def _note(wish: RequestView) -> str:
    notes = [wish.why] if wish.why else []
    if len(set(wish.states)) > 1:
        told = zip(wish.clients, wish.states, strict=False)
        notes.append(", ".join(f"client {client}: {state}" for client, state in told))
    return "\n".join(notes)


def _client(wish: RequestView) -> Cell:
    devices = len(wish.clients)
    return Cell(", ".join(wish.clients), f"{devices} devices, one person" if devices > 1 else "")


def _utterances(wish: RequestView) -> Cell:
    learned = wish.total("learned")
    told = learned is not None and wish.utterances is not None and learned < wish.utterances
    if not told or (not learned and wish.applied is not None):
        return Cell(count(wish.utterances))
    return Cell(count(wish.utterances), f"{count(learned)} trained on" if learned else "never trained on")


def _applied(wish: RequestView) -> Cell:
    notes = [f"waited {many(wish.waited, 'round')}"] if wish.waited else []
    leases = max((number_at(entry, "attempts") or 0.0 for entry in wish.entries), default=0.0)
    if leases > 1:
        notes.append(f"asked {count(leases)} times")
    return Cell(count(wish.applied), "\n".join(notes))


def _deadline(wish: RequestView) -> Cell:
    if wish.deadline is None:
        return Cell(MISSING)
    return Cell(f"within {count(wish.deadline)}", deadline_words(wish))


def deadline_words(wish: RequestView) -> str:
    """What became of a deadline, in two or three words; empty where there is nothing to say."""
    late = wish.late_by
    if wish.overdue:
        return f"overdue by {many(late, 'round')}" if late is not None and late > 0 else "overdue"
    if wish.state in FULFILLED and wish.deadline is not None:
        return f"met, {count(-late)} to spare" if late is not None and late < 0 else "met"
    return ""


def _forget(wish: RequestView) -> Cell:
    def pair(value: Any) -> str:
        return " → ".join(fraction(accuracy) for accuracy in rows(value)) or MISSING

    joint = any(rows(at(entry, "joint_with")) for entry in wish.entries)
    return Cell(_each(wish, "forget_accuracy", pair), "jointly with the client's other" if joint else "")


def _hits(value: Any) -> str:
    known = number_at({"value": value}, "value")
    return "" if known is None else f"{100 * known:.0f}% hit"


def _stop(value: Any) -> str:
    return "" if value == "steps" else str(value or "")


def _each(wish: RequestView, name: str, write: Callable[[Any], str]) -> str:
    """A value of each device; once where all have the same."""
    told = dict.fromkeys(write(at(entry, name)) for entry in wish.entries)
    return ", ".join(text for text in told if text)
