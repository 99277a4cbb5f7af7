"""``fedunlearn audit replay``: compute a run again, and compare it with what its ledger recorded."""

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import DataOption
from fedunlearn.console import errors, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_NOT_COMPARED, EXIT_OK
from fedunlearn.run_folder import RunFolder


def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder; nothing in it is changed.")],
    data: DataOption = None,
    receipt: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A copy of a receipt, kept elsewhere; may be repeated."),
    ] = None,
) -> None:
    """Compute a run again, and compare every model, update and recording with what its ledger recorded.

    The run is computed in one process, from its settings, its seed, its corpus and what people filed. That
    takes as long as its rounds, without the retrained models and the judge. What differs first is named.
    Without a receipt that somebody kept outside of the run folder, a ledger and a folder that were made as a
    whole by another, honest run of the same settings cannot be told from the right ones.

    Exit codes: 0 the ledger records what the settings give; 2 bad input; 3 something differs; 4 it cannot be
    decided, such as with the ledger of an earlier version.
    """
    raise SystemExit(run_command(lambda: _replay(RunFolder(folder), data, receipt or [])))


def _replay(run: RunFolder, data: Path | None, receipts: list[Path]) -> int:
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.audit.replay import ReplayVerdict, replay_run
    from fedunlearn.experiment.progress import Progress

    with stopped_as_interrupt(), Progress(errors) as progress:
        found = replay_run(run, data, progress, receipts)
    match found.verdict:
        case ReplayVerdict.DIFFERS:
            errors.labelled("failed:", "red", found.line)
            return EXIT_FAILED
        case ReplayVerdict.UNDECIDED:
            warn(found.line)
            return EXIT_NOT_COMPARED
    say(f"{run.ledger}: {found.line}")
    return EXIT_OK
