"""What the deletion did to those who stayed: by speaker, by gender and by emotion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedunlearn.report.figures.style import (
    NARROW,
    OF_MODEL,
    PALETTE,
    FigureSpec,
    LegendEntry,
    despine,
    new_figure,
    safe,
)
from fedunlearn.report.finding import final_model
from fedunlearn.report.side_by_side import KINDS, MARKS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import at, count, fraction, number_at, plain, rows, signed

SHOWN = 40
"""speakers drawn; of more, those whose accuracy changed most, half of them at either end"""
ROW = 21.0  # pixels


@dataclass(frozen=True)
class _Line:
    label: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Speakers:
    """The figure, and how many speakers it leaves out."""

    drawing: FigureSpec
    left_out: int


def change_table(results: Mapping[str, Any]) -> Table | None:
    """Change of test accuracy over the remaining speakers: mean, spread and worst; None where unknown."""
    change = at(results, "fairness", "change")
    lines = []
    for name in ("unlearned", "recovered", "retrained"):
        record = at(change, name)
        if number_at(record, "mean") is None:
            continue
        worst = at(record, "worst_client")
        cells = (
            Cell(signed(at(record, "mean"))),
            Cell(fraction(at(record, "std"))),
            Cell(signed(at(record, "worst")), "" if worst is None else f"client {plain(worst)}"),
            Cell(count(at(record, "n"))),
        )
        lines.append(Row(name, "", cells, name, reference=name == "retrained"))
    heads = (
        ("model", ""),
        ("mean", "fairness"),
        ("std", "fairness"),
        ("worst", "fairness"),
        ("speakers", ""),
    )
    return Table(tuple(Column(*head) for head in heads), tuple(lines)) if lines else None


def by_speaker(results: Mapping[str, Any]) -> Speakers | None:
    """Test accuracy of every remaining speaker before and after, who lost most on top; None where unknown."""
    final = final_model(results)
    people = [p for p in rows(at(results, "fairness", "speakers")) if _change(p, final) is not None]
    if not people:
        return None
    people.sort(key=lambda person: _change(person, final) or 0.0)
    shown = people if len(people) <= SHOWN else [*people[: SHOWN // 2], *people[-SHOWN // 2 :]]
    clients = [plain(at(person, "client")) for person in people]
    lines = []
    for person in shown:
        name = plain(at(person, "client"))
        several = f", speaker {plain(at(person, 'speaker'))}" if clients.count(name) > 1 else ""
        gender = {"female": " (f)", "male": " (m)"}.get(_gender(person), "")
        lines.append(_Line(safe(f"client {name}{several}{gender}"), _values(person, final)))
    drawing = FigureSpec(
        "speakers",
        f"Test accuracy of each remaining speaker, original, {final} and retrained model",
        lambda width: _dots([("test accuracy", lines)], final, width),
        widths=(400, NARROW),
        key=_key(final),
    )
    return Speakers(drawing, len(people) - len(shown))


def by_group(results: Mapping[str, Any]) -> FigureSpec | None:
    """The same by gender (accuracy) and by emotion (recall); None where neither is known."""
    final = final_model(results)
    groups = []
    for part, name, measure in (("genders", "gender", "test accuracy"), ("emotions", "emotion", "recall")):
        lines = []
        for group in rows(at(results, "fairness", part)):
            values = _values(group, final)
            n = number_at(group, "n")
            who = _gender(group) if name == "gender" else plain(at(group, name))
            label = _short(who) + ("" if n is None else f" (n = {count(n)})")
            if any(value is not None for value in values.values()):
                lines.append(_Line(label, values))
        if lines:
            groups.append((measure, lines))
    if not groups:
        return None
    return FigureSpec(
        "groups",
        f"By gender and emotion: original, {final} and retrained model",
        lambda width: _dots(groups, final, width),
        widths=(400, NARROW),
        key=_key(final),
    )


def _gender(record: Any) -> str:
    """Corpora write it in full or as a letter."""
    told = plain(at(record, "gender"))
    return {"f": "female", "m": "male"}.get(told.lower(), told)


def _short(text: str) -> str:
    text = safe(text)
    return text if len(text) <= 16 else f"{text[:15]}…"


def _change(person: Any, final: str) -> float | None:
    before, after = number_at(person, "original"), number_at(person, final)
    return None if before is None or after is None else after - before


def _values(record: Any, final: str) -> dict[str, float | None]:
    return {name: number_at(record, name) for name in ("original", final, "retrained")}


def _key(final: str) -> tuple[LegendEntry, ...]:
    return tuple((KINDS[MARKS[m]], OF_MODEL[m], m) for m in ("original", final, "retrained"))


def _dots(groups: Sequence[tuple[str, Sequence[_Line]]], final: str, width: int) -> Figure:
    sizes = [len(lines) for _, lines in groups]
    figure = new_figure(width, 48 * len(groups) + ROW * sum(sizes), between=10)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[n + 0.4 for n in sizes])
    for axes, (measure, lines) in zip(panels.flat, groups, strict=True):
        _panel(axes, lines, final)
        axes.set_xlabel(measure)
    return figure


def _panel(axes: Axes, lines: Sequence[_Line], final: str) -> None:
    despine(axes, grid="x")
    for y, line in enumerate(lines):
        before, after = line.values["original"], line.values[final]
        if before is not None and after is not None:
            axes.hlines(y, before, after, color=PALETTE[OF_MODEL[final]], linewidth=1.6, alpha=0.6)
        for name, value in line.values.items():
            if value is not None:
                size, above = {"original": (4, 4), "retrained": (6, 3)}.get(name, (8, 2))
                axes.plot(
                    value,
                    y,
                    MARKS[name],
                    color=PALETTE[OF_MODEL[name]],
                    markersize=size,
                    markeredgewidth=0,
                    zorder=above,
                    clip_on=False,
                )
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"], labelsize=10)
    axes.set_xlim(-0.03, 1.03)  # a mark at either end clear of the names
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    axes.set_ylim(len(lines) - 0.4, -0.6)
