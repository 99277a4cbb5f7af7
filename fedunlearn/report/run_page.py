"""The page: results in, ``report.html`` out. Nothing but ``results.json`` is read."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedunlearn.files import write_atomically
from fedunlearn.report.attacks import attack_table, attack_words, request_attacks
from fedunlearn.report.costs import cost_bars, cost_table
from fedunlearn.report.distances import (
    distance_table,
    distances_said,
    gum_table,
    reversion_table,
    reversion_words,
)
from fedunlearn.report.fairness import by_group, by_speaker, change_table
from fedunlearn.report.faults import fault_table
from fedunlearn.report.figures.histograms import confusions, loss_histograms
from fedunlearn.report.figures.requests import request_lives
from fedunlearn.report.figures.roc import roc_curves
from fedunlearn.report.figures.timeline import timeline
from fedunlearn.report.finding import SEEN, asked, closed, find, judgement, nothing_unlearned
from fedunlearn.report.gaps import gap_bars, gap_table, ranking_table, rho_words
from fedunlearn.report.guarding import (
    GUARD_COLUMNS,
    PRIVACY_COLUMNS,
    given_away,
    guard_table,
    liars,
    privacy_table,
)
from fedunlearn.report.norms import update_norms
from fedunlearn.report.request_table import batches, request_table, unreachable
from fedunlearn.report.side_by_side import model_dots, models_table
from fedunlearn.report.tiles import tiles
from fedunlearn.report.values import at, count, duration, fraction, many, noise_floor, number_at, plain, rows

SECTIONS = {
    "models": "The four models side by side",
    "curve": "Learning, and forgetting",
    "requests": "What was asked, and what became of it",
    "gaps": "Against the controls",
    "attacks": "Can one tell that they were there?",
    "told": "What the requests themselves told",
    "guard": "What the guard did",
    "fairness": "What it did to those who stayed",
    "distances": "Other distances to the retrained models",
    "confusion": "What it confuses",
    "cost": "What it cost",
    "trouble": "Warnings and faults",
    "words": "Words and measures",
    "settings": "How to run it again",
}
"""in the order of the page; each is a template of its name"""
MAY_VANISH = {
    "gaps": ("unlearned",),
    "attacks": ("losses", "rocs", "attacks", "attack_words"),
    "fairness": ("changes", "speakers", "groups"),
    "distances": ("distances", "reversion", "gum"),
    "confusion": ("confusions", "confusions_unseen"),
}
"""where the page has none of these parts; the other sections say so"""


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report of one run as a single HTML file that loads nothing else.

    The same results give the same bytes. The file appears whole or not at all.

    Args:
        results: the content of ``results.json``; any value may be null or missing.
        path: where to; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render(results))


def render(results: Mapping[str, Any]) -> str:
    """The page as text."""
    loader = PackageLoader("fedunlearn", "report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, _, _ = loader.get_source(environment, "page.css")
    useful, why = judgement(results)
    shown = {**_head(results), **_figures(results), **_tables(results), **_words(results)}
    titles = {
        name: title
        for name, title in SECTIONS.items()
        if name not in MAY_VANISH or any(shown[part] for part in MAY_VANISH[name])
    }
    page = environment.get_template("page.html.j2").render(
        style=Markup(style), titles=titles, useful=useful, why=why, **shown
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _head(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": _title(results),
        "kicker": _kicker(results),
        "status": plain(at(results, "status")),
        "finding": find(results),
        "asked": asked(results),
        "closed": closed(results),
        "tiles": tiles(results),
        "compared": bool(at(results, "models")),
    }


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_dots": model_dots(results),
        "timeline": timeline(results),
        "lives": request_lives(results),
        "norms": update_norms(results),
        "gap_bars": gap_bars(results),
        "losses": loss_histograms(results),
        "rocs": roc_curves(results),
        "speakers": by_speaker(results),
        "groups": by_group(results),
        "confusions": confusions(results),
        "confusions_unseen": confusions(results, "unseen"),
        "cost_bars": cost_bars(results),
    }


def _tables(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "requests": request_table(results),
        "batches": batches(results),
        "models_table": models_table(results),
        "ranking": ranking_table(results),
        "gaps": gap_table(results),
        "attacks": attack_table(results),
        "request_attacks": request_attacks(results),
        "told": privacy_table(results),
        "told_columns": PRIVACY_COLUMNS,
        "given_away": given_away(results),
        "guarded": guard_table(results),
        "guard_columns": GUARD_COLUMNS,
        "changes": change_table(results),
        "distances": distance_table(results),
        "reversion": reversion_table(results),
        "gum": gum_table(results),
        "cost_table": cost_table(results),
        "faults": fault_table(results),
    }


def _words(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "window": count(at(results, "config", "deletions", "window")),
        "target": _target(results),
        "away": unreachable(results),
        "rho": rho_words(results),
        "floored": noise_floor(results, "mean") is not None,
        "unlearned": not nothing_unlearned(results),
        "attack_words": attack_words(results),
        "liars": liars(results),
        "distances_said": distances_said(results),
        "brought_back": reversion_words(results),
        "warnings": [plain(warning) for warning in rows(at(results, "corpus", "warnings"))],
        "settings": _settings(at(results, "config")),
        "versions": _pairs(at(results, "versions")),
        "times": _times(at(results, "times")),
        "schema": plain(at(results, "schema")),
    }


def _title(results: Mapping[str, Any]) -> str:
    parts = (at(results, "corpus", "name"), at(results, "config", "unlearning", "method"))
    return f"fedunlearn: {', '.join(plain(part) for part in parts)}, seed {plain(at(results, 'seed'))}"


def _kicker(results: Mapping[str, Any]) -> list[str]:
    corpus, config = at(results, "corpus"), at(results, "config")
    method = at(config, "unlearning", "method")
    said = "L2UL-style, after Ren et al. 2025" if method == "l2ul" else plain(method)
    more = SEEN.get(plain(at(results, "unlearning", "sees")))
    seen = f"an upper reference: it sees {more}" if more else ""
    emotions = many(len(rows(at(corpus, "emotions"))), "emotion")
    return [
        f"{plain(at(corpus, 'name'))}: {count(at(corpus, 'utterances'))} utterances of "
        f"{count(at(corpus, 'speakers'))} speakers ({count(_length(at(corpus, 'unseen_speakers')))} unseen), "
        f"{emotions}",
        f"{count(at(corpus, 'clients'))} clients",
        f"{count(at(config, 'training', 'rounds'))} rounds of learning",
        f"method {said}, {seen or 'updates joined by ' + plain(at(config, 'unlearning', 'aggregation'))}",
        _recogniser(results),
        f"seed {plain(at(results, 'seed'))}",
        *filter(None, [liars(results)]),
    ]


def _recogniser(results: Mapping[str, Any]) -> str:
    name, model = plain(at(results, "config", "model", "name")), at(results, "model")
    if not at(model, "trains"):
        return f"model {name}"
    pretrained = at(model, "weights") != "random"
    weights = (
        "pre-trained" if pretrained else "RANDOM WEIGHTS: of times and sizes only, no result about speech"
    )
    trained = f"training {plain(at(model, 'trains'))}, {count(at(model, 'travels'))} values travel"
    return f"model {PurePath(name).name} ({weights}), {trained}"


def _target(results: Mapping[str, Any]) -> str:
    retrained = at(results, "models", "retrained")
    return f"{fraction(at(retrained, 'forget', 'accuracy'))} and {fraction(at(retrained, 'test', 'uar'))}"


def _length(value: Any) -> Any:
    return value if number_at({"value": value}, "value") is not None else len(rows(value))


def _settings(config: Any) -> str:
    return tomli_w.dumps(_without_null(config)) if isinstance(config, Mapping) and config else ""


def _without_null(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _without_null(value) for key, value in node.items() if value is not None}
    if isinstance(node, list | tuple):
        return [_without_null(value) for value in node if value is not None]
    return node


def _pairs(node: Any) -> list[tuple[str, str]]:
    return [(str(key), plain(value)) for key, value in node.items()] if isinstance(node, Mapping) else []


def _times(times: Any) -> list[tuple[str, str]]:
    if not isinstance(times, Mapping):
        return []
    phases, references = at(times, "phases"), at(times, "references")
    listed = [("started", plain(at(times, "started"))), ("whole run", duration(at(times, "wall_seconds")))]
    if isinstance(phases, Mapping):
        listed += [(str(name), duration(seconds)) for name, seconds in phases.items()]
    return listed + [(f"reference: {name}", how) for name, how in _pairs(references)]
