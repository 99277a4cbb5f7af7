"""The tables of several runs: who they are, and each entry's measures, pooled over its seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.finding import list_unfulfilled
from fedunlearn.report.runs.finding import RunsVerdict
from fedunlearn.report.runs.grouping import ComparedRun, ComparedTask, Run, Value, differing
from fedunlearn.report.statistics import Spread, order_by_gap
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, count, duration, fraction, many, plain, size
from fedunlearn.results_schema import (
    KlomScores,
    MembershipAttack,
    ModelScores,
    PhaseCostRow,
    RateWithInterval,
    ShadowAttackReport,
    ShadowAttackScores,
)

MeasureFormat = Callable[[Any], str]
WORDS = {
    "mean gap": "gap",
    "forget": "accuracy",
    "retain": "accuracy",
    "test": "test",
    "membership": "membership",
    "test UAR": "uar",
    "test WA": "wa",
    "test macro F1": "f1",
    "unseen-speaker UAR": "uar",
    "unseen-speaker WA": "wa",
    "unseen-speaker macro F1": "f1",
    "retain accuracy": "accuracy",
    "forget accuracy": "accuracy",
    "membership AUC": "membership",
    "population AUC": "membership",
    "population TPR at 1 % FPR": "roc",
    "same speaker AUC": "same-speaker",
    "same speaker TPR at 1 % FPR": "roc",
    "U-LiRA AUC": "ulira",
    "U-LiRA TPR at 1 % FPR": "roc",
    "informed AUC": "informed",
    "informed TPR at 1 % FPR": "roc",
    "KLoM, median": "klom",
    "shift, requesters": "collateral",
    "shift, others": "collateral",
    "worst speaker's change": "fairness",
    "mean speaker's change": "fairness",
    "ToW": "tow",
    "KS of losses": "ks",
    "Wasserstein of losses": "wasserstein",
    "JS": "js",
    "relearn steps": "relearn",
    "reversion, forget": "reversion",
    "GUM": "gum",
    "CGUM": "gum",
    "client time": "cost",
    "of retraining's": "cost",
    "sent up": "cost",
    "sent down": "cost",
    "noise floor": "floor",
    "doing nothing": "control",
    "requests fulfilled": "states",
}
"""head of a column -> the entry of the page's glossary that explains it"""
SILENT = "‡: runs that say nothing about the method; the list of runs says why. The means include them."
TONES = {"complete": "good", "failed": "bad", "partial": "bad"}


