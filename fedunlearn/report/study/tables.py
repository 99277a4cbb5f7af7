"""Tables of a study: the gap of every method in every setting, then each setting in full."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from fedunlearn.report.statistics import (
    GROUPS,
    Spread,
    Spreads,
    compared_to_best,
    pool,
    pool_all,
    seed_means,
    spreads,
)
from fedunlearn.report.study.statistics import (
    Setting,
    methods_of,
    name_size,
    references,
    select,
    settings_of,
    subtract_retrained,
    units_of,
    windows_of,
)
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING

_FLOOR = "retrained (noise floor)"
_DIFFERENCES = ("forget", "retain", "test", "membership")
_BOLD = "Bold: the lowest gap of those that see the forget set alone"
_DAGGER = (
    "†: not distinguishable from it, as the 95 % interval of the paired difference covers 0 (not corrected "
    "for the number of methods)"
)
_SILENT = "‡k/n: k of the n runs say nothing about the method, and the mean includes them"
_READS = (
    "The server sends {method} averages over all clients' training and held-out speech (log-odds of the "
    "true class); other methods receive the accuracy on held-out speech at most"
)
_ONE = "One seed: no intervals."
RECOGNITION = {
    "test UAR": "test_uar",
    "test WA": "test",
    "test F1": "test_macro_f1",
    "unseen UAR": "unseen",
    "unseen WA": "unseen_wa",
    "unseen F1": "unseen_macro_f1",
}
"""title -> column"""
SIDE_EFFECTS = {
    "shift, requesters": "shift_requesters",
    "slope, requesters": "slope_requesters",
    "shift, others": "shift_others",
    "slope, others": "slope_others",
    "spread on D_f": "spread",
    "shift, never heard": "shift_never_heard",
    "targets, slope": "follow_slope",
    "targets, residual": "follow_residual",
    "population TPR at 1 %": "membership_tpr",
    "U-LiRA AUC": "ulira",
    "U-LiRA TPR at 1 %": "ulira_tpr",
    "KLoM": "klom",
    "KLoM 95 %": "klom_p95",
    "KLoM, Gaussian": "klom_gaussian",
}
"""title -> column; those without any number are left out"""
_SIDE_EFFECTS = (
    "Shift: rms change of log-odds on held-out speech that was never trained on, in nats (never heard: on "
    "candidates outside a shadow model), with the slope of after on before; in the last line from one "
    "retrained seed to another. Spread: standard deviation of log-odds on D_f. Targets: how the answers on "
    "D_f follow those of the method, in shadow models. KLoM: median over candidates, nats; in the last line "
    "between models that never heard them."
)
_MEANINGS = (
    "x floor: the gap as a multiple of the noise floor. d: less the retrained model's value; in the last "
    "line the mean absolute difference between retrained seeds. Reversion: forget accuracy after recovery "
    "less that before it."
)


def summaries(rows: pd.DataFrame) -> list[Table]:
    """Tabulate the mean gap of each method in every setting, for each aggregation and recovery."""
    tables: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(rows):
        tables.setdefault((setting.aggregation, setting.recovery), []).append(setting)
    return [_summary(rows, settings) for settings in tables.values()]


def details(rows: pd.DataFrame) -> list[Table]:
    """Tabulate each setting: gap, gap over the noise floor, differences to the retrained model."""
    windows = windows_of(rows)
    return [
        _detail(select(rows, None, **setting.where), setting, len(windows) > 1)
        for setting in settings_of(rows)
    ]


def recognition(rows: pd.DataFrame) -> list[Table]:
    """Tabulate how well emotions are recognised after each method, for each aggregation and recovery.

    Over all settings: UAR, accuracy (WA) and macro F1 on test speech of the client speakers and, speaker
    independent, on unseen speakers.
    """
    pairs = dict.fromkeys((s.aggregation, s.recovery) for s in settings_of(rows))
    return [
        _recognition(select(rows, None, aggregation=aggregation, recovery=recovery))
        for aggregation, recovery in pairs
    ]


def side_effects(rows: pd.DataFrame) -> list[Table]:
    """Tabulate the collateral shift, the spread of answers and the attacks on single utterances.

    Over all settings, for each aggregation and recovery; none where nothing of it was measured.
    """
    pairs = dict.fromkeys((s.aggregation, s.recovery) for s in settings_of(rows))
    parts = (select(rows, None, aggregation=a, recovery=r) for a, r in pairs)
    return [_side_effects(part) for part in parts if part[list(SIDE_EFFECTS.values())].notna().any(axis=None)]


def sweep_table(rows: pd.DataFrame, name: str, values: Mapping[str, float]) -> Table:
    """Tabulate variants that differ in one number, in its order: gap by size, and what it consists of.

    Args:
        rows: of the variants, among others.
        name: of the number.
        values: variant -> its value of it.
    """
    mine = rows[rows["method"].isin(list(values))]
    sizes = sorted(mine["forget_size"].unique().tolist(), key=lambda size: size or math.inf)
    gaps = pool(select(mine), "gap", "method", "forget_size")
    apart = [pool(subtract_retrained(mine, column), column, "method") for column in _DIFFERENCES]
    recognised = pool(select(mine), "test_uar", "method")
    lines = []
    for variant, value in sorted(values.items(), key=lambda pair: pair[1]):
        cells = [str(gaps[variant, size]) for size in sizes]
        cells += [_signed(column[variant]) for column in apart]
        lines.append(_row(f"{value:g}", [*cells, str(recognised[variant])]))
    known = references(mine)
    floors = [str(pool_all(select(known, None, forget_size=size), "gap")) for size in sizes]
    last = [*floors, *[MISSING] * len(apart), str(pool_all(known, "test_uar"))]
    heads = [f"gap at {name_size(size)}" for size in sizes] + [f"d {column}" for column in _DIFFERENCES]
    units = units_of(rows)
    mean = f"Mean over {units} ± half the 95 % interval." if units else _ONE
    return Table(
        tuple(Column(head) for head in (name, *heads, "test UAR")),
        (*lines, Row("References"), _row(_FLOOR, last)),
        f"{name}: {_serving(settings_of(mine)[0])}",
        f"{mean} d: less the retrained model's value, over all sizes.",
    )


def with_title(table: Table, title: str) -> Table:
    """Return a table with a heading before its title; unchanged where the heading is empty."""
    if not title:
        return table
    end = "" if title[-1] in ".?!" else "."
    return replace(table, title=f"{title}{end} {table.title}")


def _recognition(rows: pd.DataFrame) -> Table:
    note = "WA: accuracy; F1: macro F1; unseen: speakers who take no part."
    return _of_models(rows, RECOGNITION, "Recognition", note)


def _side_effects(rows: pd.DataFrame) -> Table:
    shown = {head: column for head, column in SIDE_EFFECTS.items() if rows[column].notna().any()}
    return _of_models(rows, shown, "Side effects and single utterances", _SIDE_EFFECTS)


def _of_models(rows: pd.DataFrame, shown: Mapping[str, str], title: str, note: str) -> Table:
    """Columns of the methods' models, of the original and of the retrained models, over all sizes."""
    methods, judged = methods_of(rows), select(rows)
    pooled = [pool(judged, column, "method") for column in shown.values()]

    def row(method: str) -> Row:
        return _row(method, [_sees(rows, method), *(_or_missing(column[method]) for column in pooled)])

    def reference(name: str, of: pd.DataFrame, sees: str) -> Row:
        return _row(name, [sees, *(_or_missing(pool_all(of, column)) for column in shown.values())])

    units = units_of(rows)
    mean = f"Mean over {units} ± half the 95 % interval." if units else _ONE
    return Table(
        _columns("method", "sees", *shown),
        (
            *(line for group, own in methods.items() for line in (Row(GROUPS[group]), *map(row, own))),
            Row("References"),
            reference("original (nothing done)", select(rows, "original"), "all"),
            reference("retrained", references(rows), "retain"),
        ),
        f"{title}: {_serving(settings_of(rows)[0])}",
        f"{mean} {note}",
    )


