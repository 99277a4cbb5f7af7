"""A comparison of methods: its cells are run, its rows become tables, figures and decided claims."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedunlearn.config import Config
from fedunlearn.cpus import usable_cpus
from fedunlearn.errors import BadInput, Interrupted, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.report.markup import latex, markdown
from fedunlearn.report.study import figures, tables
from fedunlearn.report.study.claims import ClaimResult, claims_csv, claims_table
from fedunlearn.report.study.page import Answer, write_answer_figures, write_page
from fedunlearn.study.cell_pool import play_cells
from fedunlearn.study.claims import decide
from fedunlearn.study.grid import Axes, StudyCell, loader_of
from fedunlearn.study.plan import Question, Study
from fedunlearn.study.rows import csv_of, frame_of, rows_of
from fedunlearn.study.runner import StudyRunner, count_clients, digest_of, group_speakers
from fedunlearn.study.sharing import FinishedCell, study_of_cells
from fedunlearn.study.study_file import FILE_NAME, write_study

ProgressCallback = Callable[[str, int, int], None]
"""Called with the name of the cell that is run next, the number of finished cells, and that of all cells."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: where compare.csv, compare.md, compare.tex, study.json, figures and the finished cells are.
        rows: four for each finished cell, one a model; the columns are the fields of ``study.rows.StudyRow``.
        failures: name of a cell -> why its run failed.
        summary: the main tables as Markdown; empty where no cell has finished.
        claims: of a study that has any, decided on the finished cells.
    """

    folder: Path
    rows: pd.DataFrame
    failures: Mapping[str, str]
    summary: str
    claims: Sequence[ClaimResult] = ()


def compare_methods(
    config: Config,
    axes: Axes,
    out: Path,
    warn: Callable[[str], None] = lambda line: None,
    progress: ProgressCallback = lambda name, done, total: None,
) -> Comparison:
    """Compare unlearning methods, and write the tables and figures.

    Every cell is a whole run; trained originals and retrained references are found again by content. A
    finished cell is kept in ``out``/cells and never computed twice: call again to continue.

    Args:
        config: the experiment to start from; ``comparison_config`` reads a suitable one.
        axes: methods, forget set sizes, numbers of requesters, seeds, and what else is crossed.
        out: folder for cells, tables and figures.
        warn: called with each line that the corpus gives reason for.
        progress: called before each cell, and once at the end.

    Raises:
        BadInput: settings, corpus, partition or output do not allow a cell; nothing was run.
        Interrupted: it was stopped by the user; finished cells are kept.
    """
    return run_study(config, Study((Question("", axes),)), out, warn, progress)


def run_study(
    config: Config,
    study: Study,
    out: Path,
    warn: Callable[[str], None] = lambda line: None,
    progress: ProgressCallback = lambda name, done, total: None,
) -> Comparison:
    """Run all cells of a study, and write its tables, figures and, where it has questions, its page.

    Args:
        config: as of ``compare_methods``; ``study.group_speakers`` and ``study.workers`` are read.
        study: questions and claims.
        out: as of ``compare_methods``.
        warn: as of ``compare_methods``.
        progress: as of ``compare_methods``.

    Raises:
        BadInput: as of ``compare_methods``.
        Interrupted: as of ``compare_methods``.
    """
    asked = check_study(config, study, out)
    cells = _each_once(cell for found in asked.values() for cell in found)
    with StudyRunner(out, warn=warn) as runner:
        failures = _play(runner, cells, out, _workers(config), warn, progress)
        progress("", len(cells), len(cells))
        rows = _rows(runner, cells)
        _share(runner, cells, out, config.study.contributor, warn)
        answers = [(question, _rows(runner, asked[question.title])) for question in study.questions]
    if rows.empty:
        return Comparison(out, rows, failures, "")
    recoveries = study.questions[0].axes.recoveries
    claims = decide(study.claims, rows, recoveries[0] if recoveries else str(rows["recovery"].iloc[0]))
    found = [
        Answer(q.title, part, q.sweep.name if q.sweep else "", q.sweep.values if q.sweep else {})
        for q, part in answers
        if not part.empty
    ]
    return Comparison(out, rows, failures, _write(rows, study, found, claims, out), claims)


def check_comparison(config: Config, axes: Axes, out: Path) -> list[StudyCell]:
    """Check that a comparison can be made, before anything is decoded or run.

    Args:
        config: the experiment to start from.
        axes: what is crossed.
        out: its folder.

    Returns:
        its cells.

    Raises:
        BadInput: settings, corpus, partition or output do not allow a cell.
    """
    return check_study(config, Study((Question("", axes),)), out)[""]


def check_study(config: Config, study: Study, out: Path) -> dict[str, list[StudyCell]]:
    """Check that a study can be run, before anything is decoded or run.

    Args:
        config: the experiment to start from.
        study: what is run.
        out: its folder.

    Returns:
        title of each question -> its cells.

    Raises:
        BadInput: settings, corpus, partition or output do not allow a cell.
    """
    if not all(question.axes.variants for question in study.questions):
        raise BadInput("--methods, --variant: name at least one method")
    if config.study.workers != 1 and config.federation.engine != "inline":
        raise BadInput(
            f"study.workers is {config.study.workers}: several runs at a time need --engine inline (the "
            f"engine is {config.federation.engine}, which has processes of its own); or take --workers 1"
        )
    counted = count_clients(config, next(iter(study.folds), None))
    if config.study.group_speakers:
        counted = group_speakers(counted, study)
    asked = study.cells(loader_of(counted))
    with StudyRunner(out) as runner:
        runner.check([cell for cells in asked.values() for cell in cells])
    return asked


def _workers(config: Config) -> int:
    return config.study.workers or usable_cpus()


def _each_once(cells: Iterable[StudyCell]) -> list[StudyCell]:
    """The cells fold by fold and seed by seed; one that two questions share comes once."""
    return sorted({cell.name: cell for cell in cells}.values(), key=lambda cell: (cell.fold, cell.seed))


def _play(
    runner: StudyRunner,
    cells: Sequence[StudyCell],
    out: Path,
    workers: int,
    warn: Callable[[str], None],
    progress: ProgressCallback,
) -> dict[str, str]:
    """Run the cells that are not finished; name -> why it failed."""
    finished = [cell for cell in cells if runner.file(cell).exists()]
    kept = {cell.name for cell in finished}
    waiting = list({digest_of(cell): cell for cell in cells if cell.name not in kept}.values())
    done, failures = len(cells) - len(waiting), dict[str, str]()

    def begins(cell: StudyCell) -> None:
        progress(cell.name, done, len(cells))

    several = workers > 1 and len(waiting) > 1
    try:
        ended = (
            _in_pool(out, waiting, finished, workers, begins, warn)
            if several
            else _in_turn(runner, waiting, begins)
        )
        for cell, failure in ended:
            done += 1
            if failure is not None:
                failures[cell.name] = failure
    except (KeyboardInterrupt, Interrupted):
        there = sum(runner.file(cell).exists() for cell in cells)
        raise Interrupted(
            f"interrupted; {there} of {len(cells)} cells are in {out / 'cells'}: "
            "give the same command again to go on from there"
        ) from None
    return failures


def _in_turn(
    runner: StudyRunner, cells: Sequence[StudyCell], begins: Callable[[StudyCell], None]
) -> Iterator[tuple[StudyCell, str | None]]:
    for cell in cells:
        begins(cell)
        try:
            runner.play(cell)
        except Interrupted:
            raise
        except RunFailed as error:
            yield cell, str(error)
        else:
            yield cell, None


def _in_pool(
    out: Path,
    cells: Sequence[StudyCell],
    finished: Sequence[StudyCell],
    workers: int,
    begins: Callable[[StudyCell], None],
    warn: Callable[[str], None],
) -> Iterator[tuple[StudyCell, str | None]]:
    warned = set[str]()
    for cell, outcome in play_cells(out, cells, finished, workers, begins):
        for line in outcome.warnings:
            if line not in warned:
                warned.add(line)
                warn(line)
        yield cell, outcome.failure


def _rows(runner: StudyRunner, cells: Sequence[StudyCell]) -> pd.DataFrame:
    finished = ((cell, runner.results(cell)) for cell in cells)
    return frame_of(row for cell, found in finished if found is not None for row in rows_of(cell, found))


def _share(
    runner: StudyRunner,
    cells: Sequence[StudyCell],
    out: Path,
    contributor: str,
    warn: Callable[[str], None],
) -> None:
    """Write study.json, which others can join to theirs; not where a cell says not what speech it was of."""
    found = [(cell, results) for cell in cells if (results := runner.results(cell)) is not None]
    finished = [
        FinishedCell(cell, results, speech)
        for cell, results in found
        if (speech := runner.speech(cell)) is not None
    ]
    if len(finished) < len(found):
        warn(
            f"{out / FILE_NAME}: is not written: {len(found) - len(finished)} finished cells are of an older "
            f"version; remove them from {out / 'cells'} to run them again"
        )
    elif finished:
        write_study(study_of_cells(finished, contributor), out)


def _write(
    rows: pd.DataFrame, study: Study, answers: Sequence[Answer], claims: Sequence[ClaimResult], out: Path
) -> str:
    """Write tables and figures; the main tables as Markdown."""
    details = tables.details(rows)
    write_atomically(out / "compare.csv", csv_of(rows))
    decided = [claims_table(claims)] if claims else []
    if claims:
        write_atomically(out / "claims.csv", claims_csv(claims))
    if len(answers) == 1 and not answers[0].title:
        summary = [*decided, *tables.summaries(rows), *tables.recognition(rows), *tables.side_effects(rows)]
        figures.write_figures(rows, out)
    else:
        summary = [*decided, *(table for answer in answers for table in answer.titled_tables)]
        write_answer_figures(answers, out)
        write_page(study.notes, claims, answers, out / "compare.html")
    notes = "".join(f"{note}\n\n" for note in study.notes)
    write_atomically(out / "compare.md", notes + markdown([*summary, *details]))
    write_atomically(out / "compare.tex", latex([*summary, *details]))
    return notes + markdown(summary)
