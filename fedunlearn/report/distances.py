"""Further distances to the retrained models: outputs, relearning, what recovery brought back, GUM."""

from collections.abc import Mapping
from typing import Any

from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import (
    MISSING,
    at,
    count,
    fraction,
    many,
    number_at,
    plain,
    rows,
    signed,
)

MODELS = ("original", "unlearned", "recovered", "destroy", "retrained")
_HEADS = {"destroy": "random weights"}
DISTANCES = (
    ("tow", "Tug of war", "1 = the retrained accuracies"),
    ("ks", "Kolmogorov-Smirnov", "of the losses on D_f"),
    ("wasserstein", "Wasserstein-1", "of the losses on D_f, nats"),
    ("js", "Jensen-Shannon", "of the outputs on D_f, nats"),
)
_REVERSION = (("forget", "forget accuracy"), ("membership", "membership AUC"), ("gap", "mean gap"))


def distance_table(results: Mapping[str, Any]) -> Table | None:
    """Distances to the retrained models and relearn time, by model; None where there are none."""
    lines = []
    for measure, head, note in DISTANCES:
        found = [number_at(results, "distances", name, measure) for name in MODELS]
        if any(value is not None for value in found):
            lines.append(Row(head, note, _cells([Cell(fraction(value)) for value in found]), measure))
    relearning = [at(results, "relearn", name) for name in MODELS]
    if any(isinstance(record, Mapping) for record in relearning):
        target = next((n for r in relearning if (n := number_at(r, "target")) is not None), None)
        note = "gradient steps" if target is None else f"gradient steps to {fraction(target)}"
        lines.append(Row("Relearn time", note, _cells([_relearned(r) for r in relearning]), "relearn"))
    if not lines:
        return None
    columns = (
        Column(_HEADS.get(name, name), {"destroy": "control"}.get(name, name), name, name == "retrained")
        for name in MODELS
    )
    return Table((Column("measure"), *columns), tuple(lines))


def _cells(cells: list[Cell]) -> tuple[Cell, ...]:
    return (*cells[:-1], Cell(cells[-1].text, cells[-1].note, reference=True))


def _relearned(record: Any) -> Cell:
    steps, limit = number_at(record, "steps"), number_at(record, "limit")
    if steps is None and limit is None:
        return Cell(MISSING)
    if at(record, "reached") is False:
        return Cell(f"> {count(limit)}", "not reached")
    low, high = number_at(record, "low"), number_at(record, "high")
    spread = "" if low is None or high is None or low == high else f"{_steps(low)} to {_steps(high)}"
    return Cell(_steps(steps), spread)


def _steps(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def reversion_words(results: Mapping[str, Any]) -> str:
    """What the recovery rounds did to what should be gone; empty where unknown."""
    moved = [
        f"{name} {signed(at(results, 'reversion', part))}"
        for part, name in _REVERSION
        if number_at(results, "reversion", part) is not None
    ]
    return ", ".join(moved)


def reversion_table(results: Mapping[str, Any]) -> Table | None:
    """Forget accuracy before and after each unlearn step and after its recovery; None where unknown."""
    steps = [s for s in rows(at(results, "reversion", "steps")) if isinstance(s, Mapping)]
    if not steps:
        return None
    lines = []
    for step in steps:
        clients = at(step, "clients")
        who = ", ".join(plain(c) for c in rows(clients)) or plain(clients)
        after, end = number_at(step, "unlearned"), number_at(step, "recovered")
        back = None if after is None or end is None else end - after
        values = (fraction(at(step, name)) for name in ("before", "unlearned", "recovered"))
        head = f"round {count(at(step, 'round'))}"
        lines.append(
            Row(
                head,
                f"client{'s' if len(rows(clients)) > 1 else ''} {who}",
                (*(Cell(v) for v in values), Cell(signed(back))),
                "reversion",
            )
        )
    heads = ("unlearn step", "before", "unlearned", "recovered", "brought back")
    return Table(tuple(Column(head) for head in heads), tuple(lines))


def gum_table(results: Mapping[str, Any]) -> Table | None:
    """GUM and CGUM with their parts; None where unknown."""
    parts = ("gum", "cgum", "efficacy", "utility", "time")
    lines = []
    for name in ("unlearned", "recovered"):
        record = at(results, "gum", name)
        if any(number_at(record, part) is not None for part in parts):
            lines.append(Row(name, "", tuple(Cell(fraction(at(record, part))) for part in parts), name))
    columns = (Column("model"), Column("GUM", "gum"), Column("CGUM", "gum"), *map(Column, parts[2:]))
    return Table(columns, tuple(lines)) if lines else None


def distances_said(results: Mapping[str, Any]) -> str:
    """Which models the distances are to."""
    seeds = len(rows(at(results, "models", "retrained", "seeds")))
    if seeds < 2:
        return "To the one retrained model."
    own = "the retrained models' own are between their seeds: what chance alone makes"
    return f"Means over {many(seeds, 'retrained seed')}; {own}."
