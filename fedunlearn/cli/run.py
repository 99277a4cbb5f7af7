"""``fedunlearn run``: one experiment from its settings to its page."""

import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedunlearn import config as configuration
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import (
    ColumnsOption,
    ConfigOption,
    DataOption,
    EngineOption,
    SetOption,
    config_files,
    read_columns,
    read_overrides,
)
from fedunlearn.config.partition import PartitionSettings
from fedunlearn.config.unlearning import AGGREGATIONS
from fedunlearn.console import Screen, errors, say, warn
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, Interrupted
from fedunlearn.folders import make_new_folder, remove_folders
from fedunlearn.inputs import looked_up
from fedunlearn.results_schema import Gap, ModelScores, Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import TRACKERS, Follower, check_tracker
from fedunlearn.unlearning import CONTROLS, METHODS, PRIVILEGED

if TYPE_CHECKING:
    from fedunlearn.corpora.utterance import Corpus
    from fedunlearn.partition import Partition

_METHOD_HELP = (
    "Unlearning method (unlearning.method), or your own: path/to/mine.py:name. Forget set alone: "
    f"{', '.join(name for name in METHODS if name not in CONTROLS)}. Controls: {', '.join(CONTROLS)}. "
    f"See more than the forget set, privileged baselines: {', '.join(PRIVILEGED)}."
)
_AGGREGATION_HELP = (
    f"How the requesters' updates join: {', '.join(AGGREGATIONS)}, or your own: path/to/mine.py:name "
    "(unlearning.aggregation)."
)
_MODEL_HELP = (
    "functionals, cnn, or a speech encoder: small (in the package), a folder as transformers saves it, "
    "a name such as facebook/wav2vec2-base, random:wav2vec2-base to measure times, or your own: "
    "path/to/mine.py:name (model.name)."
)


def run(
    config: ConfigOption = None,
    corpus: Annotated[
        str | None, typer.Option(help="Which corpus, or your own: path/to/mine.py:name (corpus.name).")
    ] = None,
    data: DataOption = None,
    columns: ColumnsOption = None,
    model: Annotated[str | None, typer.Option(help=_MODEL_HELP)] = None,
    method: Annotated[str | None, typer.Option(help=_METHOD_HELP)] = None,
    clients: Annotated[
        int | None,
        typer.Option(help="Devices; default: worked out from the corpus (partition.clients)."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Ordinary rounds (training.rounds).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness.")] = None,
    aggregation: Annotated[str | None, typer.Option(help=_AGGREGATION_HELP)] = None,
    engine: EngineOption = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, HOST:PORT or auto; default: Ray on this machine."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default: runs/DATE-CORPUS.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Trained references; default: references/ beside the run folder.")
    ] = None,
    ephemeral: Annotated[
        bool,
        typer.Option("--ephemeral", help="Keep no model that was trained on deleted speech, in the end."),
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable files out.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --out: stopped, killed, or with new requests."),
    ] = False,
    set_: SetOption = None,
    track: Annotated[
        str | None,
        typer.Option(help=f"Follow the run in another tool, each an extra: {', '.join(sorted(TRACKERS))}."),
    ] = None,
) -> None:
    """Run one experiment: learn, listen for deletions, unlearn, recover, judge.

    Exit codes: 0 all done, with a warning where the run says nothing about its method; 2 bad input; 3 the run
    failed or a request is unfulfilled.
    """
    named = {
        "corpus.name": corpus,
        "corpus.path": str(data) if data else None,
        "model.name": model,
        "unlearning.method": method,
        "unlearning.aggregation": aggregation,
        "partition.clients": clients,
        "training.rounds": rounds,
        "seed": seed,
        "federation.engine": engine,
        "federation.ray_address": ray_address,
        "corpus.skip_bad": skip_bad or None,
        "evaluation.ephemeral": ephemeral or None,
    }
    raise SystemExit(
        run_command(
            lambda: _run(config, named | read_columns(columns), set_ or [], out, cache, resume, track)
        )
    )


def _run(
    given: list[Path] | None,
    named: Mapping[str, Any],
    sets: list[str],
    out: Path | None,
    cache: Path | None,
    resume: bool = False,
    track: str | None = None,
) -> int:
    overrides, files = read_overrides(sets, named), config_files(given)
    if resume:
        if out is None:
            raise BadInput("--resume: say which run, as --out DIR")
        RunFolder(out).check_resumable()
        files = files or (RunFolder(out).config,)
    try:
        config = configuration.load(files, overrides)
    except BadInput as error:
        also = [] if resume else _also_wrong(out, overrides.get("corpus.path"))
        raise BadInput([*error.problems, *also]) from error
    if cache is not None and config.evaluation.ephemeral:
        raise BadInput("--cache: an ephemeral run keeps no references; leave --cache or --ephemeral out")
    if track is not None:
        check_tracker(track)
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.experiment.preparation import prepare
    from fedunlearn.experiment.progress import Progress
    from fedunlearn.report.finding import explain_no_finding
    from fedunlearn.whole_run import play_to_the_page

    with stopped_as_interrupt(), Progress(errors) as progress:
        # Runs that begin in the same second must not get the same folder.
        default = (
            Path("runs")
            / f"{datetime.now():%Y%m%d-%H%M%S}-{_file_name(config.corpus.name.rpartition(':')[2])}"
        )
        folder, made = (out, []) if out else make_new_folder(default)
        references = cache or folder.parent / "references"
        try:
            experiment = prepare(config, folder, references, progress, resume=resume)
        except BaseException as error:
            remove_folders(made)
            if not isinstance(error, KeyboardInterrupt):
                raise
            left = "its folder is as it was" if folder.exists() else "nothing is left of it"
            raise Interrupted(f"the run was interrupted before the first round; {left}") from None
        say(corpus_line(experiment.corpus, experiment.partition, config.partition))
        for warning in experiment.corpus.warnings:
            warn(warning)
        follower = Follower(track, experiment.run, warn)
        go_on = f"to go on: python simulations/run.py --resume --out {shlex.quote(str(folder))}"
        results = play_to_the_page(experiment, follower, go_on if config.federation.checkpoint_every else "")
    Screen().table(closing_table(results))
    say(f"Report: {experiment.run.report}")
    if experiment.run.model.exists():
        say(f"Model: {experiment.run.model}")
    if nothing := explain_no_finding(results):
        warn(nothing)
    if results.status != "complete":
        errors.labelled(f"{results.status}:", "red", results.failure or "")
        return EXIT_FAILED
    return EXIT_OK


