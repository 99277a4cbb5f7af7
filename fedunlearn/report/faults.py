"""Replies that did not count, as rows of ready-made text."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.values import at, plain, rows

FAULTS_SHOWN = 50


@dataclass(frozen=True)
class FaultTable:
    """What went wrong: its columns, the first lines, how many more there are, and how many of each kind."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
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
