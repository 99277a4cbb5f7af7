"""The tables of several runs: who they are, and each entry's measures, pooled over its seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.finding import final_model, unfulfilled
from fedunlearn.report.runs.figure import interval_of
from fedunlearn.report.runs.finding import RunsVerdict, floor_of
from fedunlearn.report.runs.grouping import ComparedRun, ComparedTask, Run, differing
from fedunlearn.report.study.statistics import GROUPS, Spread
from fedunlearn.report.tables import Cell, Row
from fedunlearn.report.values import (
    MISSING,
    at,
    count,
    duration,
    fraction,
    noise_floor,
    number_at,
    plain,
    size,
)

Value = Callable[[Run], float | None]
Format = Callable[[Any], str]
MEASURES = {
    "test UAR": ("test", "uar"),
    "test accuracy": ("test", "accuracy"),
    "unseen-speaker UAR": ("unseen", "uar"),
    "retain accuracy": ("retain", "accuracy"),
    "forget accuracy": ("forget", "accuracy"),
    "membership AUC": ("membership", "auc"),
}
WORDS = {
    "mean gap": "gap",
    "forget": "accuracy",
    "retain": "accuracy",
    "test": "test",
    "membership": "membership",
    "test UAR": "uar",
    "test accuracy": "test",
    "unseen-speaker UAR": "uar",
    "retain accuracy": "accuracy",
    "forget accuracy": "accuracy",
    "membership AUC": "membership",
    "population AUC": "membership",
    "population TPR at 1 % FPR": "roc",
    "same speaker AUC": "same-speaker",
    "U-LiRA AUC": "ulira",
    "U-LiRA TPR at 1 % FPR": "roc",
    "informed AUC": "informed",
    "informed TPR at 1 % FPR": "roc",
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
"""head of a column -> the entry among the words of the page that says what it means"""
TONES = {"complete": "good", "failed": "bad", "partial": "bad"}


@dataclass(frozen=True)
class Column:
    """A measure of a run. ``note``: what it is read against, or how it is to be read."""

    title: str
    value: Value
    written: Format = fraction
    note: Value | None = None
    against: str = ""


@dataclass(frozen=True)
class Table:
    """Names of the columns after the first, and rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs. ``note``: why it did not end well."""

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


def in_order(task: ComparedTask) -> list[ComparedRun]:
    """Those that see the forget set alone, upper references, controls; in each by mean gap, none last."""

    def place(entry: ComparedRun) -> tuple[int, bool, float]:
        gap = entry.pooled(lambda run: run.gap).mean
        return list(GROUPS).index(entry.group), math.isnan(gap), gap

    return sorted(task.entries, key=place)


def run_lines(task: ComparedTask) -> list[RunLine]:
    """One line a run, entry by entry."""
    return [_line(entry, run) for entry in in_order(task) for run in entry.runs]


def _line(entry: ComparedRun, run: Run) -> RunLine:
    results = run.results
    ends = interval_of(run)
    requests = at(results, "requests")
    asked = len(requests) if isinstance(requests, list) else 0
    trouble = at(results, "failure") if run.status != "complete" else None
    return RunLine(
        run.name,
        f"{entry.label}: control" if entry.control else entry.label,
        run.seed,
        run.status,
        TONES.get(run.status, ""),
        _short(plain(trouble)) if trouble else "",
        fraction(run.gap),
        "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
        fraction(floor_of(run)),
        fraction(number_at(results, "gap", "none", "mean")),
        f"{asked - len(unfulfilled(results))} of {asked}" if asked else "none",
    )


def gap_table(task: ComparedTask, verdict: RunsVerdict) -> Table:
    """Each entry's mean gap over seeds, its parts, and whether it is the best or cannot be told from it."""
    parts = ("mean", "forget", "retain", "test", "membership")
    rows = []
    for entry in in_order(task):
        cells = [Cell(count(len(entry.by_seed(lambda run: run.gap))))]
        for part in parts:
            cells.append(Cell(_pooled(entry.pooled(_gap_part(part)), fraction)))
        marks = {"more": "upper reference", "control": "control"}
        marks |= dict.fromkeys(verdict.best, "best") | dict.fromkeys(verdict.level, "level with it")
        said = marks.get(entry.label) or marks.get(entry.group, "")
        rows.append(Row(entry.label, said, tuple(cells)))
    seeds = len({run.seed for run in task.counted if floor_of(run) is not None})
    if seeds:
        floor = [task.once_a_seed(_floor_part(part)) for part in parts]
        cells = [Cell(count(seeds)), *(Cell(_pooled(value, fraction), reference=True) for value in floor)]
        rows.append(Row("noise floor", "between retrained seeds", tuple(cells)))
    return Table(("seeds", "mean gap", *parts[1:]), tuple(rows))


def models_table(task: ComparedTask) -> Table:
    """Each entry's two models; the original and the retrained one, which all share, last."""
    rows = []
    for entry in in_order(task):
        if entry.counted:
            rows += [_model_row(entry.label, entry.pooled, name) for name in ("unlearned", "recovered")]
    shared = [_model_row("all", task.once_a_seed, name) for name in ("original", "retrained")]
    return Table(tuple(MEASURES), tuple([*rows, *shared] if rows else ()))


def _model_row(label: str, pool: Callable[[Value], Spread], name: str) -> Row:
    cells = [
        Cell(_pooled(pool(_measure(name, path)), fraction), reference=name == "retrained")
        for path in MEASURES.values()
    ]
    return Row(label, name, tuple(cells))


