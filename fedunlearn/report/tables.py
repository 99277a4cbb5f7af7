"""The page's tables, as rows of ready-made text."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.finding import closed, final_model
from fedunlearn.report.values import (
    at,
    duration,
    fraction,
    interval_at,
    many,
    noise_floor,
    number_at,
    plain,
    rows,
    sure,
)
from fedunlearn.report.wishes import FULFILLED, wishes

MODELS = ("original", "unlearned", "recovered", "retrained")
FAULTS_SHOWN = 50


@dataclass(frozen=True)
class Cell:
    """A number and the lines of small print under it."""

    text: str
    note: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Row:
    """A table row: its head, the small print under that, and its cells.

    ``word`` names the entry among the words of the page that says what the head means; a row without cells
    is a heading of the rows below it.
    """

    head: str
    note: str
    cells: tuple[Cell, ...]
    word: str = ""
    total: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column; ``word`` as in ``Row``, ``model`` where it is one (its colour)."""

    text: str
    word: str = ""
    model: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """Column heads, that of the row heads first, and lines."""

    columns: tuple[Column, ...]
    lines: tuple[Row, ...]


@dataclass(frozen=True)
class Tile:
    """A key number: what it is, the word that explains it, the number, what to read it against."""

    label: str
    word: str
    value: str
    against: tuple[str, ...]


def tiles(results: Mapping[str, Any]) -> list[Tile]:
    """The numbers to remember."""
    final = final_model(results)
    spent = [number_at(results, "cost", name, "client_seconds") for name in ("unlearn", "recover")]
    together = None if None in spent else sum(value for value in spent if value is not None)
    floor, nothing = noise_floor(results, "mean"), at(results, "gap", "none", "mean")
    return [
        Tile(
            "Mean gap",
            "gap",
            fraction(at(results, "gap", final, "mean")),
            (
                *filter(None, [sure(interval_at(results, "gap", final))]),
                f"noise floor {fraction(floor)}",
                f"doing nothing {fraction(nothing)}",
            ),
        ),
        _tile(
            results, "Forget accuracy", "accuracy", ("forget", "accuracy"), ("forget", "accuracy_interval")
        ),
        _tile(results, "Test UAR", "uar", ("test", "uar"), ("test", "uar_interval")),
        _tile(results, "Membership AUC", "membership", ("membership", "auc"), ("membership",)),
        Tile(
            "Client time",
            "cost",
            duration(together),
            ("unlearn + recover", f"retraining {duration(at(results, 'cost', 'retrain', 'client_seconds'))}"),
        ),
        _fulfilled(results),
    ]


def _fulfilled(results: Mapping[str, Any]) -> Tile:
    asked = wishes(results)
    done = sum(wish.state in FULFILLED for wish in asked)
    notes = [closed(results)] if closed(results) else []
    waited = [wish.waited for wish in asked if wish.waited is not None]
    if any(waited):
        notes.append(f"waited {sum(waited) / len(waited):.1f} rounds")
    notes.append(many(len(rows(at(results, "faults"))), "fault") + " on the way")
    return Tile(
        "Requests fulfilled", "states", f"{done} of {len(asked)}" if asked else "none heard", tuple(notes)
    )


def _tile(
    results: Mapping[str, Any], label: str, word: str, path: tuple[str, ...], spread: tuple[str, ...]
) -> Tile:
    models = at(results, "models")
    final = at(models, final_model(results))
    against = (f"{name} {fraction(at(models, name, *path))}" for name in ("retrained", "original"))
    said = sure(interval_at(final, *spread))
    return Tile(label, word, fraction(at(final, *path)), (*filter(None, [said]), *against))


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