def _or_missing(value: Spread) -> str:
    return MISSING if math.isnan(value.mean) else str(value)


def _summary(rows: pd.DataFrame, settings: Sequence[Setting]) -> Table:
    mine = select(rows, None, aggregation=settings[0].aggregation, recovery=settings[0].recovery)
    methods = methods_of(mine)
    judged, known = select(mine), references(mine)
    gaps = [_gaps(select(judged, **setting.where), methods) for setting in settings]
    seconds = pool(judged, "client_seconds", "method")
    floors = [pool_all(select(known, "retrained", **_same_data(setting)), "gap") for setting in settings]

    def row(method: str) -> Row:
        cells = [_sees(mine, method), *(column[method] for column in gaps), _seconds(seconds[method])]
        return _row(method, cells)

    floor = ["retain", *map(str, floors), _seconds(pool_all(known, "client_seconds"))]
    several = len(windows_of(rows)) > 1
    return Table(
        _columns("method", "sees", *(_request(s, several) for s in settings), "client-seconds"),
        (
            *(line for group, own in methods.items() for line in (Row(GROUPS[group]), *map(row, own))),
            Row("References"),
            _row(_FLOOR, floor),
        ),
        f"Mean gap to the retrained model: {_serving(settings[0])}",
        _caption(mine),
    )


