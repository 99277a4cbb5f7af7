"""``fedunlearn audit``: a run computed again and compared (``replay``); cheating servers (``bench``)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedunlearn import config as configuration
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import ConfigOption, DataOption, SetOption, config_files, read_overrides
from fedunlearn.config.fields import LARGEST, LARGEST_SEED
from fedunlearn.console import Screen, errors, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_NOT_COMPARED, EXIT_OK
from fedunlearn.files import write_atomically
from fedunlearn.run_folder import RunFolder

if TYPE_CHECKING:
    from fedunlearn.study.audit_bench.bench import BenchPlan

_GENERATED = {"partition.clients": 8, "partition.unseen_speakers": 2, "corpus.utterances": 40}
"""the small federation of generated speech that is played where no experiment is named"""


def bench(
    cheats: Annotated[str, typer.Option(help="Names, by commas; all = every one.")] = "all",
    seeds: Annotated[str, typer.Option(help="Runs of each server, by commas.")] = "1,2,3,4,5,6,7,8,9,10",
    choosing: Annotated[
        int, typer.Option(min=1, max=1000, help="Honest runs that thresholds are set on: seeds 101, ...")
    ] = 40,
    size: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="Utterances that each of two requesters deletes.")
    ] = 10,
    false_alarms: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Rate that thresholds are set for.")
    ] = 0.05,
    out: Annotated[Path, typer.Option(help="Folder for audit.json, audit.md and audit.html.")] = Path(
        "runs/audit"
    ),
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Play cheating servers over honest devices, and measure who finds them.

    For each server: a requesting client alone, all clients together, an auditor with the run folder, also
    with what clients kept, and one who computes the run again. What was played is kept in DIR/seeds.

    Exit codes: 0 audit.json is there; 2 bad input; 3 a run failed.
    """

    def command() -> int:
        # Heavy imports wait: every command imports this module.
        from fedunlearn.study.audit_bench.bench import plan_bench
        from fedunlearn.study.grid import loader_of, parse_numbers
        from fedunlearn.study.runner import StudyRunner, count_clients

        own = {"corpus.path": str(data)} if data else {}
        common, files = read_overrides(set_, own), config_files(config)
        if not files and "corpus.name" not in common:
            common = {**_GENERATED, **common}
        load = loader_of(count_clients(configuration.load(files, common)))
        numbers = parse_numbers("--seeds", seeds, 0, LARGEST_SEED)
        plan = plan_bench(load, cheats, numbers, choosing, size, false_alarms)
        StudyRunner(out, partial=True, warn=warn).check(plan.cells)
        return _play(plan, out)

    raise SystemExit(run_command(command))


def _play(plan: "BenchPlan", out: Path) -> int:
    from fedunlearn.report.audit import audit_table, servers_table, write_audit_page
    from fedunlearn.report.markup import markdown
    from fedunlearn.study.audit_bench.bench import AuditBench, summary_of

    with stopped_as_interrupt():
        found = AuditBench(out, errors.tell).play(plan)
    summary = summary_of(found)
    table = markdown([audit_table(summary)])
    write_atomically(out / "audit.json", found.model_dump_json(indent=1) + "\n")
    write_atomically(out / "audit.md", f"{table}\n{markdown([servers_table(summary)])}")
    write_audit_page(summary, out / "audit.html")
    Screen().print(f"{summary.headline}\n\n{table}", soft_wrap=True)
    return EXIT_OK


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
