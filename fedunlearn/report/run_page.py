"""The page of one run: results in, ``report.html`` out. Nothing but ``results.json`` is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import tomli_w

from fedunlearn.files import write_atomically
from fedunlearn.report.attacks import attack_notes, attack_table, klom_table, request_attacks
from fedunlearn.report.collateral import following_table, shift_bars, shift_table, spread_table
from fedunlearn.report.costs import cost_bars, cost_table
from fedunlearn.report.distances import (
    distance_note,
    distance_table,
    gum_table,
    reversion_summary,
    reversion_table,
)
from fedunlearn.report.fairness import by_group, by_speaker, change_table
from fedunlearn.report.faults import FAULTS_SHOWN, fault_table, guard_table, malicious_clients, rehearsed
from fedunlearn.report.figures.histograms import confusions, loss_histograms
from fedunlearn.report.figures.requests import request_lifetimes
from fedunlearn.report.figures.roc import roc_curves
from fedunlearn.report.figures.timeline import timeline
from fedunlearn.report.finding import count_closed, count_requests, find, judge_method
from fedunlearn.report.gaps import gap_bars, gap_table, ranking_table, rho_sentence
from fedunlearn.report.names import method_name, method_title, methods_used, privileged_data
from fedunlearn.report.privacy import describe_leaks, privacy_table
from fedunlearn.report.request_table import batches, request_table, unreachable, update_norms, window
from fedunlearn.report.side_by_side import model_dots, models_table
from fedunlearn.report.templates import fill_template
from fedunlearn.report.tiles import tiles
from fedunlearn.report.values import count, duration, fraction, many, plain
from fedunlearn.results_schema import CONTROLS, Results, Times

SECTIONS = {
    "models": "The four models side by side",
    "timeline": "Learning and forgetting over the rounds",
    "requests": "What was requested, and what became of it",
    "gaps": "Against the controls",
    "attacks": "Can deleted utterances still be detected?",
    "privacy": "What the requests themselves give away",
    "guard": "What the guard did",
    "collateral": "What moved that should not have",
    "fairness": "What changed for those who stay",
    "distances": "Other distances to the retrained models",
    "confusion": "Confusion matrices",
    "cost": "What it cost",
    "faults": "Warnings and faults",
    "words": "Terms and measures",
    "settings": "How to run it again",
}
"""in the order of the page; each is a template of its name"""
MAY_VANISH = {
    "gaps": ("unlearned",),
    "attacks": ("losses", "rocs", "attacks", "attack_notes"),
    "collateral": ("shift_bars", "shifts", "spread"),
    "fairness": ("changes", "speakers", "groups"),
    "distances": ("distances", "reversion", "gum"),
    "confusion": ("confusions", "confusions_unseen"),
}
"""where the page has none of these parts; the other sections say so"""


def write_report(results: Results, path: Path) -> None:
    """Write the report of one run as a single HTML file that loads nothing else.

    The same results give the same bytes. The file appears whole or not at all.

    Args:
        results: of the run; any part may be missing.
        path: where to; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render(results))


def render(results: Results) -> str:
    """The page as text."""
    useful, why = judge_method(results)
    shown = {**_head(results), **_figures(results), **_tables(results), **_texts(results)}
    titles = {
        name: title
        for name, title in SECTIONS.items()
        if name not in MAY_VANISH or any(shown[part] for part in MAY_VANISH[name])
    }
    page = fill_template("page.html.j2", ("page.css",), titles=titles, useful=useful, why=why, **shown)
    return page.encode("utf-8", "replace").decode("utf-8")


def _head(results: Results) -> dict[str, Any]:
    return {
        "title": _title(results),
        "kicker": _kicker(results),
        "status": plain(results.status),
        "finding": find(results),
        "requested": count_requests(results),
        "closed": count_closed(results),
        "tiles": tiles(results),
        "compared": bool(results.models),
    }


def _figures(results: Results) -> dict[str, Any]:
    return {
        "model_dots": model_dots(results),
        "timeline": timeline(results),
        "lifetimes": request_lifetimes(results),
        "norms": update_norms(results),
        "gap_bars": gap_bars(results),
        "losses": loss_histograms(results),
        "rocs": roc_curves(results),
        "shift_bars": shift_bars(results),
        "speakers": by_speaker(results),
        "groups": by_group(results),
        "confusions": confusions(results),
        "confusions_unseen": confusions(results, "unseen"),
        "cost_bars": cost_bars(results),
    }


