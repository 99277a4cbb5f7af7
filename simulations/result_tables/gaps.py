"""The tables of results: the gap of each method and each ablation, by corpus, recogniser and forget set."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from fedunlearn.report.statistics import Spread, pool, pool_all
from fedunlearn.report.study.statistics import name_size, references, select, units_of
from fedunlearn.report.study.tables import RECOGNITION
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING
from result_tables.ablations import ABLATIONS, ELASTICITY

_SCORES = {**RECOGNITION, "retain": "retain"}
"""title -> column of the original's rows"""


@dataclass(frozen=True, kw_only=True)
class GapRow:
    """One method on one corpus, recogniser and size of the forget set: a row of results.csv.

    Attributes:
        corpus: name of the corpus.
        model: name of the recogniser.
        forget_size: utterances that the requester deletes; 0 = all, as the file says.
        method: name of the variant.
        cells: runs of it.
        gap: mean gap after recovery.
        gap_half: half the 95 % interval of it.
        floor: mean noise floor.
        floor_half: half the 95 % interval of it.
        times_floor: gap over noise floor.
        says_nothing: runs of it that say nothing about the method.
        guarded: honest updates that the guard touched.
    """

    corpus: str
    model: str
    forget_size: int
    method: str
    cells: int
    gap: float
    gap_half: float
    floor: float
    floor_half: float
    times_floor: float
    says_nothing: int
    guarded: int


def gap_rows(rows: pd.DataFrame) -> list[GapRow]:
    """Pool the runs of each method over seeds and folds, in the order in which the rows came.

    Args:
        rows: of several comparisons, as ``study.rows.StudyRow``.
    """
    found = []
    for (corpus, model), of_model in rows.groupby(["corpus", "model"], sort=False):
        sizes = sorted(of_model["forget_size"].unique().tolist(), key=lambda size: size or math.inf)
        for size in sizes:
            here = select(of_model, None, forget_size=size)
            judged, floor = select(here), pool_all(references(here), "gap")
            gaps = pool(judged, "gap", "method")
            for method, runs in judged.groupby("method", sort=False):
                found.append(
                    GapRow(
                        corpus=corpus,
                        model=model,
                        forget_size=size,
                        method=method,
                        cells=len(runs),
                        gap=gaps[method].mean,
                        gap_half=gaps[method].half,
                        floor=floor.mean,
                        floor_half=floor.half,
                        times_floor=over_floor(gaps[method].mean, floor.mean),
                        says_nothing=int((runs["says_nothing"] != "").sum()),
                        guarded=int(runs["guarded"].sum()),
                    )
                )
    return found


def over_floor(value: float, floor: float) -> float:
    """Divide a gap by the noise floor; NaN where there is none."""
    return value / floor if floor > 0 else math.nan


def csv_of(rows: pd.DataFrame) -> str:
    """Write the pooled gaps as the text of results.csv; what is not known is empty."""
    written = pd.DataFrame([{**asdict(r), "forget_size": r.forget_size or "all"} for r in gap_rows(rows)])
    return written.to_csv(index=False, lineterminator="\n")  # type: ignore[no-any-return]


def gap_table(rows: pd.DataFrame) -> Table:
    """Tabulate the gap of each method, a row for each corpus, recogniser and size of the forget set."""
    pooled, methods = gap_rows(rows), list(rows["method"].unique())
    heads = [head for method in methods for head in (method, "x floor")]
    lines = []
    for corpus, model, size in dict.fromkeys((r.corpus, r.model, r.forget_size) for r in pooled):
        mine = {r.method: r for r in pooled if (r.corpus, r.model, r.forget_size) == (corpus, model, size)}
        one, runs = next(iter(mine.values())), sum(r.cells for r in mine.values())
        silent, guarded = sum(r.says_nothing for r in mine.values()), sum(r.guarded for r in mine.values())
        cells = [model, name_size(size), str(max(r.cells for r in mine.values()))]
        cells.append(str(Spread(one.floor, one.floor_half)))
        cells += [text for method in methods for text in _gap(mine.get(method))]
        lines.append(_row(corpus, [*cells, f"{silent}/{runs}", str(guarded)]))
    columns = [Column("corpus", left=True), Column("model", left=True), Column("deletes", left=True)]
    columns += [Column(head) for head in ("n", "noise floor", *heads, "says nothing", "guarded")]
    title = "Mean gap to the retrained model after recovery"
    return Table(tuple(columns), tuple(lines), title, _gap_caption(rows))


def recognition_table(rows: pd.DataFrame) -> Table:
    """Tabulate what the original models recognise, a row for each corpus and recogniser."""
    lines = []
    for (corpus, model), mine in rows.groupby(["corpus", "model"], sort=False):
        original, judged = select(mine, "original"), select(mine)
        scores = [str(pool_all(original, column)) for column in _SCORES.values()]
        silent = f"{int((judged['says_nothing'] != '').sum())}/{len(judged)}"
        lines.append(_row(corpus, [model, *scores, silent, str(int(judged["guarded"].sum()))]))
    columns = [Column("corpus", left=True), Column("model", left=True)]
    columns += [Column(head) for head in (*_SCORES, "says nothing", "guarded")]
    caption = (
        "Test: held-out speech of the client speakers; unseen: speakers who take no part; WA: accuracy; F1: "
        f"macro F1; retain: accuracy on the training speech that nobody deletes. {_intervals(rows)} "
        "Says nothing: runs that say nothing about their method. Guarded: honest updates that the server's "
        "guard shortened, scaled back or refused."
    )
    return Table(tuple(columns), tuple(lines), "The original model", caption)