@dataclass(frozen=True)
class ComparedMeasure:
    """A measure of a run, as a column of a table.

    Attributes:
        title: head of the column.
        value: the measure of a run.
        written: a value as text.
        reference: what it is compared to, of a run; None where there is nothing.
        against: what that is called.
    """

    title: str
    value: Value
    written: MeasureFormat = fraction
    reference: Value | None = None
    against: str = ""


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs.

    Attributes:
        name: of its folder.
        entry: label of the runs that differ from it in their seed alone.
        seed: as text.
        status: complete, partial or failed.
        tone: how the status is shown: good or bad.
        note: why it did not end well, or why it says nothing about its method; else empty.
        gap: mean gap of the model that it ends with; ‡ where it says nothing about its method.
        interval: its 95 % interval, over utterances.
        floor: noise floor.
        nothing: mean gap of the control that does nothing.
        requests: how many of its requests are fulfilled.
    """

    name: str
    entry: str
    seed: str
    status: str
    tone: str
    note: str
    gap: str
    interval: str
    floor: str
    nothing: str
    requests: str


def ordered_entries(task: ComparedTask) -> list[ComparedRun]:
    """Sort entries by group, in the order of ``statistics.GROUPS``; in each by mean gap, lowest first."""
    entries = {entry.label: entry for entry in task.entries}
    groups = {label: entry.group for label, entry in entries.items()}
    order = order_by_gap(groups, task.pooled(lambda run: run.gap))
    return [entries[label] for labels in order.values() for label in labels]


def run_lines(task: ComparedTask) -> list[RunLine]:
    """List the runs, entry by entry."""
    return [_line(entry, run) for entry in ordered_entries(task) for run in entry.runs]


def _line(entry: ComparedRun, run: Run) -> RunLine:
    results, ends = run.results, run.interval
    requested = len(results.requests)
    trouble, gap = results.failure if run.status != "complete" else None, fraction(run.gap)
    if run.status == "complete" and run.caveat is not None:
        trouble, gap = f"‡ says nothing about the method: {plain(run.caveat.sentence)}", f"{gap} ‡"
    return RunLine(
        run.name,
        f"{entry.label}: control" if entry.control else entry.label,
        run.seed,
        run.status,
        TONES.get(run.status, ""),
        _short(trouble) if trouble else "",
        gap,
        "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
        fraction(run.floor),
        fraction(results.gap.none.mean),
        f"{requested - len(list_unfulfilled(run.results))} of {requested}" if requested else "none",
    )


def gap_table(task: ComparedTask, verdict: RunsVerdict) -> Table:
    """Tabulate each entry's mean gap and its parts, and which are the best or not distinguishable from it."""
    parts: dict[str, tuple[Value, Value]] = {
        "mean gap": (lambda run: run.gap, lambda run: run.floor),
        "forget": (lambda run: run.final_gap.forget, lambda run: run.results.gap.noise_floor.forget),
        "retain": (lambda run: run.final_gap.retain, lambda run: run.results.gap.noise_floor.retain),
        "test": (lambda run: run.final_gap.test, lambda run: run.results.gap.noise_floor.test),
        "membership": (
            lambda run: run.final_gap.membership,
            lambda run: run.results.gap.noise_floor.membership,
        ),
    }
    seeds = task.by_seed(lambda run: run.gap).count()
    gaps = [task.pooled(value) for value, _ in parts.values()]
    rows = []
    for entry in ordered_entries(task):
        cells = [
            count(int(seeds.get(entry.label, 0))),
            *(_text(part[entry.label], fraction) for part in gaps),
        ]
        marks = {"more": "privileged baseline", "control": "control"}
        marks |= dict.fromkeys(verdict.best, "best") | dict.fromkeys(verdict.level, "level with it")
        mark = marks.get(entry.label) or marks.get(entry.group, "")
        if entry.silent:
            mark += f"{', ' if mark else ''}‡ {len(entry.silent)} of {many(len(entry.counted), 'run')}"
        rows.append(Row(entry.label, mark, tuple(map(Cell, cells))))
    known = {run.seed for run in task.counted if run.floor is not None}
    if known:
        floors = [_text(task.once_a_seed(floor), fraction) for _, floor in parts.values()]
        cells_ = (Cell(count(len(known))), *(Cell(text, reference=True) for text in floors))
        rows.append(Row("noise floor", "between retrained seeds", cells_))
    silent = any(entry.silent for entry in task.entries)
    return Table(_columns("configuration", "seeds", *parts), tuple(rows), caption=SILENT if silent else "")


def models_table(task: ComparedTask) -> Table:
    """Tabulate each entry's two models; the original and the retrained one, which all share, come last."""
    measures: dict[str, Callable[[ModelScores], float | None]] = {
        "test UAR": lambda scores: scores.test.uar,
        "test WA": lambda scores: scores.test.accuracy,
        "test macro F1": lambda scores: scores.test.macro_f1,
        "unseen-speaker UAR": lambda scores: scores.unseen.uar,
        "unseen-speaker WA": lambda scores: scores.unseen.accuracy,
        "unseen-speaker macro F1": lambda scores: scores.unseen.macro_f1,
        "retain accuracy": lambda scores: scores.retain.accuracy,
        "forget accuracy": lambda scores: scores.forget.accuracy,
        "membership AUC": lambda scores: scores.membership.auc,
    }

    def of(model: str) -> list[Value]:
        return [
            lambda run, measure=measure: measure(run.results.models[model])  # type: ignore[misc]
            for measure in measures.values()
        ]

    own = {model: [task.pooled(value) for value in of(model)] for model in ("unlearned", "recovered")}
    rows = [
        Row(entry.label, model, tuple(Cell(_text(values[entry.label], fraction)) for values in pooled))
        for entry in ordered_entries(task)
        if entry.counted
        for model, pooled in own.items()
    ]
    if rows:
        for model in ("original", "retrained"):
            shared = (_text(task.once_a_seed(value), fraction) for value in of(model))
            rows.append(
                Row("all", model, tuple(Cell(text, reference=model == "retrained") for text in shared))
            )
    return Table(_columns("model", *measures), tuple(rows))