def _detail(rows: pd.DataFrame, setting: Setting, windows: bool) -> Table:
    methods, judged, known = methods_of(rows), select(rows), references(rows)
    gaps, gap = _gaps(judged, methods), pool(judged, "gap", "method")
    floor = pool_all(known, "gap")
    apart = [pool(subtract_retrained(rows, column), column, "method") for column in _DIFFERENCES]
    apart.append(pool(judged, "reversion", "method"))
    waited = pool(judged, "rounds_waited_mean", "method")
    seconds = pool(judged, "client_seconds", "method")

    def waits(rounds: float) -> list[str]:
        return [] if not windows else [MISSING if math.isnan(rounds) else f"{rounds:.1f}"]

    def row(method: str) -> Row:
        cells = [
            _sees(rows, method),
            gaps[method],
            _times(gap[method], floor),
            *(_signed(column[method]) for column in apart),
            *waits(waited[method].mean),
            _seconds(seconds[method]),
        ]
        return _row(method, cells)

    nothing = pool_all(select(rows, "original"), "gap")
    idle = ["all", str(nothing), _times(nothing, floor), *[MISSING] * 5, *waits(math.nan), "0.00"]
    between = [str(pool_all(known, f"gap_{column}")) for column in _DIFFERENCES]
    last = ["retain", str(floor), _times(floor, floor), *between, MISSING, *waits(math.nan)]
    heads = [
        "method",
        "sees",
        "gap",
        "x floor",
        *(f"d {column}" for column in _DIFFERENCES),
        "reversion",
        *(["rounds waited"] if windows else []),
        "client-seconds",
    ]
    return Table(
        _columns(*heads),
        (
            *(line for group, own in methods.items() for line in (Row(GROUPS[group]), *map(row, own))),
            Row("References"),
            _row("original (nothing done)", idle),
            _row(_FLOOR, [*last, _seconds(pool_all(known, "client_seconds"))]),
        ),
        f"{_request(setting, windows)}, {_serving(setting)}",
        f"{_caption(rows)} {_MEANINGS}",
    )


def _columns(*heads: str) -> tuple[Column, ...]:
    """Column titles; the first two columns hold words, the others numbers."""
    return tuple(Column(head, left=number < 2) for number, head in enumerate(heads))


def _row(head: str, cells: Sequence[str]) -> Row:
    return Row(head, cells=tuple(map(Cell, cells)))


def _request(setting: Setting, windows: bool) -> str:
    """How much is deleted; and how long requests wait for others, where that differs."""
    return f"{setting.request}, window {setting.window}" if windows else setting.request


def _same_data(setting: Setting) -> dict[str, int]:
    return {"forget_size": setting.forget_size, "requesters": setting.requesters}


def _serving(setting: Setting) -> str:
    return f"aggregation {setting.aggregation}, recovery {setting.recovery}"


def _gaps(judged: pd.DataFrame, methods: dict[str, list[str]]) -> dict[str, str]:
    """Method -> its gap as text. Only those that see the forget set alone compete for the best."""
    values = seed_means(judged, "gap", "method")
    rivals = [method for method in methods.get("forget", []) if method in values]
    best, found = compared_to_best(values[rivals]), spreads(values)
    silent = (judged["says_nothing"] != "").groupby(judged["method"])
    counts = {m: f" ‡{said}/{len(runs)}" for m, runs in silent if (said := int(runs.sum()))}
    return {m: _marked(found, best, m, counts.get(m, "")) for own in methods.values() for m in own}


def _marked(gaps: Spreads, best: dict[str, bool], method: str, silent: str) -> str:
    text = f"{gaps[method]}{silent}"
    if method not in best:
        return text
    return f"**{text}**" if best[method] else f"{text} †"


def _sees(rows: pd.DataFrame, method: str) -> str:
    return str(rows.loc[rows["method"] == method, "sees"].iloc[0])


def _seconds(spent: Spread) -> str:
    return MISSING if math.isnan(spent.mean) else f"{spent.mean:.2f}"


def _signed(value: Spread) -> str:
    return str(value) if math.isnan(value.mean) or value.mean < 0 else f"+{value}"


def _times(gap: Spread, floor: Spread) -> str:
    return f"{gap.mean / floor.mean:.1f}" if floor.mean > 0 and not math.isnan(gap.mean) else MISSING


def _caption(rows: pd.DataFrame) -> str:
    units = units_of(rows)
    reads = rows["scalars"].fillna("").str.split().map(lambda names: "trained" in names)
    more = "".join(f" {_READS.format(method=method)}." for method in sorted(set(rows.loc[reads, "method"])))
    kinds = select(rows)["says_nothing"].value_counts().drop("", errors="ignore")
    if len(kinds):
        whys = ", ".join(f"{kind} in {count}" for kind, count in kinds.items())
        more += f" {_SILENT} ({whys} of {len(select(rows))} runs)."
    if not units:
        return f"{_ONE} {_BOLD}.{more}"
    return f"Mean over {units} ± half the 95 % interval. {_BOLD}; {_DAGGER}.{more}"
