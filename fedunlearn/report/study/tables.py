"""Tables of a comparison, as Markdown and as LaTeX: the gap in every setting, then each setting in full."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedunlearn.report.study.statistics import (
    GROUPS,
    Row,
    Setting,
    Spread,
    by_seed,
    compared_to_best,
    groups_of,
    less_retrained,
    over_seeds,
    references,
    settings_of,
    windows_of,
)

_FLOOR = "retrained (noise floor)"
_DIFFERENCES = ("forget", "retain", "test", "membership")
_BOLD = "Bold: the lowest gap of those that see the forget set alone"
_DAGGER = (
    "†: not told from it, as the 95 % interval of the paired difference covers 0 (not corrected for the "
    "number of methods)"
)
_TOLD = (
    "The server tells {method} averages over all clients' training and held-out speech (log-odds of the "
    "true class), other methods the accuracy on held-out speech at most"
)
_MEANINGS = (
    "x floor: the gap as a multiple of the noise floor. d: less the retrained model's value; in the last "
    "line the mean absolute difference between retrained seeds. Reversion: forget accuracy after recovery "
    "less that before it."
)


@dataclass(frozen=True)
class Table:
    """A table of text; cells in ``**`` are bold, ``†`` is a mark.

    Attributes:
        title: one line.
        caption: what the marks mean.
        head: names of the columns; the first two are words, the others numbers.
        groups: title and lines of each.
    """

    title: str
    head: list[str]
    groups: list[tuple[str, list[list[str]]]]
    caption: str


def summaries(rows: Sequence[Row]) -> list[Table]:
    """For each aggregation and recovery: the mean gap of each method in every setting."""
    tables: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(rows):
        tables.setdefault((setting.aggregation, setting.recovery), []).append(setting)
    return [_summary(rows, settings) for settings in tables.values()]


def details(rows: Sequence[Row]) -> list[Table]:
    """For each setting: gap, gap as a multiple of the noise floor, differences to the retrained model."""
    return [
        _detail([r for r in rows if _of(r, setting)], setting, _asked(setting, rows), windows_of(rows))
        for setting in settings_of(rows)
    ]


def _summary(rows: Sequence[Row], settings: Sequence[Setting]) -> Table:
    mine = [r for r in rows if any(_of(r, setting) for setting in settings)]
    columns = [_gaps(mine, setting) for setting in settings]
    marks = [_marks(mine, gaps) for gaps in columns]

    def line(method: str) -> list[str]:
        gaps = [_gap(gaps, marked, method) for gaps, marked in zip(columns, marks, strict=True)]
        return [method, _sees(mine, method), *gaps, _seconds(mine, method=method)]

    known = references(mine)
    floors = [over_seeds(by_seed(known, "gap", "retrained", **_data(setting))) for setting in settings]
    floor = [_FLOOR, "retain", *map(str, floors), _seconds(known, "retrained")]
    groups = [(GROUPS[group], [line(m) for m in methods]) for group, methods in groups_of(mine).items()]
    return Table(
        f"Mean gap to the retrained model: {_joining(settings[0])}",
        ["method", "sees", *(_asked(s, rows) for s in settings), "client-seconds"],
        [*groups, ("References", [floor])],
        _caption(mine),
    )


def _detail(rows: Sequence[Row], setting: Setting, asked: str, windows: Sequence[int]) -> Table:
    gaps = _gaps(rows, setting)
    marks = _marks(rows, gaps)
    known = references(rows)
    floor = over_seeds(by_seed(known, "gap", "retrained"))
    apart = {column: less_retrained(rows, column) for column in _DIFFERENCES}

    def waits(text: str) -> list[str]:
        return [text.replace("nan", "–")] if len(windows) > 1 else []

    def line(method: str) -> list[str]:
        differences = [over_seeds(by_seed(apart[c], c, method=method)) for c in _DIFFERENCES]
        reversion = over_seeds(by_seed(rows, "reversion", method=method))
        waited = over_seeds(by_seed(rows, "rounds_waited_mean", method=method)).mean
        return [
            method,
            _sees(rows, method),
            _gap(gaps, marks, method),
            _times(over_seeds(gaps[method]), floor),
            *map(_signed, [*differences, reversion]),
            *waits(f"{waited:.1f}"),
            _seconds(rows, method=method),
        ]

    nothing = over_seeds(by_seed(rows, "gap", "original"))
    between = [str(over_seeds(by_seed(known, f"gap_{c}", "retrained"))) for c in _DIFFERENCES]
    last = [
        [
            "original (nothing done)",
            "all",
            str(nothing),
            _times(nothing, floor),
            *["–"] * 5,
            *waits("–"),
            "0.00",
        ],
        [
            _FLOOR,
            "retain",
            str(floor),
            _times(floor, floor),
            *between,
            "–",
            *waits("–"),
            _seconds(known, "retrained"),
        ],
    ]
    groups = [(GROUPS[group], [line(m) for m in methods]) for group, methods in groups_of(rows).items()]
    return Table(
        f"{asked}, {_joining(setting)}",
        [
            "method",
            "sees",
            "gap",
            "x floor",
            *(f"d {c}" for c in _DIFFERENCES),
            "reversion",
            *waits("rounds waited"),
            "client-seconds",
        ],
        [*groups, ("References", last)],
        f"{_caption(rows)} {_MEANINGS}",
    )


def _of(row: Row, setting: Setting) -> bool:
    return all(row[k] == v for k, v in setting.where.items())


def _asked(setting: Setting, rows: Sequence[Row]) -> str:
    """Who takes back how much; and how long requests wait for others, where that differs."""
    return f"{setting.asked}, window {setting.window}" if len(windows_of(rows)) > 1 else setting.asked


def _data(setting: Setting) -> dict[str, int]:
    return {"forget_size": setting.forget_size, "requesters": setting.requesters}


def _joining(setting: Setting) -> str:
    return f"updates joined by {setting.aggregation}, recovery {setting.recovery}"


def _gaps(rows: Sequence[Row], setting: Setting) -> dict[str, dict[int, float]]:
    methods = dict.fromkeys(r["method"] for r in rows)
    return {m: by_seed(rows, "gap", method=m, **setting.where) for m in methods}


def _marks(rows: Sequence[Row], gaps: Mapping[str, Mapping[int, float]]) -> dict[str, bool]:
    """Of the methods that see the forget set alone; controls and upper references compete with nobody."""
    rivals = groups_of(rows).get("forget", [])
    return compared_to_best({m: gaps[m] for m in rivals if m in gaps})


def _sees(rows: Sequence[Row], method: str) -> str:
    return next(str(r["sees"]) for r in rows if r["method"] == method)


def _gap(gaps: Mapping[str, Mapping[int, float]], marks: Mapping[str, bool], method: str) -> str:
    text = str(over_seeds(gaps[method]))
    if method not in marks:
        return text
    return f"**{text}**" if marks[method] else f"{text} †"


def _seconds(rows: Sequence[Row], stage: str = "recovered", **where: str) -> str:
    mean = over_seeds(by_seed(rows, "client_seconds", stage, **where)).mean
    return "–" if math.isnan(mean) else f"{mean:.2f}"


def _signed(value: Spread) -> str:
    return str(value) if math.isnan(value.mean) or value.mean < 0 else f"+{value}"


def _times(gap: Spread, floor: Spread) -> str:
    return f"{gap.mean / floor.mean:.1f}" if floor.mean > 0 and not math.isnan(gap.mean) else "–"


def _caption(rows: Sequence[Row]) -> str:
    seeds = len({r["seed"] for r in rows})
    told = sorted({r["method"] for r in rows if "trained" in (r.get("scalars") or "").split()})
    more = "".join(f" {_TOLD.format(method=method)}." for method in told)
    if seeds < 2:
        return f"One seed: no intervals. {_BOLD}.{more}"
    return f"Mean over {seeds} seeds ± half the 95 % interval. {_BOLD}; {_DAGGER}.{more}"


def markdown(tables: Sequence[Table]) -> str:
    """The tables as GitHub's Markdown."""
    return "\n".join(_as_markdown(table) for table in tables)


