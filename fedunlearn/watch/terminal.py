"""A run in the terminal: a picture that is drawn again and again; into a pipe, a line for whatever is new."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedunlearn.console import plain
from fedunlearn.watch.view import RoundSeen, RunView

SHOWN = 8
"""Latest rounds in the picture."""


def picture(view: RunView) -> RenderableType:
    """Draw a run.

    Args:
        view: of the run.
    """
    head = Table.grid(padding=(0, 2))
    of = "" if view.total is None else f"/{view.total}"
    bar = ProgressBar(total=view.total, completed=view.done, width=30, pulse=view.total is None)
    head.add_row(Text(plain(view.name), style="bold"), Text(view.status), Text(view.phase))
    head.add_row(Text(""), Text(f"{view.done}{of}"), bar if not view.has_ended else Text(""))
    rounds = Table(box=None)
    for name in ("phase", "round", "test UAR", "unseen UAR", "train accuracy", "seconds"):
        rounds.add_column(name, justify="left" if name == "phase" else "right")
    for row in view.rounds[-SHOWN:]:
        figures = (row.test_uar, row.unseen_uar, row.train_accuracy)
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        rounds.add_row(plain(row.phase), str(row.round), *map(_figure, figures), seconds)
    return Group(head, rounds, Text(_requests(view)))


def new_lines(before: RunView | None, now: RunView) -> Iterator[str]:
    """Say what has changed, one line each.

    Args:
        before: what was said last; None = nothing yet.
        now: to be said.
    """
    is_new = before is None or (before.status, before.phase) != (now.status, now.phase)
    if is_new and not now.has_ended:
        yield f"{now.name}: {now.phase or now.status}"
    known = len(before.rounds) if before else 0
    # A resumed run starts again before the last round that was said.
    yield from (_line(row) for row in now.rounds[known if known <= len(now.rounds) else 0 :])
    if now.requests and now.requests != (before.requests if before else {}):
        yield _requests(now)


def _line(row: RoundSeen) -> str:
    uar = "" if row.test_uar is None else f", test UAR {row.test_uar:.3f}"
    unseen = "" if row.unseen_uar is None else f", unseen speakers {row.unseen_uar:.3f}"
    return f"{row.phase} {row.round}{uar}{unseen}"


def _requests(view: RunView) -> str:
    each = ", ".join(f"{count} {state}" for state, count in view.requests.items())
    return f"Deletion requests: {each}" if each else ""


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
