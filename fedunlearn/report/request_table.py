"""What was requested and what became of it, which requests were served together, and how large they were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.report.figures.style import (
    NARROW,
    PALETTE,
    FigureSpec,
    LegendEntry,
    despine,
    new_figure,
    safe,
)
from fedunlearn.report.request_view import FULFILLED, RequestView, view_requests
from fedunlearn.report.tables import Cell
from fedunlearn.report.values import MISSING, count, fraction, many, number, plain, significant
from fedunlearn.results_schema import RequestOutcome, Results, TimelineEntry

NORMS_SHOWN = 30
NORM_ROW = 24.0  # pixels
_Update = tuple[str, float, float | None]


@dataclass(frozen=True)
class RequestRow:
    """A row of the request table.

    Attributes:
        tone: "good", "bad" or "open".
        state: the state of the request.
        note: why it is in that state.
        cells: the other columns.
    """

    tone: str
    state: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RequestTable:
    """The table of the requests.

    Attributes:
        columns: names of the columns after number and state.
        rows: one for each request.
    """

    columns: tuple[str, ...]
    rows: tuple[RequestRow, ...]


@dataclass(frozen=True)
class Batch:
    """Requests that joined the model in one unlearn step.

    Attributes:
        round: timeline round of the step.
        requests: number of requests.
        utterances: number of their utterances.
        waited: rounds that they waited, on average.
        longest: rounds that the last of them waited.
        forget: the global model's forget accuracy, before and after the step.
        test: its test UAR, before and after the step.
    """

    round: str
    requests: str
    utterances: str
    waited: str
    longest: str
    forget: str
    test: str


# ---- the table -------------------------------------------------------------------------------------------


def request_table(results: Results) -> RequestTable:
    """One row for each request, in the order of the results; deadlines where there are any."""
    requests = view_requests(results)
    columns: dict[str, Callable[[RequestView], Cell]] = {
        "request": lambda request: Cell(request.id),
        "client": _client,
        "what": lambda request: Cell(_each(request, lambda entry: plain(entry.what))),
        "utterances": _utterances,
        "raised": lambda request: Cell(count(request.raised)),
        "applied": _applied,
        "deadline": _deadline,
        "forget accuracy": _forget,
        "steps": _steps,
        "adversarial": _adversarial,
        "update norm": lambda request: Cell(_each(request, lambda entry: significant(entry.update_norm))),
    }
    if all(request.deadline is None for request in requests):
        del columns["deadline"]
    if not any(request.total(lambda entry: entry.adversarial) for request in requests):
        del columns["adversarial"]
    rows = [
        RequestRow(
            _tone(request), request.state, _note(request), tuple(write(request) for write in columns.values())
        )
        for request in requests
    ]
    return RequestTable(tuple(columns), tuple(rows))


def _tone(request: RequestView) -> str:
    return "good" if request.state in FULFILLED else "bad" if request.state == "refused" else "open"


def _note(request: RequestView) -> str:
    notes = [request.why] if request.why else []
    if len(set(request.states)) > 1:
        devices = zip(request.clients, request.states, strict=False)
        notes.append(", ".join(f"client {client}: {state}" for client, state in devices))
    return "\n".join(notes)


def _client(request: RequestView) -> Cell:
    devices = len(request.clients)
    return Cell(", ".join(request.clients), f"{devices} devices, one person" if devices > 1 else "")


def _utterances(request: RequestView) -> Cell:
    learned = request.total(lambda entry: entry.learned)
    fewer = learned is not None and request.utterances is not None and learned < request.utterances
    if not fewer or (not learned and request.applied is not None):
        return Cell(count(request.utterances))
    return Cell(count(request.utterances), f"{count(learned)} trained on" if learned else "never trained on")


def _applied(request: RequestView) -> Cell:
    notes = [f"waited {many(request.waited, 'round')}"] if request.waited else []
    attempts = max((entry.attempts or 0 for entry in request.entries), default=0)
    if attempts > 1:
        notes.append(f"attempted {count(attempts)} times")
    return Cell(count(request.applied), "\n".join(notes))


def _deadline(request: RequestView) -> Cell:
    if request.deadline is None:
        return Cell(MISSING)
    return Cell(f"within {count(request.deadline)}", _deadline_note(request))


def _deadline_note(request: RequestView) -> str:
    """What became of a deadline, in two or three words; empty where there is nothing to say."""
    late = request.late_by
    if request.overdue:
        return f"overdue by {many(late, 'round')}" if late is not None and late > 0 else "overdue"
    if request.state in FULFILLED and request.deadline is not None:
        return f"met, {count(-late)} to spare" if late is not None and late < 0 else "met"
    return ""


def _forget(request: RequestView) -> Cell:
    joint = any(entry.joint_with for entry in request.entries)
    return Cell(_each(request, _own_accuracies), "jointly with the client's other" if joint else "")


def _own_accuracies(entry: RequestOutcome) -> str:
    return " → ".join(fraction(accuracy) for accuracy in entry.forget_accuracy or ()) or MISSING


def _steps(request: RequestView) -> Cell:
    def stopped(entry: RequestOutcome) -> str:
        return "" if entry.stopped == "steps" else entry.stopped or ""

    return Cell(_each(request, lambda entry: count(entry.steps)), _each(request, stopped))


def _adversarial(request: RequestView) -> Cell:
    def hits(entry: RequestOutcome) -> str:
        return "" if entry.attack_success is None else f"{100 * entry.attack_success:.0f}% hit"

    return Cell(count(request.total(lambda entry: entry.adversarial)), _each(request, hits))


def _each(request: RequestView, write: Callable[[RequestOutcome], str]) -> str:
    """A value of each device; once where all have the same."""
    return ", ".join(filter(None, dict.fromkeys(write(entry) for entry in request.entries)))


# ---- served together -------------------------------------------------------------------------------------


def batches(results: Results) -> list[Batch]:
    """Requests by the round in which they were applied; empty where none waited and no window was set."""
    if not any(entry.rounds_waited for entry in results.requests) and not window(results):
        return []
    served: dict[int, list[RequestOutcome]] = {}
    for entry in results.requests:
        if entry.round_applied is not None:
            served.setdefault(entry.round_applied, []).append(entry)
    return [_batch(results, round_, own) for round_, own in sorted(served.items())]


def window(results: Results) -> float | None:
    """Rounds within which requests are served together; None where unknown."""
    return number(results.setting("deletions", "window"))


def unreachable(results: Results) -> str:
    """In how many rounds clients could not be reached, and how many at most; empty where all always could."""
    known = [clients for _, clients in results.availability.unreachable if clients]
    if not known:
        return ""
    clients = results.corpus.clients
    of = f" of {count(clients)}" if clients is not None else ""
    return (
        f"In {many(len(known), 'round')} some clients could not be reached, {count(max(known))}{of} at most."
    )


def _batch(results: Results, round_: int, entries: Sequence[RequestOutcome]) -> Batch:
    waits = [entry.rounds_waited for entry in entries if entry.rounds_waited is not None]
    known = [entry.utterances for entry in entries if entry.utterances is not None]
    return Batch(
        count(round_),
        count(len({entry.id for entry in entries})),
        count(sum(known)) if len(known) == len(entries) else MISSING,
        f"{sum(waits) / len(waits):.1f}" if waits else MISSING,
        count(max(waits, default=None)),
        _before_and_after(results, round_, lambda entry: entry.forget_accuracy),
        _before_and_after(results, round_, lambda entry: entry.test_uar),
    )


def _before_and_after(results: Results, round_: int, measure: Callable[[TimelineEntry], float | None]) -> str:
    """A measure of the global model before and after the unlearn step of a round."""
    before: float | None = None
    for entry in results.timeline:
        value = measure(entry)
        if entry.phase == "unlearn" and entry.round == round_:
            return MISSING if before is None or value is None else f"{fraction(before)} → {fraction(value)}"
        before = before if value is None else value
    return MISSING


# ---- how large their updates were ------------------------------------------------------------------------


def update_norms(results: Results) -> FigureSpec | None:
    """One line for each update: its L2 norm, and the usual norm of an ordinary one; None without any.

    With more than ``NORMS_SHOWN``: the longest beside what was usual.
    """
    places = {request.id: place for place, request in enumerate(view_requests(results), start=1)}
    found: list[_Update] = []
    for entry in results.requests:
        if entry.update_norm is not None:
            place = places.get(plain(entry.id))
            name = f"#{place}" if place is not None else plain(entry.id)
            name += f"  client {plain(entry.client)}"
            found.append((safe(name)[:24], entry.update_norm, entry.usual_norm))
    if not found:
        return None
    longest = sorted(range(len(found)), key=lambda i: -found[i][1] / (found[i][2] or 1.0))[:NORMS_SHOWN]
    shown = [found[i] for i in sorted(longest)]
    key: list[LegendEntry] = [("mark round", "blue", "update of a requester")]
    if any(usual is not None for _, _, usual in shown):
        key.append(("bar thick", "ink", "usual norm of an ordinary update"))
    return FigureSpec(
        "norms",
        "L2 norm of each requester's update beside the usual norm of an ordinary one",
        lambda width: _lollipops(shown, width),
        key=tuple(key),
    )


def _lollipops(shown: Sequence[_Update], width: int) -> Figure:
    figure = new_figure(width, 50 + NORM_ROW * len(shown))
    axes: Axes = figure.subplots()
    despine(axes, grid="x")
    furthest = max(max(norm, usual or 0.0) for _, norm, usual in shown) or 1.0
    limit = furthest * (1.45 if width == NARROW else 1.3)
    for y, (_, norm, usual) in enumerate(shown):
        axes.hlines(y, 0, norm, color=PALETTE["blue"], linewidth=1.6)
        axes.plot(norm, y, "o", color=PALETTE["blue"], markersize=7, markeredgewidth=0, clip_on=False)
        if usual is not None:
            axes.vlines(usual, y - 0.5, y + 0.5, color=PALETTE["ink"], linewidth=2.2)
        text = significant(norm) + (f", {significant(norm / usual)} times the usual" if usual else "")
        if width == NARROW:
            text = f"{significant(norm)}" + (f" (×{significant(norm / usual)})" if usual else "")
        reach = limit * (6.0 * len(text) + 16) / (width - 50)  # of the text, in units of the axis
        place = usual if usual and norm < usual < norm + reach else norm
        axes.annotate(
            text, (place, y), xytext=(8, -0.5), textcoords="offset points", va="center", fontsize=10
        )
    axes.set_yticks(
        range(len(shown)), [name.split("  ")[0] if width == NARROW else name for name, _, _ in shown]
    )
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xlim(0, limit)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("L2 norm")
    return figure
