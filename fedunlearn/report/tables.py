"""The page's tables, as rows of ready-made text."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.finding import closed, final_model
from fedunlearn.report.values import (
    MISSING,
    at,
    count,
    duration,
    fraction,
    many,
    noise_floor,
    number_at,
    plain,
    rows,
    signed,
    significant,
    size,
)
from fedunlearn.report.wishes import FULFILLED, wishes

MODELS = ("original", "unlearned", "recovered", "retrained")
MEASURES: tuple[tuple[str, tuple[str, str]], ...] = (
    ("Test UAR", ("test", "uar")),
    ("Test accuracy", ("test", "accuracy")),
    ("Unseen-speaker UAR", ("unseen", "uar")),
    ("Retain accuracy", ("retain", "accuracy")),
    ("Forget accuracy", ("forget", "accuracy")),
    ("Membership AUC", ("membership", "auc")),
)
COSTS: tuple[tuple[str, str], ...] = (
    ("learn", "Learn"),
    ("listen", "Listen"),
    ("unlearn", "Unlearn"),
    ("recover", "Recover"),
    ("retrain", "Retrain"),
)
COST_COLUMNS = ("rounds", "client_seconds", "wall_seconds", "bytes_up", "bytes_down")
FAULTS_SHOWN = 50


@dataclass(frozen=True)
class Cell:
    """A number and the lines of small print under it."""

    text: str
    note: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Row:
    """A table row: its head, the small print under that, and its cells."""

    head: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Tile:
    """A key number: what it is, the number, what to read it against."""

    label: str
    value: str
    against: tuple[str, ...]


@dataclass(frozen=True)
class Rank:
    """A line of the ranking; ``share`` is its gap as a percentage of the longest one."""

    name: str
    gap: str
    share: float
    useful: bool
    why: str
    kind: str


def models_table(results: Mapping[str, Any]) -> list[Row]:
    """Measures by models, the retrained model last as the reference, differences to it in small print."""
    table = [_measure_row(results, label, path) for label, path in MEASURES]
    gaps = (("none", "original"), ("unlearned", "unlearned"), ("recovered", "recovered"))
    cells = [Cell(fraction(at(results, "gap", name, "mean"))) for name, _ in gaps]
    floor = fraction(noise_floor(results, "mean"))
    cells.append(Cell(floor, "noise floor" if floor != MISSING else "no noise floor", reference=True))
    return [*table, Row("Mean gap", "to retrained", tuple(cells))]


def _measure_row(results: Mapping[str, Any], label: str, path: tuple[str, str]) -> Row:
    reference = number_at(results, "models", "retrained", *path)
    part, _ = path
    cells = []
    for name in MODELS:
        value = number_at(results, "models", name, *path)
        notes = [_interval(at(results, "models", name, part))] if part == "membership" else []
        if name == "retrained":
            notes.append(_seed_range(results, path))
        elif value is not None and reference is not None:
            notes.append(signed(value - reference))
        note = "\n".join(n for n in notes if n)
        cells.append(Cell(fraction(value), note, reference=name == "retrained"))
    sizes = {number_at(results, "models", name, part, "n") for name in MODELS} - {None}
    note = f"n = {count(sizes.pop())}" if len(sizes) == 1 else ""
    return Row(label, "95% interval" if part == "membership" else note, tuple(cells))


def _interval(membership: Any) -> str:
    low, high = number_at(membership, "low"), number_at(membership, "high")
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _seed_range(results: Mapping[str, Any], path: tuple[str, str]) -> str:
    seeds = [number_at(record, *path) for record in rows(at(results, "models", "retrained", "seeds"))]
    known = [value for value in seeds if value is not None]
    if len(known) < 2:
        return ""
    return f"{min(known):.3f} to {max(known):.3f}"


def tiles(results: Mapping[str, Any]) -> list[Tile]:
    """The numbers to remember."""
    final = final_model(results)
    record, original, retrained = (at(results, "models", m) for m in (final, "original", "retrained"))
    spent = [number_at(results, "cost", name, "client_seconds") for name in ("unlearn", "recover")]
    together = None if None in spent else sum(value for value in spent if value is not None)
    floor, nothing = noise_floor(results, "mean"), at(results, "gap", "none", "mean")
    return [
        Tile(
            "Mean gap",
            fraction(at(results, "gap", final, "mean")),
            (f"noise floor {fraction(floor)}", f"doing nothing {fraction(nothing)}"),
        ),
        Tile("Forget accuracy", fraction(at(record, "forget", "accuracy")),
             _against(original, retrained, "forget", "accuracy")),
        Tile("Test UAR", fraction(at(record, "test", "uar")), _against(original, retrained, "test", "uar")),
        Tile("Membership AUC", fraction(at(record, "membership", "auc")),
             _against(original, retrained, "membership", "auc")),
        Tile("Client time", duration(together), ("unlearn + recover",
             f"retraining {duration(at(results, 'cost', 'retrain', 'client_seconds'))}")),
        _fulfilled(results),
    ]  # fmt: skip


def _fulfilled(results: Mapping[str, Any]) -> Tile:
    asked = wishes(results)
    done = sum(wish.state in FULFILLED for wish in asked)
    notes = [closed(results)] if closed(results) else []
    waited = [wish.waited for wish in asked if wish.waited is not None]
    if any(waited):
        notes.append(f"waited {sum(waited) / len(waited):.1f} rounds")
    notes.append(many(len(rows(at(results, "faults"))), "fault") + " on the way")
    return Tile("Requests fulfilled", f"{done} of {len(asked)}" if asked else "none heard", tuple(notes))


def _against(original: Any, retrained: Any, *path: str) -> tuple[str, ...]:
    return (f"retrained {fraction(at(retrained, *path))}", f"original {fraction(at(original, *path))}")


def ranking_table(results: Mapping[str, Any]) -> list[Rank]:
    """The ranking as it stands in the results, with bar lengths."""
    ranked = rows(at(results, "ranking"))
    longest = max((number_at(r, "mean_gap") or 0.0 for r in ranked), default=0.0) or 1.0
    table = []
    for entry in ranked:
        name = plain(at(entry, "name"))
        kind = next((k for k in ("recovered", "unlearned") if name.startswith(k)), "control")
        if kind == "control":
            kind = "original" if name.endswith("none") else "destroy"
        share = 100 * (number_at(entry, "mean_gap") or 0.0) / longest
        useful, why = at(entry, "useful") is True, at(entry, "why") or ""
        table.append(Rank(name, fraction(at(entry, "mean_gap")), round(share, 1), useful, str(why), kind))
    return table


def cost_table(results: Mapping[str, Any]) -> list[Row]:
    """Costs by phase, and unlearn + recover as a share of retrain."""
    listed = [(n, head) for n, head in COSTS if n != "listen" or at(results, "cost", n) is not None]
    table = [_cost_row(head, at(results, "cost", name)) for name, head in listed]
    shares = []
    for column in COST_COLUMNS:
        parts = [number_at(results, "cost", name, column) for name in ("unlearn", "recover")]
        whole = number_at(results, "cost", "retrain", column)
        known = [part for part in parts if part is not None]
        share = 100 * sum(known) / whole if whole and len(known) == 2 else None
        shares.append(Cell(MISSING if share is None else f"{significant(share)}%", reference=True))
    return [*table, Row("Unlearn + recover", "share of retraining", tuple(shares))]


def _cost_row(label: str, cost: Any) -> Row:
    times = [duration(at(cost, name)) for name in ("client_seconds", "wall_seconds")]
    sizes = [size(at(cost, name)) for name in ("bytes_up", "bytes_down")]
    return Row(label, "", tuple(Cell(text) for text in (count(at(cost, "rounds")), *times, *sizes)))


@dataclass(frozen=True)
class FaultTable:
    """What went wrong: its columns, the first lines, how many more there are, and how many of each kind."""

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    more: int
    kinds: str


def fault_table(results: Mapping[str, Any]) -> FaultTable:
    """The first faults; with their kind ("late", "dropped", "refused", ...) where results tell it."""
    faults = rows(at(results, "faults"))
    columns: tuple[str, ...] = ("round", "phase", "client", "kind", "reason")
    kinds = Counter(str(at(fault, "kind")) for fault in faults if at(fault, "kind"))
    if not kinds:
        columns = tuple(name for name in columns if name != "kind")
    lines = tuple(tuple(plain(at(fault, name)) for name in columns) for fault in faults[:FAULTS_SHOWN])
    said = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    return FaultTable(columns, lines, len(faults) - len(lines), said)