def _file_name(corpus: str) -> str:
    """A corpus's name as part of a file's; whatever else stands there is refused later."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in corpus)[:40]


def corpus_line(corpus: "Corpus", partition: "Partition", given: PartitionSettings) -> str:
    """Say what a run trains on, and which of the numbers were worked out.

    Args:
        corpus: all speech of the run.
        partition: of the corpus.
        given: the settings as the user gave them.
    """
    from fedunlearn.report.values import many

    unseen = {u.speaker for u in partition.unseen}
    counts = {"clients": given.clients, "unseen speakers": given.unseen_speakers}
    worked_out = [name for name, number in counts.items() if number is None]
    how = f" (worked out: {', '.join(worked_out)})" if worked_out else ""
    return (
        f"Corpus: {corpus.name}, {many(len(corpus.speakers), 'speaker')}, "
        f"{many(len(corpus.emotions), 'emotion')}, {many(len(corpus.utterances), 'utterance')}; "
        f"{many(len(partition.clients), 'client')}, {many(len(unseen), 'unseen speaker')}{how}"
    )


def _also_wrong(out: Path | None, data: str | None) -> list[str]:
    """What can be seen to be wrong even where the settings cannot be read."""
    problems: list[str] = []
    try:
        if data and not looked_up(data, lambda: Path(data).expanduser().exists()):
            problems.append(f"{data}: no such file or folder (corpus.path, --data)")
    except BadInput as error:
        problems += error.problems
    try:
        if out:
            RunFolder(out).check()
    except BadInput as error:
        problems += error.problems
    return problems


CLOSING_MEASURES: tuple[tuple[str, Callable[[ModelScores], float | None]], ...] = (
    ("test UAR", lambda scores: scores.test.uar),
    ("test accuracy (WA)", lambda scores: scores.test.accuracy),
    ("test macro F1", lambda scores: scores.test.macro_f1),
    ("unseen speakers UAR", lambda scores: scores.unseen.uar),
    ("unseen speakers accuracy (WA)", lambda scores: scores.unseen.accuracy),
    ("unseen speakers macro F1", lambda scores: scores.unseen.macro_f1),
    ("retain accuracy", lambda scores: scores.retain.accuracy),
    ("forget accuracy", lambda scores: scores.forget.accuracy),
    ("membership AUC", lambda scores: scores.membership.auc),
)


def closing_table(results: Results) -> Table:
    """The four models side by side, with the distance to the retrained one."""
    from fedunlearn.report.attack import describe_attack
    from fedunlearn.report.faults import malicious_clients
    from fedunlearn.report.names import MODELS, method_name, privileged_data

    method, gap = method_name(results), results.gap
    table = Table(title=f"{results.corpus.name}: {len(results.requests)} deletions, {method}")
    table.add_column("")
    for name in MODELS:
        table.add_column(name, justify="right")
    for label, measure in CLOSING_MEASURES:
        table.add_row(label, *(_figure(measure(results.models[name])) for name in MODELS))
    table.add_section()
    floor, gaps = gap.noise_floor.mean, (gap.none, gap.unlearned, gap.recovered)
    means = [each.mean for each in gaps]
    table.add_row("mean gap to retrained", *(_figure(mean) for mean in [*means, floor]), style="bold")
    intervals = [_interval(each) for each in gaps]
    table.add_row("  95 % interval", *intervals, "(floor)" if floor is not None else "-", style="dim")
    notes = []
    if results.model.weights == "random":
        notes.append("RANDOM WEIGHTS: of times and sizes only, no result about speech")
    if attack := describe_attack(results):
        notes.append(attack)
    if floor is not None:
        notes.append("floor: what retrained models with other seeds differ by")
    if said := _caveat_line(results):
        notes.append(said)
    if seen := privileged_data(results):
        notes.append(f"privileged baseline: {method} sees {seen}")
    if done := sum(each.client in results.attackers.clients for each in results.guard):
        notes.append(f"the guard acted {done} times on malicious clients")
    if malicious := malicious_clients(results):
        notes.append(malicious)
    table.caption = "\n".join(notes) or None
    return table


def _caveat_line(results: Results) -> str:
    """Why the run says nothing, or the first reason why it says little; empty where there is none."""
    from fedunlearn.caveats import caveats_of
    from fedunlearn.report.finding import explain_no_finding

    caveats = caveats_of(results)
    more = f" ({len(caveats) - 1} more on the page)" if len(caveats) > 1 else ""
    return f"{explain_no_finding(results) or caveats[0].sentence or ''}{more}" if caveats else ""


def _interval(gap: Gap) -> str:
    return "-" if gap.low is None or gap.high is None else f"{gap.low:.3f}-{gap.high:.3f}"


def _figure(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
