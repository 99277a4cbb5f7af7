"""Figures of docs/measures.md: one for each measure, from plain numbers, as SVG on white."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedunlearn.report.figures.style import OF_MODEL, PALETTE, despine, figure_style, new_figure

Numbers = Mapping[str, Any]
_WIDTH, _HEIGHT = 640, 300
_BLUE, _RED, _GREEN, _INK = (PALETTE[name] for name in ("blue", "vermillion", "green", "ink"))
_GREY = PALETTE["muted"]


def write_measure_figures(examples: Numbers, folder: Path, endings: tuple[str, ...] = ("svg",)) -> list[Path]:
    """Draw every figure that has numbers, as ``measures-<name>.<ending>``.

    Args:
        examples: figure's name -> its numbers (``measure_figures.examples``).
    """
    files = []
    with figure_style():
        for name, draw in _DRAWN.items():
            if name not in examples:
                continue
            figure = draw(examples[name])
            for ending in endings:
                files.append(folder / f"measures-{name}.{ending}")
                about: dict[str, Any] = {"Date": None} if ending == "svg" else {}
                figure.savefig(files[-1], facecolor="white", dpi=110, metadata=about)
    return files


def _panels(count: int = 1) -> tuple[Figure, list[Axes]]:
    figure = new_figure(_WIDTH, _HEIGHT)
    panels = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in panels:
        despine(axes, grid="y")
    return figure, panels


def _titled(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=_INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _key(axes: Axes, where: Any = "best") -> None:
    axes.legend(frameon=False, fontsize=10, loc=where)


def _percent(axes: Axes, which: str = "y") -> None:
    (axes.yaxis if which == "y" else axes.xaxis).set_major_formatter(PercentFormatter(1.0, decimals=0))


def gap(numbers: Numbers) -> Figure:
    """Mean gap by forget accuracy."""
    figure, (axes,) = _panels()
    axes.plot(numbers["forget"], numbers["gap"], color=_BLUE)
    axes.axhspan(0, numbers["floor"], color=PALETTE["shade"])
    axes.text(0.01, numbers["floor"], "noise floor", fontsize=10, color=_GREY, va="bottom")
    axes.axvline(numbers["retrained"], color=_GREEN, linestyle=":")
    axes.text(numbers["retrained"] + 0.01, max(numbers["gap"]) * 0.9, "retrained", fontsize=10, color=_GREEN)
    for x, text, align in ((0.0, "forgot too much", "left"), (1.0, "did nothing", "right")):
        y = numbers["gap"][0 if x == 0 else -1]
        axes.plot([x], [y], "o", color=_RED)
        axes.annotate(
            text, (x, y), (8 if x == 0 else -8, 0), textcoords="offset points", ha=align, fontsize=10
        )
    _titled(axes, "The target is the retrained model, not 0 %", "forget accuracy", "mean gap")
    axes.set_ylim(0)
    _percent(axes, "x")
    return figure


def recognition(numbers: Numbers) -> Figure:
    """Coverage of intervals of UAR."""
    figure, panels = _panels(2)
    for axes, (recall, found) in zip(panels, numbers["recalls"].items(), strict=True):
        axes.axhline(0.95, color=_GREY, linestyle=":")
        axes.plot(numbers["counts"], found["ours"], "o-", color=_BLUE, markersize=4, label="ours")
        axes.plot(numbers["counts"], found["plain"], "s--", color=_RED, markersize=4, label="plain bootstrap")
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers["counts"], [str(n) for n in numbers["counts"]])
        axes.minorticks_off()
        axes.set_ylim(0, 1.03)
        _percent(axes)
        _titled(axes, f"True recalls {float(recall):.0%}", "utterances of each emotion", "UAR covered")
    _key(panels[0], "lower right")
    return figure


def membership(numbers: Numbers) -> Figure:
    """The population attack's two traps."""
    figure, (left, right) = _panels(2)
    left.plot(numbers["hard"], numbers["unweighted"], "s--", color=_RED, markersize=4, label="as they are")
    left.plot(
        numbers["hard"], numbers["weighted"], "o-", color=_BLUE, markersize=4, label="label mix matched"
    )
    _titled(left, "D_f of other emotions than the test", "share of a hard emotion in D_f", "AUC")
    _percent(left, "x")
    right.plot(numbers["ease"], numbers["everybody"], "s--", color=_RED, markersize=4, label="all speakers")
    right.plot(numbers["ease"], numbers["own"], "o-", color=_BLUE, markersize=4, label="same speaker only")
    _titled(right, "D_f of an easy speaker", "how much easier", "AUC")
    for axes in (left, right):
        axes.axhline(0.5, color=_GREY, linestyle=":")
        axes.set_ylim(0.2, 0.95)
        _key(axes, "upper right" if axes is left else "upper left")
    return figure


