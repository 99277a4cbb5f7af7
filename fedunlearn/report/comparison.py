"""Methods against each other: tables and figures from the rows of ``simulations/compare.py``.

A row is one stage of one run: who forgot how much with what, and where that left the model. Means are over
seeds, with 95 % intervals of Student's t; a single seed has none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as students_t

from fedunlearn.report.drawing import PALETTE, ink, quiet, sheet

Row = Mapping[str, Any]
COLUMNS = (
    "method", "sees", "model", "corpus", "forget_size", "requesters", "aggregation", "recovery", "seed",
    "stage", "forget", "retain", "test", "unseen", "membership", "gap", "client_seconds",
)  # fmt: skip
_JUDGED = "recovered"
_INKS = ("blue", "vermillion", "green", "orange", "purple", "muted", "ink")
_MARKS = "osD^vPX*<>"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and half the width of its 95 % interval (NaN with one seed)."""

    mean: float
    half: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half) else f" ± {self.half:.3f}")


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and interval of the known values."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)])
    if len(known) == 0:
        return Spread(math.nan, math.nan)
    if len(known) == 1:
        return Spread(float(known[0]), math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return Spread(float(known.mean()), float(students_t.ppf(0.975, len(known) - 1)) * error)


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Methods in order of their mean gap after recovery, best first."""
    names = list(dict.fromkeys(r["method"] for r in rows if r["stage"] == _JUDGED))
    return sorted(names, key=lambda m: _gap(rows, method=m).mean)


def table(rows: Sequence[Row], stage: str = _JUDGED) -> list[list[str]]:
    """Header and one line a method: what it sees, its gap in every setting, its client-seconds.

    The best forget-only gap of a setting stands in ``**``; the last line is the noise floor between
    retrained seeds.
    """
    settings = _settings(rows)
    sees = {r["method"]: r["sees"] for r in rows if r["stage"] == stage}
    body: dict[str, list[Spread]] = {
        m: [_gap(rows, stage, method=m, forget_size=n, requesters=k) for n, k in settings]
        for m in methods_of(rows)
    }
    rivals = [m for m in body if sees[m] == "forget" and m not in {"none", "destroy"}]
    lines = [["method", "sees", *(_setting(n, k) for n, k in settings), "client-seconds"]]
    for method, spreads in body.items():
        cells = []
        for column, value in enumerate(spreads):
            best = min((body[m][column].mean for m in rivals), default=math.nan)
            cells.append(f"**{value}**" if method in rivals and value.mean == best else str(value))
        seconds = spread([r["client_seconds"] for r in rows if r["method"] == method and r["stage"] == stage])
        lines.append([method, sees[method], *cells, f"{seconds.mean:.2f}"])
    floor = [_gap(rows, "retrained", forget_size=n, requesters=k) for n, k in settings]
    lines.append(["retrained (noise floor)", "retain", *map(str, floor), _retraining(rows)])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The table as GitHub's Markdown."""
    head, *body = lines
    rule = ["---" if i < 2 else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body)) + "\n"


def latex(lines: Sequence[Sequence[str]]) -> str:
    """The table as LaTeX (booktabs)."""
    head, *body = [[_tex(cell) for cell in line] for line in lines]
    out = [r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}", r"\toprule", " & ".join(head) + r" \\"]
    out += [r"\midrule", *(" & ".join(line) + r" \\" for line in body[:-1])]
    out += [r"\midrule", " & ".join(body[-1]) + r" \\", r"\bottomrule", r"\end{tabular}"]
    return "\n".join(out) + "\n"