def _as_markdown(table: Table) -> str:
    rule = ["---" if i < 2 else "---:" for i in range(len(table.head))]
    lines = [table.head, rule]
    for title, body in table.groups:
        lines += [[f"*{title}*", *[""] * (len(table.head) - 1)], *body]
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"### {table.title}\n\n{drawn}\n\n{table.caption}\n"


def latex(tables: Sequence[Table]) -> str:
    """The tables as LaTeX (booktabs)."""
    return "\n".join(_as_latex(table) for table in tables)


def _as_latex(table: Table) -> str:
    width = len(table.head)
    out = [rf"\begin{{table}}\centering\caption{{{_tex(table.title)}. {_tex(table.caption)}}}"]
    out += [r"\begin{tabular}{ll" + "r" * (width - 2) + "}", r"\toprule"]
    out.append(" & ".join(map(_tex, table.head)) + r" \\")
    for title, body in table.groups:
        out += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_tex(title)}}}}} \\"]
        out += [" & ".join(map(_tex, line)) + r" \\" for line in body]
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _tex(cell: str) -> str:
    bold = cell.startswith("**") and cell.endswith("**")
    text = cell.strip("*")
    for sign, written in (
        ("%", r"\%"),
        ("_", r"\_"),
        ("&", r"\&"),
        ("±", r"$\pm$"),
        ("–", "--"),
        ("†", r"$^\dagger$"),
    ):
        text = text.replace(sign, written)
    return rf"\textbf{{{text}}}" if bold else text