def bootstrap(numbers: Numbers) -> Figure:
    """Intervals of the AUC where there is nothing to find."""
    figure, panels = _panels(3)
    for axes, (size, drawn) in zip(panels, numbers.items(), strict=True):
        for i, (auc, low, high) in enumerate(sorted(drawn)):
            missed = not low <= 0.5 <= high
            axes.plot([i, i], [low, high], color=_RED if missed else _BLUE, linewidth=1.2)
            axes.plot([i], [auc], ".", color=_RED if missed else _BLUE, markersize=3)
        held = sum(low <= 0.5 <= high for _, low, high in drawn)
        axes.axhline(0.5, color=_GREY, linestyle=":")
        axes.set_ylim(0, 1)
        axes.set_xticks([])
        _titled(axes, f"{size} against {size}", f"{held} of {len(drawn)} hold 0.5", "")
    panels[0].set_ylabel("AUC, 95 % interval")
    return figure


_ATTACKED = {
    "original": ("original", PALETTE[OF_MODEL["original"]], "-"),
    "unlearned": ("its loss hidden", PALETTE[OF_MODEL["unlearned"]], "-"),
    "retrained": ("never saw D_f", PALETTE[OF_MODEL["retrained"]], "-"),
}


def ulira(numbers: Numbers) -> Figure:
    """ROC curves with the low end visible."""
    figure, panels = _panels(2)
    for axes, attack, title in (
        (panels[0], "population", "Population attack"),
        (panels[1], "ulira", "U-LiRA"),
    ):
        low = 1e-3
        axes.plot([low, 1], [low, 1], color=_GREY, linestyle=":")
        for name, (label, colour, style) in _ATTACKED.items():
            roc = numbers[name][attack]["roc"]
            if roc is None:
                continue
            # Straight lines between corners are curves on logarithmic axes.
            fpr = np.geomspace(low, 1, 200)
            tpr = np.interp(fpr, roc["fpr"], roc["tpr"])
            axes.plot(fpr, np.maximum(tpr, low), style, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.1))
        axes.minorticks_off()
        ticks = [1e-3, 1e-2, 1e-1, 1.0]
        axes.set_xticks(ticks, ["0.1%", "1%", "10%", "100%"])
        axes.set_yticks(ticks, ["0.1%", "1%", "10%", "100%"])
        _titled(axes, title, "false positive rate", "true positive rate")
    _key(panels[0], "upper left")
    return figure


def informed(numbers: Numbers) -> Figure:
    """AUC of three attacks on three models."""
    figure, (axes,) = _panels()
    attacks = (("population", "population"), ("ulira", "U-LiRA"), ("informed", "informed"))
    for shift, (name, (label, colour, _)) in zip((-0.2, 0.0, 0.2), _ATTACKED.items(), strict=True):
        for i, (attack, _) in enumerate(attacks):
            found = numbers[name][attack]
            axes.plot([i + shift] * 2, [found["low"], found["high"]], color=colour)
            axes.plot([i + shift], [found["auc"]], "o", color=colour, label=None if i else label)
    axes.axhline(0.5, color=_GREY, linestyle=":")
    axes.set_xticks(range(3), [title for _, title in attacks])
    axes.set_ylim(0.3, 1.02)
    _titled(axes, "A hidden loss passes the simple attack alone", "", "AUC, 95 % interval")
    _key(axes, "upper left")
    return figure


def tow(numbers: Numbers) -> Figure:
    """ToW by how far accuracies are off."""
    figure, (axes,) = _panels()
    for sets, (line, colour) in enumerate(zip(numbers["tow"], (_BLUE, _GREEN, _RED), strict=True), 1):
        axes.plot(numbers["off"], line, color=colour)
        what = ("one set", "two sets", "all three")[sets - 1]
        axes.text(numbers["off"][-1] + 0.005, line[-1], what, color=colour, fontsize=10, va="center")
    axes.set(xlim=(0, 0.58), ylim=(0, 1.02))
    _percent(axes, "x")
    _titled(axes, "ToW of a model that is off in", "difference to the retrained model's accuracy", "ToW")
    return figure


