"""The model card of a trained speech encoder: results in, the README.md of its folder out.

A card goes where the model goes. It holds counts and measures alone: of what results.json says, no text that
may name a speaker, an utterance or a place on the machine that the run was made on.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedunlearn.report.attacks import attack_table, attack_words
from fedunlearn.report.finding import SEEN, asked, closed, final_model, find, nothing_unlearned
from fedunlearn.report.gaps import gap_table, rho_words
from fedunlearn.report.guarding import liars
from fedunlearn.report.request_view import CLOSED, FULFILLED, wishes
from fedunlearn.report.side_by_side import models_table
from fedunlearn.report.tables import Row
from fedunlearn.report.values import at, count, fraction, many, number_at, plain, rows

REQUEST_COLUMNS = (
    "request",
    "client",
    "utterances",
    "raised in round",
    "applied in round",
    "state",
    "waited",
)
PARTS = {
    "head": "the emotion head alone; the encoder is the checkpoint's, unchanged",
    "lora": "the emotion head and low-rank adapters (LoRA) in every layer, merged into the weights here",
    "all": "the emotion head and the whole encoder",
}
_PUBLISHED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKS = re.compile(r"([\\`*_\[\]<>|#~$&])")


def model_card(results: Mapping[str, Any]) -> str:
    """The card as Markdown with a YAML head. The same results give the same text.

    Args:
        results: the content of a run's ``results.json``; any value may be null or missing. Of a run that
            ended early the card says so at its top, and what is not known it does not say.
    """
    environment = Environment(
        loader=PackageLoader("fedunlearn", "report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "yaml": _quoted}
    environment.globals["row_of"] = _row
    shown = {**_origin(results), **_speech(results), **_deleted(results), **_evidence(results)}
    card = environment.get_template("model_card.md.j2").render(alarm=_alarm(results), **shown)
    return card.encode("utf-8", "replace").decode("utf-8")


def markdown(text: Any) -> str:
    """Text as it stands, in one line, whatever Markdown would make of it; also within a table."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def _row(row: Row, cells: int) -> list[str]:
    """A row of a table of the page: small print in brackets, a heading in bold."""

    def noted(text: str, note: str) -> str:
        return f"{text} ({markdown(', '.join(note.splitlines()))})" if note else text

    if not row.cells:
        return [f"**{markdown(row.head)}**", *[""] * cells]
    return [noted(markdown(row.head), row.note), *(noted(markdown(c.text), c.note) for c in row.cells)]


def published_name(name: str) -> str:
    """The name of a checkpoint on the Hugging Face hub ("owner/model"); empty for any other."""
    return name if _PUBLISHED.fullmatch(name) else ""


def _quoted(text: Any) -> str:
    """A string for YAML, which reads JSON's."""
    return json.dumps(str(text))


# ---- what it is ------------------------------------------------------------------------------------------


def _origin(results: Mapping[str, Any]) -> dict[str, Any]:
    model = at(results, "config", "model")
    name = plain(at(model, "name"))
    random = at(results, "model", "weights") == "random" or name.startswith("random:")
    shape = name.removeprefix("random:")
    last = re.split(r"[/\\]", shape.rstrip("/\\"))[-1]
    trains = plain(at(results, "model", "trains") or at(model, "encoder", "trains"))
    top = trains.removeprefix("top:")
    layers = "layer" if top == "1" else f"{top} layers"
    return {
        "name": last,
        "published": "" if random else published_name(name),
        "random": random,
        "sha256": plain(at(results, "model", "sha256") or at(model, "encoder", "sha256")),
        "trains": trains,
        "trained": PARTS.get(trains, f"the emotion head and the uppermost {layers} of the encoder"),
        "parameters": count(at(results, "model", "parameters")),
        "travels": count(at(results, "model", "travels")),
        "versions": ", ".join(
            f"{package} {plain(at(results, 'versions', package))}"
            for package in ("fedunlearn", "torch", "transformers")
            if at(results, "versions", package)
        ),
        "seed": plain(at(results, "seed")),
    }


