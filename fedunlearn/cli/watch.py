"""``fedunlearn watch``: a run that is going on, from outside."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

import typer
from rich.live import Live

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, errors, say
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput
from fedunlearn.watch.server import PageServer
from fedunlearn.watch.terminal import new_lines, picture
from fedunlearn.watch.view import RunView, RunWatcher

_GOODBYE = 20.0
"""Seconds that an open page waits for the report, which the run draws after its results."""


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; a run is going on in it.")],
    serve: Annotated[
        bool, typer.Option("--serve", help="Also show it in a browser of this machine (127.0.0.1 only).")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Of the page, with --serve; default: any free one.", min=0, max=65535)
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600)] = 1.0,
) -> None:
    """Show a running experiment until it ends. Only reads; stopping it (Ctrl-C) does not stop the run.

    Into a file or pipe, whatever is new is one line.

    Exit codes: those of the run: 0 complete; 3 it failed, is partial, or was killed, or the watching was
    interrupted. 2 there is no such run.
    """
    raise SystemExit(run_command(lambda: _watch(folder, serve, port, every)))


def _watch(folder: Path, serve: bool, port: int | None, every: float) -> int:
    if port is not None and not serve:
        raise BadInput("--port: is of the page; give --serve as well")
    watcher = RunWatcher(folder)
    with ExitStack() as open_things:
        page: PageServer | None = None
        if serve:
            # Of its own: the two look at different times.
            page = PageServer(RunWatcher(folder).look, watcher.run.report, port or 0)
            open_things.enter_context(page)
            say(f"Page: {page.url}")
        try:
            last = _follow(watcher, every)
        except KeyboardInterrupt:
            errors.labelled("interrupted:", "yellow", "no longer watching; the run goes on")
            return EXIT_FAILED
        if page is not None and page.has_visitor:
            _wait(lambda: page.gave_report, _GOODBYE)
    if last.status == "complete":
        say(f"complete: {folder}")
        return EXIT_OK
    errors.labelled(f"{last.status}:", "red", last.failure)
    return EXIT_FAILED


def _follow(watcher: RunWatcher, every: float) -> RunView:
    """Show the run until it has ended; gives the last that was seen."""
    screen = Screen()
    before: RunView | None = None
    with ExitStack() as open_things:
        live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
        if live is not None:
            open_things.enter_context(live)
        while True:
            view = watcher.look()
            if live is not None:
                live.update(picture(view), refresh=True)
            else:
                for line in new_lines(before, view):
                    say(line)
            if view.has_ended:
                return view
            before = view
            sleep(every)


def _wait(is_done: Callable[[], bool], seconds: float) -> None:
    until = monotonic() + seconds
    while not is_done() and monotonic() < until:
        sleep(0.05)