def ks(numbers: Numbers) -> Figure:
    """The largest difference of two distribution functions, and what chance alone makes of it."""
    figure, (left, right) = _panels(2)
    for name, label, colour in (
        ("own", "unlearned", PALETTE[OF_MODEL["unlearned"]]),
        ("retrained", "retrained", _GREEN),
    ):
        losses = np.sort(numbers[name])
        left.step(
            [0, *losses, 4.5],
            [0, *(np.arange(1, len(losses) + 1) / len(losses)), 1],
            where="post",
            color=colour,
            label=label,
        )
    points = np.sort(np.concatenate([numbers["own"], numbers["retrained"]]))
    levels = [
        np.searchsorted(np.sort(numbers[n]), points, "right") / len(numbers[n]) for n in ("own", "retrained")
    ]
    at = int(np.argmax(np.abs(levels[0] - levels[1])))
    left.plot([points[at]] * 2, [levels[0][at], levels[1][at]], color=_RED, linewidth=2.5)
    left.text(points[at] + 0.08, levels[1][at] - 0.02, f"KS {numbers['ks']:.2f}", color=_RED, va="top")
    left.set_xlim(0, 4.5)
    _titled(left, "Losses on D_f", "loss (nats)", "share with no more")
    _key(left, "lower right")
    right.plot(numbers["sizes"], numbers["alike"], "o-", color=_BLUE, markersize=4, label="mean")
    right.plot(
        numbers["sizes"], numbers["largest"], "s--", color=_GREY, markersize=4, label="95th percentile"
    )
    right.set_xscale("log")
    right.set_xticks(numbers["sizes"], [str(n) for n in numbers["sizes"]])
    right.minorticks_off()
    right.set_ylim(0, 1)
    _titled(right, "The same distribution twice", "utterances in D_f", "KS")
    _key(right)
    return figure


def w1(numbers: Numbers) -> Figure:
    """One outlier."""
    figure, (axes,) = _panels()
    axes.plot(numbers["grown"], numbers["w1"], color=_RED, label="Wasserstein-1 (nats)")
    axes.plot(numbers["grown"], numbers["ks"], "--", color=_BLUE, label="KS")
    axes.set_ylim(0)
    _titled(axes, "One loss of 48 grows", "that loss (nats)", "distance")
    _key(axes)
    return figure


def js(numbers: Numbers) -> Figure:
    """JS by the other model's answer, with what it is mistaken for."""
    figure, (axes,) = _panels()
    values = np.array(numbers["js"])
    axes.axhline(np.log(2), color=_GREY, linestyle=":")
    axes.text(0.99, np.log(2) - 0.015, "ln 2", fontsize=10, color=_GREY, va="top", ha="right")
    axes.plot(numbers["p"], values, color=_BLUE, label="JS (nats)")
    axes.plot(numbers["p"], np.sqrt(values), "--", color=_RED, label="its square root: SciPy's distance")
    axes.plot(numbers["p"], values / 3, ":", color=PALETTE["purple"], label="a mean over 3 classes")
    axes.axvline(0.5, color=PALETTE["grid"])
    axes.set_ylim(0, 0.95)
    _titled(axes, "One model says 98 % angry; the other", "says this much angry", "divergence")
    _percent(axes, "x")
    _key(axes, "upper center")
    return figure


def relearn(numbers: Numbers) -> Figure:
    """Steps to an accuracy on D_f."""
    figure, (axes,) = _panels()
    for name, label, colour in (
        ("original", "knew it: original", _RED),
        ("biased", "hides it: answers one emotion", PALETTE["orange"]),
        ("ascended", "wrecked by ascent", PALETTE["purple"]),
        ("retrained", "never knew it: retrained", _GREEN),
    ):
        found = numbers["steps"][name]
        mean, low, high = (np.array([f[k] for f in found]) for k in ("steps", "low", "high"))
        axes.plot(mean, numbers["targets"], "o-", color=colour, markersize=4, label=label)
        axes.fill_betweenx(numbers["targets"], low, high, color=colour, alpha=0.2, linewidth=0)
    _titled(axes, "Relearning D_f", "gradient steps", "forget accuracy to reach")
    axes.set_ylim(0, 1.04)
    _percent(axes)
    _key(axes, "lower right")
    return figure


def reversion(numbers: Numbers) -> Figure:
    """Forget accuracy over the rounds of two recoveries."""
    figure, (axes,) = _panels()
    for name, colour, style in (("ordinary", _RED, "s--"), ("gentle", _BLUE, "o-")):
        line = [(r, a) for r, phase, a in numbers["lines"][name] if a is not None and phase != "learn"]
        before = [(r, a) for r, phase, a in numbers["lines"][name] if a is not None and phase == "learn"][-3:]
        step = [(x - line[0][0], y) for x, y in line]
        past = [(x - line[0][0] - 1, y) for x, y in before]
        axes.plot(
            *zip(*past, *step, strict=True), style, color=colour, markersize=4, label=f"{name} recovery"
        )
    axes.axhline(numbers["retrained"], color=_GREEN, linestyle=":")
    axes.text(-3, numbers["retrained"] - 0.015, "retrained", color=_GREEN, fontsize=10, va="top")
    axes.axvline(0, color=PALETTE["grid"])
    axes.text(0.05, 0.97, "unlearn step", fontsize=10, color=_GREY)
    _titled(axes, "Recovery may bring D_f back", "rounds since the unlearn step", "forget accuracy")
    axes.set_ylim(0.3, 1.04)
    _percent(axes)
    _key(axes, "lower left")
    return figure