def _speech(results: Mapping[str, Any]) -> dict[str, Any]:
    corpus, final = at(results, "corpus"), final_model(results)
    return {
        "corpus": plain(at(corpus, "name")),
        "generated": at(corpus, "name") == "synthetic",
        "emotions": [plain(emotion) for emotion in rows(at(corpus, "emotions"))],
        "counts": {
            name: count(at(corpus, name)) for name in ("utterances", "speakers", "clients", "unseen_speakers")
        },
        "kept": count(at(results, "models", final, "retain", "n")),
        "rounds": count(at(results, "config", "training", "rounds")),
        "unseen_uar": fraction(at(results, "models", final, "unseen", "uar")),
        "test_uar": fraction(at(results, "models", final, "test", "uar")),
    }


# ---- what was deleted, and how ---------------------------------------------------------------------------


def _deleted(results: Mapping[str, Any]) -> dict[str, Any]:
    people, unlearning = wishes(results), at(results, "config", "unlearning")
    method, sees = plain(at(unlearning, "method")), at(results, "unlearning", "sees")
    lines = [
        (
            wish.id,
            ", ".join(wish.clients),
            count(wish.utterances),
            count(wish.raised),
            count(wish.applied),
            wish.state,
            "–" if wish.waited is None else many(wish.waited, "round"),
        )
        for wish in people
    ]
    seen = {"forget": "the forget set alone: the utterances that are to be deleted, no others", **SEEN}
    served = any(wish.state not in CLOSED for wish in people)
    return {
        "asked": asked(results) if served else "",
        "closed": closed(results),
        "columns": REQUEST_COLUMNS,
        "requests": lines,
        "unlearned": not nothing_unlearned(results),
        "method": method,
        "upper": sees in SEEN,
        "sees": seen.get(str(sees), plain(sees)),
        "source": plain(at(results, "unlearning", "source")),
        "aggregation": plain(at(unlearning, "aggregation")),
        "recovery": count(at(results, "config", "recovery", "rounds")),
        "settings": _settings(results, method),
        "liars": liars(results),
    }


def _settings(results: Mapping[str, Any], method: str) -> str:
    """Those of the method that ran and of what follows it, as TOML."""
    config = at(results, "config")
    unlearning = {name: at(config, "unlearning", name) for name in ("method", "aggregation")}
    own = method.replace("-", "_")
    for name in (own, f"{own}_"):
        unlearning[name] = at(config, "unlearning", name)
    chosen = {"unlearning": unlearning, "recovery": at(config, "recovery")}
    if number_at(config, "privacy", "noise"):
        chosen["privacy"] = at(config, "privacy")
    return tomli_w.dumps(_known(chosen)).strip()


def _known(node: Mapping[str, Any]) -> dict[str, Any]:
    known = {str(k): _known(v) if isinstance(v, Mapping) else v for k, v in node.items()}
    return {name: value for name, value in known.items() if value is not None and value != {}}


# ---- evidence --------------------------------------------------------------------------------------------


def _evidence(results: Mapping[str, Any]) -> dict[str, Any]:
    finding, final = find(results), final_model(results)
    compared = isinstance(at(results, "models"), Mapping)
    stages = [at(results, "attacks", attack, "stages", final) for attack in ("ulira", "informed")]
    found = at(results, "traces", "found")
    return {
        "compared": compared,
        "headline": finding.headline,
        "remarks": finding.remarks,
        "green": finding.tone == "good",
        "models": models_table(results) if compared else None,
        "gaps": gap_table(results) if compared else None,
        "rho": rho_words(results),
        "attacks": attack_table(results) if compared else None,
        "attack_words": attack_words(results),
        "attacked": any(number_at(stage, "auc") is not None for stage in stages),
        "searched": None if found is None or at(results, "traces", "unsearched") else len(rows(found)),
    }


def _alarm(results: Mapping[str, Any]) -> str:
    """What went wrong with the run, in the card's own words: reasons may name files. Empty where nothing."""
    status = at(results, "status")
    if status == "complete":
        return ""
    left = [wish for wish in wishes(results) if wish.state not in (*FULFILLED, *CLOSED)]
    still = f" Still open: {', '.join(f'{w.id} ({w.state})' for w in left[:8])}" if left else ""
    still += f" and {len(left) - 8} more." if len(left) > 8 else "." if left else ""
    if not at(results, "models"):
        return f"The run that this model is from did not come to its end ({plain(status)}).{still}"
    return f"The run that this model is from is {plain(status)}: not all that was asked was done.{still}"