def _tables(results: Results) -> dict[str, Any]:
    return {
        "requests": request_table(results),
        "batches": batches(results),
        "models_table": models_table(results),
        "ranking": ranking_table(results),
        "gaps": gap_table(results),
        "attacks": attack_table(results),
        "request_attacks": request_attacks(results),
        "klom": klom_table(results),
        "shifts": shift_table(results),
        "spread": spread_table(results),
        "following": following_table(results),
        "privacy": privacy_table(results),
        "guard": guard_table(results),
        "changes": change_table(results),
        "distances": distance_table(results),
        "reversion": reversion_table(results),
        "gum": gum_table(results),
        "cost_table": cost_table(results),
        "faults": fault_table(results),
    }


def _texts(results: Results) -> dict[str, Any]:
    return {
        "window": count(window(results)),
        "target": _target(results),
        "away": unreachable(results),
        "rho": rho_sentence(results),
        "has_floor": results.gap.noise_floor.mean is not None,
        "unlearned": not results.nothing_unlearned,
        "attack_notes": attack_notes(results),
        "leaks": describe_leaks(results),
        "malicious": malicious_clients(results),
        "rehearsed": rehearsed(results),
        "distance_note": distance_note(results),
        "brought_back": reversion_summary(results),
        "warnings": results.corpus.warnings,
        "methods_used": methods_used([results]),
        "controls": list(CONTROLS.values()),
        "more_faults": max(0, len(results.faults) - FAULTS_SHOWN),
        "settings": tomli_w.dumps(_without_null(results.config)) if results.config else "",
        "versions": list(results.versions.items()),
        "times": _times(results.times),
        "schema": plain(results.format),
    }


def _title(results: Results) -> str:
    return f"fedunlearn: {plain(results.corpus.name)}, {method_name(results)}, seed {plain(results.seed)}"


def _kicker(results: Results) -> list[str]:
    corpus = results.corpus
    return [
        f"{plain(corpus.name)}: {count(corpus.utterances)} utterances of {count(corpus.speakers)} speakers "
        f"({count(corpus.unseen_speakers)} unseen{_fold(results)}), {many(len(corpus.emotions), 'emotion')}",
        f"{count(corpus.clients)} clients",
        f"{count(results.setting('training', 'rounds'))} rounds of learning",
        *_method(results),
        _recognizer(results),
        f"seed {plain(results.seed)}",
        *filter(None, [malicious_clients(results)]),
    ]


def _method(results: Results) -> list[str]:
    seen = privileged_data(results)
    joined = f"updates aggregated by {plain(results.setting('unlearning', 'aggregation'))}"
    return [
        f"method {method_title(results)}",
        f"a privileged baseline: it sees {seen}" if seen else joined,
    ]


def _fold(results: Results) -> str:
    fold = results.setting("partition", "fold")
    return f": fold {fold}" if fold else ""


def _recognizer(results: Results) -> str:
    name, model = plain(results.setting("model", "name")), results.model
    if not model.trains:
        return f"model {name}"
    weights = "RANDOM WEIGHTS: of times and sizes only, no result about speech"
    weights = weights if model.weights == "random" else "pre-trained"
    sent = f"training {model.trains}, {count(model.travels)} values in a message"
    return f"model {PurePath(name).name} ({weights}), {sent}"


def _target(results: Results) -> str:
    retrained = results.models.retrained
    return f"{fraction(retrained.forget.accuracy)} and {fraction(retrained.test.uar)}"


def _without_null(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _without_null(value) for key, value in node.items() if value is not None}
    if isinstance(node, list | tuple):
        return [_without_null(value) for value in node if value is not None]
    return node


def _times(times: Times) -> list[tuple[str, str]]:
    if not times:
        return []
    phases: Iterable[tuple[str, str]] = ((name, duration(s)) for name, s in times.phases.items())
    references = ((f"reference: {name}", how) for name, how in times.references.items())
    whole = (("started", plain(times.started)), ("whole run", duration(times.wall_seconds)))
    return [*whole, *phases, *references]
