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

from fedunlearn.report.attacks import attack_notes, attack_table
from fedunlearn.report.faults import malicious_clients
from fedunlearn.report.finding import (
    count_closed,
    count_requests,
    find,
)
from fedunlearn.report.gaps import gap_table, rho_sentence
from fedunlearn.report.names import method_name, privileged_data, sees_tickets
from fedunlearn.report.request_view import CLOSED, FULFILLED, view_requests
from fedunlearn.report.side_by_side import models_table
from fedunlearn.report.tables import Row
from fedunlearn.report.values import MISSING, count, fraction, many, number, plain
from fedunlearn.results_schema import Recognition, Results

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
_BUNDLED = "small"
"""The encoder that is installed with the package; a folder's name is an absolute path."""
_PUBLISHED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKS = re.compile(r"([\\`*_\[\]<>|#~$&])")


def model_card(results: Results) -> str:
    """The card as Markdown with a YAML head. The same results give the same text.

    Args:
        results: of a run; any part may be missing. The card of a run that ended early says so at its top, and
            what is not known is left out.
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


def _origin(results: Results) -> dict[str, Any]:
    name = plain(results.setting("model", "name"))
    random = results.model.weights == "random" or name.startswith("random:")
    shape = name.removeprefix("random:")
    last = re.split(r"[/\\]", shape.rstrip("/\\"))[-1]
    trains = plain(results.model.trains or results.setting("model", "encoder", "trains"))
    part, _, top = trains.partition(":")
    layers = f"the uppermost {'layer' if top == '1' else f'{top} layers'}"
    adapters = f"the emotion head and low-rank adapters (LoRA) in {layers}, merged into the weights here"
    upper = adapters if part == "lora" else f"the emotion head and {layers} of the encoder"
    return {
        "name": last,
        "published": "" if random else published_name(name),
        "random": random,
        "bundled": name == _BUNDLED,
        "sha256": plain(results.model.sha256 or results.setting("model", "encoder", "sha256")),
        "trains": trains,
        "trained": PARTS.get(trains, upper),
        "parameters": count(results.model.parameters),
        "travels": count(results.model.travels),
        "versions": ", ".join(
            f"{package} {results.versions[package]}"
            for package in ("fedunlearn", "torch", "transformers")
            if package in results.versions
        ),
        "seed": plain(results.seed),
    }


def _speech(results: Results) -> dict[str, Any]:
    corpus, final = results.corpus, results.models[results.final_model]
    return {
        "corpus": plain(corpus.name),
        "generated": corpus.name == "synthetic",
        "emotions": corpus.emotions,
        "counts": {
            "utterances": count(corpus.utterances),
            "speakers": count(corpus.speakers),
            "clients": count(corpus.clients),
            "unseen_speakers": count(corpus.unseen_speakers),
        },
        "kept": count(final.retain.n),
        "rounds": count(results.setting("training", "rounds")),
        "unseen": _recognition(final.unseen),
        "test": _recognition(final.test),
    }


def _recognition(found: Recognition) -> str:
    numbers = (("WA", found.accuracy), ("macro F1", found.macro_f1))
    more = ", ".join(f"{name} {fraction(value)}" for name, value in numbers if value is not None)
    return fraction(found.uar) + (f" ({more})" if more else "")


# ---- what was deleted, and how ---------------------------------------------------------------------------


def _deleted(results: Results) -> dict[str, Any]:
    requests, method = view_requests(results), method_name(results)
    rows = [
        (
            request.id,
            ", ".join(request.clients),
            count(request.utterances),
            count(request.raised),
            count(request.applied),
            request.state,
            MISSING if request.waited is None else many(request.waited, "round"),
        )
        for request in requests
    ]
    privileged = privileged_data(results)
    alone = "the forget set alone: the utterances that are to be deleted, no others"
    ticketed = "the forget set, and what the device noted of it while the model learned, its tickets"
    sees = alone if results.unlearning.sees == "forget" else plain(results.unlearning.sees)
    sees = ticketed if sees_tickets(results) else sees
    served = any(request.state not in CLOSED for request in requests)
    return {
        "requested": count_requests(results) if served else "",
        "closed": count_closed(results),
        "columns": REQUEST_COLUMNS,
        "requests": rows,
        "unlearned": not results.nothing_unlearned,
        "method": method,
        "retrained": method == "retrained",
        "privileged": bool(privileged),
        "sees": privileged or sees,
        "source": plain(results.unlearning.source),
        "aggregation": plain(results.setting("unlearning", "aggregation")),
        "recovery": count(results.setting("recovery", "rounds")),
        "settings": _settings(results, method),
        "malicious": malicious_clients(results),
    }


def _settings(results: Results, method: str) -> str:
    """Those of the method that ran and of what follows it, as TOML."""
    own = method.replace("-", "_")
    names = ("method", "aggregation", own, f"{own}_")
    unlearning = {name: results.setting("unlearning", name) for name in names}
    chosen = {"unlearning": unlearning, "recovery": results.setting("recovery")}
    if number(results.setting("privacy", "noise")):
        chosen["privacy"] = results.setting("privacy")
    return tomli_w.dumps(_known(chosen)).strip()


def _known(node: Mapping[str, Any]) -> dict[str, Any]:
    known = {str(k): _known(v) if isinstance(v, Mapping) else v for k, v in node.items()}
    return {name: value for name, value in known.items() if value is not None and value != {}}


# ---- evidence --------------------------------------------------------------------------------------------


def _evidence(results: Results) -> dict[str, Any]:
    finding, final, compared = find(results), results.final_model, bool(results.models)
    attacks = (results.attacks.ulira, results.attacks.informed)
    found = results.traces.found
    return {
        "compared": compared,
        "headline": finding.headline,
        "caveats": finding.caveats,
        "remarks": finding.remarks,
        "green": finding.tone == "good",
        "models": models_table(results) if compared else None,
        "gaps": gap_table(results) if compared else None,
        "rho": rho_sentence(results),
        "attacks": attack_table(results) if compared else None,
        "attack_notes": attack_notes(results),
        "attacked": any(attack.stages[final].auc is not None for attack in attacks),
        "searched": None if found is None or results.traces.unsearched else len(found),
    }


def _alarm(results: Results) -> str:
    """What went wrong with the run, in the card's own words: reasons may name files. Empty where nothing."""
    if results.status == "complete":
        return ""
    left = [r for r in view_requests(results) if r.state not in (*FULFILLED, *CLOSED)]
    still = f" Still open: {', '.join(f'{r.id} ({r.state})' for r in left[:8])}" if left else ""
    still += f" and {len(left) - 8} more." if len(left) > 8 else "." if still else ""
    status = plain(results.status)
    if not results.models:
        return f"The run that this model is from did not come to its end ({status}).{still}"
    return f"The run that this model is from is {status}: not all that was requested was done.{still}"
