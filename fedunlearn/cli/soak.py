"""``fedunlearn soak``: a federation under every fault at once, and whether anything is lost."""

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, errors, say
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput
from fedunlearn.folders import make_new_folder
from fedunlearn.study.soak import Soak, SoakReport, soak_config, table_of


def soak(
    minutes: Annotated[
        float, typer.Option(help="How long faults are injected; then the last run may end.")
    ] = 3.0,
    clients: Annotated[int, typer.Option(help="Devices.")] = 50,
    engine: Annotated[str, typer.Option(help="ray, inline or flower.")] = "ray",
    seed: Annotated[int, typer.Option(help="Of the faults and of the runs.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: runs/soak-DATE.")] = None,
    play: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Inject faults into a federation for some minutes, and check that nothing is lost.

    Devices are offline, slow, drop out and fail; requests arrive at random and in bursts, whole clients
    leave, speakers have several devices, people file deletion requests and withdraw them from other
    processes; workers are killed; the whole run is killed or stopped by Ctrl-C and resumed, with damaged
    checkpoints in between. After every round the run's invariants are checked; at the end of each run, that
    every request was followed to its end and that nothing of what was deleted is left.

    Exit codes: 0 nothing was lost; 2 bad input; 3 something was lost.
    """

    def command() -> int:
        if play is not None:
            from fedunlearn.study.soak_life import play_life

            return play_life(play)
        if not 0 <= minutes < math.inf:
            raise BadInput(f"--minutes {minutes}: give a number of minutes, 0 or more")
        soak_config(clients, engine, seed)  # what is wrong with it, before anything is made
        if out is not None and out.exists():
            raise BadInput(f"--out {out}: exists; name another, or remove it first")
        folder, _ = make_new_folder(out or Path("runs") / f"soak-{datetime.now():%Y%m%d-%H%M%S}")
        return _print(Soak(folder, clients, engine, seed).run(60 * minutes))

    raise SystemExit(run_command(command))


def _print(found: SoakReport) -> int:
    Screen().table(table_of(found))
    for line in found.broken:
        errors.labelled("broken:", "red", line)
    if not found.broken:
        say("Nothing was lost.")
    return EXIT_FAILED if found.broken else EXIT_OK