def short_table(rows: pd.DataFrame) -> Table:
    """Tabulate a line for each corpus and recogniser, over all sizes: recognition and gaps."""
    methods, lines = list(rows["method"].unique()), []
    for (corpus, model), mine in rows.groupby(["corpus", "model"], sort=False):
        original, judged = select(mine, "original"), select(mine)
        floor, gaps = pool_all(references(mine), "gap").mean, pool(judged, "gap", "method")
        cells = [model, *(_number(pool_all(original, c).mean, 2) for c in ("test_uar", "unseen"))]
        cells.append(_number(floor, 3))
        for method in methods:
            mean = gaps[method].mean
            times = over_floor(mean, floor)
            cells.append(_number(mean, 3) + ("" if math.isnan(times) else f" ({times:.1f} x)"))
        lines.append(_row(corpus, cells))
    columns = [Column("corpus", left=True), Column("model", left=True)]
    columns += [Column(head) for head in ("test UAR", "unseen UAR", "noise floor", *methods)]
    sizes = sorted(rows["forget_size"].unique().tolist(), key=lambda size: size or math.inf)
    caption = (
        f"Mean gap to the retrained model after recovery, and as a multiple of the noise floor. One client "
        f"deletes {', '.join(map(name_size, sizes))} (mean). {_runs(rows)}."
    )
    return Table(tuple(columns), tuple(lines), caption=caption)


def ablation_table(rows: pd.DataFrame) -> Table:
    """Tabulate the gap of each ablation, columns for each corpus, recogniser and size."""
    pooled = gap_rows(rows)
    places = list(dict.fromkeys((r.corpus, r.model, r.forget_size) for r in pooled))
    several = rows["model"].nunique() > 1
    gaps = {(r.method, r.corpus, r.model, r.forget_size): Spread(r.gap, r.gap_half) for r in pooled}
    floors = {(r.corpus, r.model, r.forget_size): Spread(r.floor, r.floor_half) for r in pooled}
    lines = []
    for ablation in ABLATIONS:
        elastic = f"{ELASTICITY:g} {ablation.importance}" if ablation.importance else "off"
        values = [str(gaps.get((ablation.name, *place), Spread())) for place in places]
        lines.append(_row(ablation.name, [ablation.objective, ablation.hold, elastic, *values]))
    lines.append(_row("noise floor", ["", "", "", *(str(floors[place]) for place in places)]))
    heads = ["", "objective", "held samples", "elastic term"]
    columns = [Column(head, left=True) for head in heads]
    columns += [
        Column(f"{corpus}{f' {model}' if several else ''}, {name_size(size)}")
        for corpus, model, size in places
    ]
    caption = (
        "Mean gap to the retrained model after recovery; columns: corpus, and what the requester deletes. "
        "A: the product's method. The objectives other than calibrated stop when the accuracy on the forget "
        "set has fallen to that on held-out speech. Elastic term: its weight, and the weights' importance "
        f"in it. {_intervals(rows)}"
    )
    return Table(tuple(columns), tuple(lines), "Ablations", caption)


def _gap(row: GapRow | None) -> tuple[str, str]:
    if row is None:
        return MISSING, MISSING
    return str(Spread(row.gap, row.gap_half)), _number(row.times_floor, 1)


def _gap_caption(rows: pd.DataFrame) -> str:
    return (
        "Deletes: utterances of the one requester. n: runs of each method. Noise floor: mean gap between "
        f"retrained seeds; x floor: the gap as a multiple of it. {_intervals(rows)} Says nothing: runs of "
        "the row, over all methods, that say nothing about their method; the means include them. Guarded: "
        "honest updates that the server's guard shortened, scaled back or refused."
    )


def _intervals(rows: pd.DataFrame) -> str:
    one = not any(units for _, units in _units(rows))
    return f"{_runs(rows)}{'; no intervals' if one else '; ± half the 95 % interval'}."


def _runs(rows: pd.DataFrame) -> str:
    """Say what means are over, for each corpus where corpora differ."""
    units = dict(_units(rows))
    if len(set(units.values())) == 1:
        return f"Means over {next(iter(units.values()))}" if next(iter(units.values())) else "One seed"
    return "Means over " + ", ".join(f"{over or 'one seed'} of {corpus}" for corpus, over in units.items())


def _units(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for corpus, mine in rows.groupby("corpus", sort=False):
        yield corpus, units_of(mine)


def _number(value: float, digits: int) -> str:
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def _row(head: str, cells: Sequence[str]) -> Row:
    return Row(head, cells=tuple(map(Cell, cells)))
