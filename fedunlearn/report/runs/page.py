"""The page of several runs: their results in, one HTML file out. Nothing but results.json is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fedunlearn.files import write_atomically
from fedunlearn.report.names import methods_used
from fedunlearn.report.runs.figure import gaps_figure, legend_entries
from fedunlearn.report.runs.finding import RunsVerdict, headline, judge
from fedunlearn.report.runs.grouping import ComparedTask, Run, tasks_of
from fedunlearn.report.runs.tables import (
    WORDS,
    RunLine,
    cost_measures,
    gap_table,
    models_table,
    ordered_entries,
    other_measures,
    pooled_table,
    privacy_measures,
    run_lines,
    settings_table,
)
from fedunlearn.report.tables import Table
from fedunlearn.report.templates import fill_template
from fedunlearn.report.values import count, many, plain
from fedunlearn.results_schema import CONTROLS, Results

_WIDE, _NARROW = 880, 360


@dataclass(frozen=True)
class PageSection:
    """What the page shows of one task.

    Attributes:
        title: which of the groups of runs it is; empty where there is one.
        about: corpus, clients, model and size of the forget set.
        verdict: what the runs say together.
        wide: the figure of gaps for wide screens; None where no run has a gap.
        narrow: the same for narrow ones.
        lines: the runs.
        gaps: mean gaps and their parts.
        models: measures of the models.
        privacy: membership attacks.
        others: fairness, distances and combined scores.
        costs: time and bytes.
    """

    title: str
    about: str
    verdict: RunsVerdict
    wide: Markup | None
    narrow: Markup | None
    lines: list[RunLine]
    gaps: Table
    models: Table
    privacy: Table
    others: Table
    costs: Table


def write_comparison(results: Mapping[str, Results], path: Path) -> None:
    """Write one page on several runs, as a single HTML file that loads nothing else.

    The same results under the same names give the same bytes. The file appears whole or not at all.

    Args:
        results: name of each run -> its results, of which any part may be empty.
        path: where to; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render(results))


def render(results: Mapping[str, Results]) -> str:
    """Render the page as text."""
    runs = [Run(name, record) for name, record in results.items()]
    tasks = tasks_of(runs)
    tone, sentence = headline(tasks)
    bad = [run for run in runs if run.status != "complete"]
    page = fill_template(
        "comparison.html.j2",
        ("page.css", "comparison.css"),
        title=f"fedunlearn: {many(len(runs), 'run')} side by side",
        alarm=_alarm(bad, len(runs)),
        tone=tone,
        headline=sentence,
        several=len(tasks) > 1,
        kicker=_kicker(runs, tasks),
        key=legend_entries(tasks),
        parts=[_part(task, number, len(tasks)) for number, task in enumerate(tasks, start=1)],
        settings=settings_table(runs),
        words=WORDS,
        methods_used=methods_used(results.values()),
        controls=list(CONTROLS.values()),
        schemas=", ".join(dict.fromkeys(plain(run.results.format) for run in runs)),
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _part(task: ComparedTask, number: int, of: int) -> PageSection:
    verdict, ordered = judge(task), ordered_entries(task)
    return PageSection(
        title=f"Group {number} of {of}" if of > 1 else "",
        about=_about(task),
        verdict=verdict,
        wide=gaps_figure(task, ordered, _WIDE, f"gaps-{number}-wide"),
        narrow=gaps_figure(task, ordered, _NARROW, f"gaps-{number}-narrow"),
        lines=run_lines(task),
        gaps=gap_table(task, verdict),
        models=models_table(task),
        privacy=pooled_table(task, privacy_measures()),
        others=pooled_table(task, other_measures()),
        costs=pooled_table(task, cost_measures()),
    )


def _about(task: ComparedTask) -> str:
    results = task.runs[0].results
    corpus = results.corpus
    sizes = {run.results.models.retrained.forget.n for run in task.counted} - {None}
    size = f", {' or '.join(sorted(count(n) for n in sizes))} utterances to forget" if sizes else ""
    return (
        f"{plain(corpus.name)}, {count(corpus.utterances)} utterances of "
        f"{count(corpus.speakers)} speakers, {count(corpus.clients)} clients, "
        f"model {plain(results.setting('model', 'name'))}{size}"
    )


def _kicker(runs: Sequence[Run], tasks: Sequence[ComparedTask]) -> list[str]:
    entries = [entry for task in tasks for entry in task.entries]
    seeds = dict.fromkeys(run.seed for run in runs)
    parts = [many(len(runs), "run"), many(len(entries), "configuration"), many(len(seeds), "seed")]
    controls = [entry.label for entry in entries if entry.control]
    if controls:
        parts.append(f"controls: {', '.join(dict.fromkeys(controls))}")
    return [*parts, *([_about(tasks[0])] if len(tasks) == 1 else [])]


def _alarm(bad: Sequence[Run], of: int) -> str:
    if not bad:
        return ""
    named = ", ".join(f"{run.name} ({run.status})" for run in bad[:6])
    more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
    return f"{len(bad)} of {of} runs did not end as they should: {named}{more}. No mean counts them."
