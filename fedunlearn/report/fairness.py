"""What the deletion changed for those who stay: by speaker, by gender and by emotion."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from fedunlearn.report.side_by_side import KINDS, MARKS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import count, fraction, plain, signed
from fedunlearn.results_schema import GroupScores, Results, SpeakerScores

SHOWN = 40
"""speakers drawn; of more, those whose accuracy changed most, half of them at either end"""
ROW = 21.0  # pixels


@dataclass(frozen=True)
class _Line:
    label: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Speakers:
    """The figure of the speakers.

    Attributes:
        figure: a line for each speaker drawn.
        left_out: number of speakers that it leaves out.
    """

    figure: FigureSpec
    left_out: int


def change_table(results: Results) -> Table | None:
    """Change of test accuracy over the remaining speakers: mean, spread and worst; None where unknown."""
    rows = []
    for name in ("unlearned", "recovered", "retrained"):
        change = results.fairness.change[name]
        if change.mean is None:
            continue
        client = "" if change.worst_client is None else f"client {change.worst_client}"
        cells = (
            Cell(signed(change.mean)),
            Cell(fraction(change.std)),
            Cell(signed(change.worst), client),
            Cell(count(change.n)),
        )
        rows.append(Row(name, "", cells, name, reference=name == "retrained"))
    heads = (
        ("model", ""),
        ("mean", "fairness"),
        ("std", "fairness"),
        ("worst", "fairness"),
        ("speakers", ""),
    )
    return Table(tuple(Column(*head) for head in heads), tuple(rows)) if rows else None


def by_speaker(results: Results) -> Speakers | None:
    """Test accuracy of each remaining speaker before and after, largest loss on top; None where unknown."""
    final = results.final_model
    changes = [(change, p) for p in results.fairness.speakers if (change := _change(p, final)) is not None]
    if not changes:
        return None
    people = [person for _, person in sorted(changes, key=lambda each: each[0])]
    shown = people if len(people) <= SHOWN else [*people[: SHOWN // 2], *people[-SHOWN // 2 :]]
    clients = [person.client for person in people]
    lines = []
    for person in shown:
        several = f", speaker {plain(person.speaker)}" if clients.count(person.client) > 1 else ""
        gender = {"female": " (f)", "male": " (m)"}.get(_gender(person.gender), "")
        label = safe(f"client {plain(person.client)}{several}{gender}")
        lines.append(_Line(label, _accuracies(person, final)))
    figure = FigureSpec(
        "speakers",
        f"Test accuracy of each remaining speaker, original, {final} and retrained model",
        lambda width: _dots([("test accuracy", lines)], final, width),
        widths=(400, NARROW),
        key=_key(final),
    )
    return Speakers(figure, len(people) - len(shown))


def by_group(results: Results) -> FigureSpec | None:
    """The same by gender (accuracy) and by emotion (recall); None where neither is known."""
    final = results.final_model
    genders = [(_gender(group.gender), group) for group in results.fairness.genders]
    emotions = [(plain(group.emotion), group) for group in results.fairness.emotions]
    panels = (("test accuracy", _lines(genders, final)), ("recall", _lines(emotions, final)))
    known = [(measure, lines) for measure, lines in panels if lines]
    if not known:
        return None
    return FigureSpec(
        "groups",
        f"By gender and emotion: original, {final} and retrained model",
        lambda width: _dots(known, final, width),
        widths=(400, NARROW),
        key=_key(final),
    )


def _lines(groups: Iterable[tuple[str, GroupScores]], final: str) -> list[_Line]:
    lines = []
    for name, group in groups:
        values = _accuracies(group, final)
        label = _shorten(name) + ("" if group.n is None else f" (n = {count(group.n)})")
        if any(value is not None for value in values.values()):
            lines.append(_Line(label, values))
    return lines


def _gender(text: str | None) -> str:
    """Corpora write it in full or as a letter."""
    written = plain(text)
    return {"f": "female", "m": "male"}.get(written.lower(), written)


def _shorten(text: str) -> str:
    text = safe(text)
    return text if len(text) <= 16 else f"{text[:15]}…"


def _change(person: SpeakerScores, final: str) -> float | None:
    before, after = person.original, person.accuracy(final)
    return None if before is None or after is None else after - before


def _accuracies(scores: GroupScores, final: str) -> dict[str, float | None]:
    return {name: scores.accuracy(name) for name in ("original", final, "retrained")}


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