def fairness(numbers: Numbers) -> Figure:
    """Change of each speaker under two models of one mean."""
    figure, panels = _panels(2)
    titles = {"everybody": "Everybody pays a little", "one": "One speaker pays for all"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        rows = numbers[name]["speakers"]
        changes = sorted((r["unlearned"] - r["original"] for r in rows), reverse=True)
        change = numbers[name]["change"]["unlearned"]
        axes.bar(range(len(changes)), changes, color=_BLUE)
        axes.axhline(change["mean"], color=_RED, linestyle=":")
        label = f"mean {change['mean']:+.1%}\nstd {change['std']:.1%}\nworst {change['worst']:+.1%}"
        axes.text(0.03, 0.08, label.replace("-", "\u2212"), transform=axes.transAxes, fontsize=10)
        axes.set_ylim(-0.85, 0.05)
        axes.set_xticks([])
        _percent(axes)
        _titled(axes, title, "remaining speakers", "change of test accuracy")
    return figure


def gum(numbers: Numbers) -> Figure:
    """GUM and CGUM by membership."""
    figure, panels = _panels(2)
    titles = {"good": "F1 of the retrained model", "chance": "F1 at chance"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for kind, colour, style in (("gum", _BLUE, "-"), ("cgum", _RED, "--")):
            axes.plot(numbers["auc"], numbers[name][kind], style, color=colour, label=kind.upper())
        for value, text in ((numbers["gold"], "retrained"), (numbers["original"], "original")):
            axes.axvline(value, color=_GREY, linestyle=":", linewidth=1)
            axes.text(value + 0.01, 0.02, text, rotation=90, fontsize=9, color=_GREY)
        axes.set_ylim(0, 1)
        _titled(axes, title, "membership AUC of the model", "score")
    _key(panels[0], "upper left")
    return figure


def cost(numbers: Numbers) -> Figure:
    """Client time and bytes by phase and role."""
    figure, panels = _panels(2)
    phases = list(numbers)
    for axes, title, unit, keys, scale in (
        (panels[0], "Client time", "seconds", ("client_seconds",), 1.0),
        (panels[1], "Sent up and down", "MB", ("bytes_up", "bytes_down"), 1e-6),
    ):
        despine(axes, grid="x")
        asking, others = (
            [scale * sum(numbers[p]["roles"][role][k] for k in keys) for p in phases]
            for role in ("requesters", "others")
        )
        axes.barh(phases, asking, color=PALETTE[OF_MODEL["unlearned"]], label="requesters")
        axes.barh(phases, others, left=asking, color=_BLUE, label="others")
        axes.invert_yaxis()
        _titled(axes, title, unit, "")
    _key(panels[1], "upper right")
    return figure


def request(numbers: list[Numbers]) -> Figure:
    """What three requesters' updates reveal."""
    figure, (left, right) = _panels(2)
    at = range(1, len(numbers) + 1)
    mixes = [n["label_mix"] for n in numbers]
    left.plot(at, [m["tv"] for m in mixes], "o", color=_RED, label="best guess from the update")
    left.plot(at, [m["uniform"] for m in mixes], "s", color=_GREY, fillstyle="none", label="all alike")
    left.set_ylim(0, 0.5)
    _titled(left, "Which emotions?", "request", "distance to the true mix")
    for i, n in zip(at, numbers, strict=True):
        right.plot([i, i], [n["membership"]["low"], n["membership"]["high"]], color=_RED)
        right.plot([i], [n["membership"]["auc"]], "o", color=_RED)
    right.axhline(0.5, color=_GREY, linestyle=":")
    right.set_ylim(0, 1.02)
    _titled(right, "Which utterances?", "request", "AUC, deleted against kept")
    for axes in (left, right):
        axes.set_xlim(0.5, len(numbers) + 0.5)
        axes.set_xticks(list(at))
    _key(left, "upper right")
    return figure


_DRAWN: dict[str, Callable[[Any], Figure]] = {
    "gap": gap,
    "recognition": recognition,
    "membership": membership,
    "bootstrap": bootstrap,
    "ulira": ulira,
    "informed": informed,
    "tow": tow,
    "ks": ks,
    "w1": w1,
    "js": js,
    "relearn": relearn,
    "reversion": reversion,
    "fairness": fairness,
    "gum": gum,
    "cost": cost,
    "request": request,
}

NAMES = tuple(_DRAWN)
"""of all figures"""