def write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Forget against retain, gap by method, gap by forget size; each as SVG, PDF and PNG."""
    files = []
    with ink():
        for name, figure in (
            ("forget-retain", forget_against_retain(rows)),
            ("gap-by-method", gap_by_method(rows)),
            ("gap-by-size", gap_by_size(rows)),
        ):
            for ending in ("svg", "pdf", "png"):
                files.append(folder / f"{name}.{ending}")
                metadata = (
                    {"Date": None} if ending == "svg" else {"CreationDate": None} if ending == "pdf" else {}
                )
                figure.savefig(files[-1], dpi=160, metadata=metadata)
    return files


def forget_against_retain(rows: Sequence[Row]) -> Figure:
    """Where each method leaves forget and retain accuracy, as distances from the same run's retrained model.

    The retrained model is the origin; one point a seed and setting.
    """
    figure = sheet(620, 420)
    axes = figure.add_subplot()
    reference = {_run(r): r for r in rows if r["stage"] == "retrained"}
    for number, method in enumerate(methods_of(rows)):
        mine = [r for r in rows if r["method"] == method and r["stage"] == _JUDGED]
        x = [r["forget"] - reference[_run(r)]["forget"] for r in mine]
        y = [r["retain"] - reference[_run(r)]["retain"] for r in mine]
        axes.plot(x, y, linestyle="", label=method, **_mark(number))
    axes.axvline(0, color=PALETTE["muted"], linewidth=0.8)
    axes.axhline(0, color=PALETTE["muted"], linewidth=0.8)
    axes.set_xlabel("forget accuracy less the retrained model's")
    axes.set_ylabel("retain accuracy less the retrained model's")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def gap_by_method(rows: Sequence[Row]) -> Figure:
    """Mean gap of each method over all settings, with its interval, and the noise floor."""
    names = methods_of(rows)[::-1]
    figure = sheet(620, 60 + 28 * max(len(names), 2))
    axes = figure.add_subplot()
    spreads = [_gap(rows, method=m) for m in names]
    halves = [0.0 if math.isnan(s.half) else s.half for s in spreads]
    axes.barh(names, [s.mean for s in spreads], xerr=halves, color=PALETTE["blue"], height=0.6)
    floor = _gap(rows, "retrained").mean
    if not math.isnan(floor):
        axes.axvline(floor, color=PALETTE["ink"], linewidth=1.2)
    axes.set_xlabel("mean gap to the retrained model (line: noise floor)")
    quiet(axes, grid="x")
    return figure


def gap_by_size(rows: Sequence[Row]) -> Figure:
    """Mean gap against the number of utterances a requester takes back."""
    figure = sheet(620, 380)
    axes = figure.add_subplot()
    sizes = sorted({r["forget_size"] for r in rows})
    for number, method in enumerate(methods_of(rows)):
        spreads = [_gap(rows, method=method, forget_size=n) for n in sizes]
        axes.plot(sizes, [s.mean for s in spreads], label=method, **_mark(number))
    axes.set_xticks(sizes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("utterances forgotten by each requester")
    axes.set_ylabel("mean gap")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _mark(number: int) -> dict[str, Any]:
    return {"color": PALETTE[_INKS[number % len(_INKS)]], "marker": _MARKS[number % len(_MARKS)]}


def _settings(rows: Sequence[Row]) -> list[tuple[int, int]]:
    return sorted({(r["forget_size"], r["requesters"]) for r in rows}, key=lambda s: (s[1], s[0]))


def _setting(size: int, requesters: int) -> str:
    return f"{size} utterances" if requesters == 1 else f"{requesters} x {size}"


def _gap(rows: Sequence[Row], stage: str = _JUDGED, **chosen: Any) -> Spread:
    found = [r for r in rows if r["stage"] == stage and all(r[k] == v for k, v in chosen.items())]
    if stage == "retrained":  # one reference a run's data, however many methods were read against it
        found = list({(r["seed"], r["forget_size"], r["requesters"]): r for r in found}.values())
    return spread([r["gap"] for r in found])


def _retraining(rows: Sequence[Row]) -> str:
    seconds = spread([r["client_seconds"] for r in rows if r["stage"] == "retrained"])
    return f"{seconds.mean:.2f}"


def _run(row: Row) -> tuple[Any, ...]:
    return (row["method"], row["seed"], row["forget_size"], row["requesters"])


def _tex(cell: str) -> str:
    bold = cell.startswith("**") and cell.endswith("**")
    text = cell.strip("*").replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$").replace("–", "--")
    return rf"\textbf{{{text}}}" if bold else text
