"""What several runs say together, in words: the best method and how sure that is, or why none is ranked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fedunlearn.report.finding import describe_detection, judge_method
from fedunlearn.report.runs.grouping import ComparedRun, ComparedTask, Run, Value, differing
from fedunlearn.report.statistics import compared_to_best
from fedunlearn.report.values import fraction, many, plain
from fedunlearn.results_schema import CONTROLS, DOING_NOTHING

_SHOWN = 6  # runs or configurations named in one sentence
_DIFFERENCES = 3  # named in the headline; the table of settings has all


@dataclass(frozen=True)
class RunsVerdict:
    """What the runs of one task say together.

    Attributes:
        tone: "good", "useless" (no method beats doing nothing), or "unknown", also where an attack on single
            utterances succeeds in a run of the best, and where all runs of the best say nothing about it.
        sentence: the finding, and how sure it is.
        best: labels of the entries with the lowest mean gap.
        level: labels of those that cannot be distinguished from the best.
        remarks: what qualifies it.
    """

    tone: str
    sentence: str
    best: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def headline(tasks: Sequence[ComparedTask]) -> tuple[str, str]:
    """Return tone and sentence of the page's headline: the finding, or that there is none over all runs."""
    if len(tasks) == 1:
        verdict = judge(tasks[0])
        return verdict.tone, verdict.sentence
    runs = sum(len(task.runs) for task in tasks)
    return "unknown", (
        f"These {runs} runs are about {len(tasks)} different things and are not ranked together: "
        f"{apart(tasks)}."
    )


def apart(tasks: Sequence[ComparedTask]) -> str:
    """Say in which settings the tasks differ, with the values."""
    found = differing(task.runs[0].task for task in tasks)
    named = [f"{key} ({'; '.join(_short(v) for v in values)})" for key, values in found.items()]
    if not named:
        return "with the same settings and seed, other utterances were forgotten"
    more = len(named) - _DIFFERENCES
    return f"they differ in {', '.join(named[:_DIFFERENCES])}" + (
        f" and {many(more, 'more setting')}" if more > 0 else ""
    )


def judge(task: ComparedTask) -> RunsVerdict:
    """Find the entry closest to the retrained model over its seeds, and those not distinguishable from it.

    Methods that see the forget set alone are ranked; where there are none, privileged baselines are; controls
    never are. Whether a run is useless is read from the run; here only means over seeds are compared.
    """
    rivals = [e for e in task.entries if not e.control and e.counted]
    alone = [e for e in rivals if e.group == "forget"]
    remarks = tuple(_remarks(task))
    field = alone or rivals
    if not field:
        ended = "No complete run of a method has a gap: there is nothing to rank."
        return RunsVerdict("unknown", ended, remarks=remarks)
    gaps = task.by_seed(_gap)[[entry.label for entry in field]]
    verdicts = compared_to_best(gaps)
    best = tuple(label for label, first in verdicts.items() if first)
    level = tuple(label for label, first in verdicts.items() if not first)
    winner = next(e for e in field if e.label == best[0])
    useless = [why for run in winner.counted for ok, why in [judge_method(run.results)] if ok is False]
    beaten_by = _better_control(task, winner)
    if useless and not beaten_by:
        whys = "; ".join(dict.fromkeys(useless))
        if len(useless) == len(winner.counted):
            beaten_by = f"{winner.label}, the closest, is useless by its own runs, as {whys}"
        else:
            some = f"In {len(useless)} of {many(len(winner.counted), 'run')}, {winner.label} is useless"
            remarks = (f"{some} by the run's own ranking: {whys}.", *remarks)
    sentence = _sentence(task, field, winner, len(best) - 1, level, gaps)
    attacked = [found for run in winner.counted if (found := describe_detection(run.results))]
    if attacked:
        runs = len(winner.counted)
        often = f", in {len(attacked)} of {many(runs, 'run')}" if runs > 1 else ""
        remarks = (f"{winner.label} is close in the mean only{often}: {attacked[0]}.", *remarks)
    if beaten_by:
        sentence = f"No method here is useful: {beaten_by}. {sentence}"
    tone = "useless" if beaten_by else "unknown" if attacked else "good"
    if len(winner.silent) == len(winner.counted):
        why = plain(winner.silent[0].caveat and winner.silent[0].caveat.sentence)
        tone = "unknown"
        sentence = f"The runs of {winner.label} say nothing about it. {why} At face value: {sentence}"
    return RunsVerdict(tone, sentence, best, level, remarks)