def privacy_columns() -> tuple[Column, ...]:
    """The membership attacks on the model that a run ends with."""

    def attack(*path: str) -> Value:
        return lambda run: number_at(
            run.results, "attacks", path[0], "stages", final_model(run.results), *path[1:]
        )

    def population(*path: str) -> Value:
        return lambda run: number_at(run.results, "models", final_model(run.results), *path)

    def retrained(*path: str) -> Value:
        return lambda run: number_at(run.results, "models", "retrained", *path)

    return (
        Column(
            "population AUC",
            population("membership", "auc"),
            note=retrained("membership", "auc"),
            against="retrained",
        ),
        Column(
            "population TPR at 1 % FPR",
            population("membership", "tpr_at", "0.01"),
            note=retrained("membership", "tpr_at", "0.01"),
            against="retrained",
        ),
        Column(
            "same speaker AUC",
            population("membership_same_speaker", "auc"),
            note=retrained("membership_same_speaker", "auc"),
            against="retrained",
        ),
        Column("U-LiRA AUC", attack("ulira", "auc")),
        Column("U-LiRA TPR at 1 % FPR", attack("ulira", "tpr_at", "0.01", "value")),
        Column("informed AUC", attack("informed", "auc")),
        Column("informed TPR at 1 % FPR", attack("informed", "tpr_at", "0.01", "value")),
    )


def other_columns() -> tuple[Column, ...]:
    """Fairness, distances, relearn time, reversion and the combined scores, where results hold them."""

    def final(*path: str) -> Value:
        def value(run: Run) -> float | None:
            steps = (final_model(run.results) if key == "*" else key for key in path)
            return number_at(run.results, *steps)

        return value

    return (
        Column("worst speaker's change", final("fairness", "change", "*", "worst"), _signed),
        Column("mean speaker's change", final("fairness", "change", "*", "mean"), _signed),
        Column("ToW", final("distances", "*", "tow")),
        Column("KS of losses", final("distances", "*", "ks")),
        Column("Wasserstein of losses", final("distances", "*", "wasserstein")),
        Column("JS", final("distances", "*", "js")),
        Column(
            "relearn steps",
            final("relearn", "*", "steps"),
            _steps,
            final("relearn", "retrained", "steps"),
            "retrained",
        ),
        Column("reversion, forget", final("reversion", "forget"), _signed),
        Column("GUM", final("gum", "*", "gum")),
        Column("CGUM", final("gum", "*", "cgum")),
    )


def cost_columns() -> tuple[Column, ...]:
    """Of unlearning and recovery together, against retraining."""

    def spent(*names: str) -> Value:
        def value(run: Run) -> float | None:
            parts = [number_at(run.results, "cost", p, n) for p in ("unlearn", "recover") for n in names]
            known = [part for part in parts if part is not None]
            return sum(known) if len(known) == len(parts) else None

        return value

    def retrain(*names: str) -> Value:
        def value(run: Run) -> float | None:
            parts = [number_at(run.results, "cost", "retrain", n) for n in names]
            known = [part for part in parts if part is not None]
            return sum(known) if len(known) == len(parts) else None

        return value

    def share(run: Run) -> float | None:
        ours, theirs = spent("client_seconds")(run), retrain("client_seconds")(run)
        return ours / theirs if ours is not None and theirs else None

    return (
        Column("client time", spent("client_seconds"), duration, retrain("client_seconds"), "retraining"),
        Column("of retraining's", share, _percent),
        Column("sent up", spent("bytes_up"), size, retrain("bytes_up"), "retraining"),
        Column("sent down", spent("bytes_down"), size, retrain("bytes_down"), "retraining"),
    )


def pooled_table(task: ComparedTask, columns: Sequence[Column]) -> Table:
    """One line an entry; columns of which no run has a value are left out."""
    entries = [entry for entry in in_order(task) if entry.counted]
    known = [c for c in columns if any(c.value(run) is not None for run in task.counted)]
    rows = [Row(entry.label, "", tuple(_cell(entry, column) for column in known)) for entry in entries]
    return Table(tuple(column.title for column in known), tuple(rows) if known else ())


def settings_table(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings and versions that are not the same in all runs: key, and each value with who has it."""
    records = {run.name: {**run.settings, **_versions(run)} for run in runs}
    found = differing(records.values())
    return [(key, [(value, _who(records, key, value)) for value in values]) for key, values in found.items()]


def _who(records: dict[str, dict[str, str]], key: str, value: str) -> str:
    return ", ".join(name for name, record in records.items() if record.get(key, MISSING) == value)


def _versions(run: Run) -> dict[str, str]:
    found = at(run.results, "versions")
    return {f"versions.{k}": plain(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _cell(entry: ComparedRun, column: Column) -> Cell:
    text = _pooled(entry.pooled(column.value), column.written)
    against = entry.pooled(column.note).mean if column.note else math.nan
    return Cell(text, "" if math.isnan(against) else f"{column.against} {column.written(against)}")


def _pooled(value: Spread, written: Format) -> str:
    if math.isnan(value.mean):
        return MISSING
    half = "" if math.isnan(value.half) else f" ± {written(value.half).lstrip('+')}"
    return written(value.mean) + half


def _gap_part(part: str) -> Value:
    return lambda run: number_at(run.results, "gap", final_model(run.results), part)


def _floor_part(part: str) -> Value:
    return lambda run: noise_floor(run.results, part)


def _measure(name: str, path: Sequence[str]) -> Value:
    return lambda run: number_at(run.results, "models", name, *path)


def _signed(value: float) -> str:
    return fraction(value) if value < 0 else f"+{fraction(value)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _steps(value: float) -> str:
    return f"{value:.1f}"


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}…"