def privacy_measures() -> tuple[ComparedMeasure, ...]:
    """List the membership attacks on the model that a run ends with."""

    def population(of: Callable[[MembershipAttack], float | None]) -> tuple[Value, Value]:
        return lambda run: of(run.final_scores.membership), lambda run: of(
            run.results.models.retrained.membership
        )

    def auc(attack: MembershipAttack) -> float | None:
        return attack.auc

    def rate(attack: MembershipAttack) -> float | None:
        return attack.tpr_at.get("0.01")

    def stage(run: Run, attack: ShadowAttackReport) -> ShadowAttackScores:
        return attack.stages[run.final]

    def shadow_rate(run: Run, attack: ShadowAttackReport) -> float | None:
        return stage(run, attack).tpr_at.get("0.01", RateWithInterval.empty()).value

    found, target = population(auc)
    rates, target_rates = population(rate)
    return (
        ComparedMeasure("population AUC", found, reference=target, against="retrained"),
        ComparedMeasure("population TPR at 1 % FPR", rates, reference=target_rates, against="retrained"),
        ComparedMeasure(
            "same speaker AUC",
            lambda run: run.final_scores.membership_same_speaker.auc,
            reference=lambda run: run.results.models.retrained.membership_same_speaker.auc,
            against="retrained",
        ),
        ComparedMeasure(
            "same speaker TPR at 1 % FPR",
            lambda run: rate(run.final_scores.membership_same_speaker),
            reference=lambda run: rate(run.results.models.retrained.membership_same_speaker),
            against="retrained",
        ),
        ComparedMeasure("U-LiRA AUC", lambda run: stage(run, run.results.attacks.ulira).auc),
        ComparedMeasure("U-LiRA TPR at 1 % FPR", lambda run: shadow_rate(run, run.results.attacks.ulira)),
        ComparedMeasure("informed AUC", lambda run: stage(run, run.results.attacks.informed).auc),
        ComparedMeasure(
            "informed TPR at 1 % FPR", lambda run: shadow_rate(run, run.results.attacks.informed)
        ),
        ComparedMeasure(
            "KLoM, median",
            lambda run: _klom(run).median,
            reference=lambda run: run.results.attacks.klom.null.median,
            against="never heard",
        ),
    )


def _klom(run: Run) -> KlomScores:
    report = run.results.attacks.klom
    return report.recovered if run.final == "recovered" else report.unlearned


def other_measures() -> tuple[ComparedMeasure, ...]:
    """List fairness, distances, relearn time, reversion and the combined scores."""
    return (
        ComparedMeasure(
            "shift, requesters",
            lambda run: run.results.collateral.requesters[run.final].rms,
            reference=lambda run: run.results.collateral.requesters.seeds.rms,
            against="seed to seed",
        ),
        ComparedMeasure(
            "shift, others",
            lambda run: run.results.collateral.others[run.final].rms,
            reference=lambda run: run.results.collateral.others.seeds.rms,
            against="seed to seed",
        ),
        ComparedMeasure(
            "worst speaker's change", lambda run: run.results.fairness.change[run.final].worst, _signed
        ),
        ComparedMeasure(
            "mean speaker's change", lambda run: run.results.fairness.change[run.final].mean, _signed
        ),
        ComparedMeasure("ToW", lambda run: run.results.distances[run.final].tow),
        ComparedMeasure("KS of losses", lambda run: run.results.distances[run.final].ks),
        ComparedMeasure("Wasserstein of losses", lambda run: run.results.distances[run.final].wasserstein),
        ComparedMeasure("JS", lambda run: run.results.distances[run.final].js),
        ComparedMeasure(
            "relearn steps",
            lambda run: run.results.relearn[run.final].steps,
            _steps,
            lambda run: run.results.relearn.retrained.steps,
            "retrained",
        ),
        ComparedMeasure("reversion, forget", lambda run: run.results.reversion.forget, _signed),
        ComparedMeasure("GUM", lambda run: run.results.gum[run.final].gum),
        ComparedMeasure("CGUM", lambda run: run.results.gum[run.final].cgum),
    )