def _sentence(
    task: ComparedTask,
    field: Sequence[ComparedRun],
    winner: ComparedRun,
    ties: int,
    level: Sequence[str],
    gaps: pd.DataFrame,
) -> str:
    mean = winner.pooled(_gap)
    floor = task.once_a_seed(_floor).mean
    beside = "" if math.isnan(floor) else f" (noise floor {fraction(floor)})"
    seeds = many(int(gaps[winner.label].count()), "seed")
    sure = "" if math.isnan(mean.half) else ", 95 % interval over runs"
    gap = f"{_written(mean.mean, mean.half)}{sure}{beside}"
    if len(field) == 1:
        more = "" if sure else " One seed gives no interval over runs."
        return f"Over {seeds}, {winner.label} has a mean gap to the retrained model of {gap}.{more}"
    closest = f"{winner.label} is closest to the retrained model over {seeds}"
    sentence = f"Of {len(field)} methods, {closest}: mean gap {gap}"
    shared = len(gaps.dropna())
    if ties:
        return f"{sentence}; {many(ties, 'other')} with exactly the same mean."
    if shared < 2:
        few = "one seed" if shared == 1 else "no seed"
        return f"{sentence}; with {few} shared by all, that order may be chance."
    if level:
        return (
            f"{sentence}, but cannot be distinguished from {_listed(level)} on the {shared} seeds they share."
        )
    return f"{sentence}; on the {shared} shared seeds its difference from every other is significant (95 %)."


def _better_control(task: ComparedTask, winner: ComparedRun) -> str:
    """Name a control whose mean gap is no larger than the best method's, on the same runs; else empty."""
    ours = winner.pooled(_gap).mean
    for name, control in CONTROLS.items():
        theirs = winner.pooled(_gap_of(name)).mean
        if ours >= theirs:
            beaten = "is no farther from the retrained model than the best method"
            return f"{control.words} ({fraction(theirs)}) {beaten}"
    return ""


def _remarks(task: ComparedTask) -> list[str]:
    remarks = []
    floor = task.once_a_seed(_floor)
    nothing = task.once_a_seed(_gap_of(DOING_NOTHING.name))
    if not math.isnan(nothing.mean):
        remarks.append(f"Doing nothing has a mean gap of {_written(nothing.mean, nothing.half)}.")
    if task.counted and math.isnan(floor.mean):
        remarks.append("No run has more than one retrained model: there is no noise floor.")
    silent: dict[str, list[str]] = {}
    for run in task.counted:
        if run.caveat is not None:
            silent.setdefault(plain(run.caveat.kind), []).append(run.name)
    if silent:
        count = sum(map(len, silent.values()))
        whys = "; ".join(f"{kind} in {_listed(names)}" for kind, names in silent.items())
        say = f"{count} of {many(len(task.counted), 'run')} {'says' if count == 1 else 'say'} nothing"
        remarks.append(f"{say} about the method (‡), and the means include them: {whys}.")
    if privileged := [e for e in task.entries if e.group == "more" and e.counted]:
        gaps = [f"{e.label} at {fraction(e.pooled(_gap).mean)}" for e in privileged]
        remarks.append(
            f"Privileged baselines see more than the forget set and are not ranked: {_listed(gaps)}."
        )
    for status, means in (("partial", "did not fulfil every request"), ("failed", "ended early")):
        if names := [run.name for run in task.runs if run.status == status]:
            verb = "is" if len(names) == 1 else "are"
            remarks.append(f"{_listed(names)} {means} and {verb} counted in no mean.")
    versions = differing(run.versions for run in task.runs)
    if versions:
        named = ", ".join(f"{name} ({'; '.join(found)})" for name, found in versions.items())
        remarks.append(f"The runs were made with different versions: {named}.")
    return remarks


def _gap(run: Run) -> float | None:
    return run.gap


def _floor(run: Run) -> float | None:
    return run.floor


def _gap_of(control: str) -> Value:
    return lambda run: run.results.gap[control].mean


def _written(mean: float, half: float) -> str:
    return fraction(mean) + ("" if math.isnan(half) else f" ± {fraction(half)}")


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown.append(f"{len(names) - _SHOWN} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