def cost_measures() -> tuple[ComparedMeasure, ...]:
    """List the costs of unlearning and recovery together, compared to retraining."""

    def spent(of: Callable[[PhaseCostRow], float | None]) -> Value:
        return lambda run: _sum(of(_phase(run, name)) for name in ("unlearn", "recover"))

    def retraining(of: Callable[[PhaseCostRow], float | None]) -> Value:
        return lambda run: of(_phase(run, "retrain"))

    def seconds(phase: PhaseCostRow) -> float | None:
        return phase.client_seconds

    def sent(phase: PhaseCostRow) -> float | None:
        return phase.bytes_up

    def received(phase: PhaseCostRow) -> float | None:
        return phase.bytes_down

    def share(run: Run) -> float | None:
        ours, theirs = spent(seconds)(run), retraining(seconds)(run)
        return ours / theirs if ours is not None and theirs else None

    return (
        ComparedMeasure("client time", spent(seconds), duration, retraining(seconds), "retraining"),
        ComparedMeasure("of retraining's", share, _percent),
        ComparedMeasure("sent up", spent(sent), size, retraining(sent), "retraining"),
        ComparedMeasure("sent down", spent(received), size, retraining(received), "retraining"),
    )


def pooled_table(task: ComparedTask, measures: Sequence[ComparedMeasure]) -> Table:
    """Tabulate measures, a row for each entry; measures that no run has are left out."""
    known = [m for m in measures if any(m.value(run) is not None for run in task.counted)]
    columns = [_cells(task, measure) for measure in known]
    rows = [
        Row(entry.label, "", tuple(cells[entry.label] for cells in columns))
        for entry in ordered_entries(task)
        if entry.counted
    ]
    heads = _columns("configuration", *(measure.title for measure in known))
    return Table(heads, tuple(rows) if known else ())


def settings_table(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """List settings and versions that differ between runs: key, and each value with the runs that have it."""
    records = {
        run.name: {**run.settings, **{f"versions.{name}": version for name, version in run.versions.items()}}
        for run in runs
    }
    found = differing(records.values())
    return [(key, [(value, _who(records, key, value)) for value in values]) for key, values in found.items()]


def _who(records: dict[str, dict[str, str]], key: str, value: str) -> str:
    return ", ".join(name for name, record in records.items() if record.get(key, MISSING) == value)


def _columns(*heads: str) -> tuple[Column, ...]:
    return tuple(Column(head, WORDS.get(head, "")) for head in heads)


def _cells(task: ComparedTask, measure: ComparedMeasure) -> Mapping[str, Cell]:
    """Label of each entry -> its cell."""
    values = task.pooled(measure.value)
    references = task.pooled(measure.reference) if measure.reference else {}
    cells = {}
    for entry in task.entries:
        against = references[entry.label].mean if measure.reference else math.nan
        note = "" if math.isnan(against) else f"{measure.against} {measure.written(against)}"
        cells[entry.label] = Cell(_text(values[entry.label], measure.written), note)
    return cells


def _text(value: Spread, written: MeasureFormat) -> str:
    if math.isnan(value.mean):
        return MISSING
    half = "" if math.isnan(value.half) else f" ± {written(value.half).lstrip('+')}"
    return written(value.mean) + half


def _phase(run: Run, name: str) -> PhaseCostRow:
    return run.results.cost.get(name, PhaseCostRow.empty())


def _sum(parts: Iterable[float | None]) -> float | None:
    """None where any part is."""
    found = list(parts)
    known = [part for part in found if part is not None]
    return sum(known) if len(known) == len(found) else None


def _signed(value: float) -> str:
    return fraction(value) if value < 0 else f"+{fraction(value)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _steps(value: float) -> str:
    return f"{value:.1f}"


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}…"
