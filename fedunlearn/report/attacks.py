"""Membership attacks: who tells deleted speech from speech never heard, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.names import MODELS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import (
    MISSING,
    at,
    between,
    count,
    fraction,
    interval_at,
    many,
    number_at,
    plain,
    rows,
    significant,
)

RATES = ("0.01", "0.001")
"""false-positive rates, as results.json writes them"""


@dataclass(frozen=True)
class Attack:
    """An attack and what it reached against each model.

    Attributes:
        stages: model -> record with auc, low, high, tpr_at, roc, each of which may be missing.
        members, others: how many the attack tells apart, by model; None where unknown.
        why: why there are no numbers; empty where there are.
    """

    name: str
    title: str
    word: str
    stages: Mapping[str, Any]
    members: Mapping[str, float | None]
    others: Mapping[str, float | None]
    why: str = ""


def attacks(results: Mapping[str, Any]) -> list[Attack]:
    """Those with a number or a reason why there is none, weakest first."""
    found = []
    populations = (
        ("population", "Population attack", "membership", "membership"),
        ("same-speaker", "Population attack, same speaker", "same-speaker", "membership_same_speaker"),
    )
    for name, title, word, part in populations:
        stages = {model: at(results, "models", model, part) for model in MODELS}
        members = {model: number_at(stage, "n") for model, stage in stages.items()}
        compared = MODELS if name == "population" else ()
        others = {model: number_at(results, "models", model, "test", "n") for model in compared}
        found.append(Attack(name, title, word, _known(stages), members, others))
    for name, title in (("ulira", "U-LiRA"), ("informed", "Informed attack")):
        record = at(results, "attacks", name)
        stages = _known({model: at(record, "stages", model) for model in MODELS})
        members = {model: number_at(stage, "n_in") for model, stage in stages.items()}
        others = {model: number_at(stage, "n_out") for model, stage in stages.items()}
        why = "" if stages else str(at(record, "why") or "")
        found.append(Attack(name, title, name, stages, members, others, why))
    return [attack for attack in found if attack.stages or attack.why]


def _known(stages: Mapping[str, Any]) -> dict[str, Any]:
    return {model: stage for model, stage in stages.items() if number_at(stage, "auc") is not None}


def attack_table(results: Mapping[str, Any]) -> Table | None:
    """AUC and true-positive rate at 1 % and 0.1 % false positives, with intervals; None without any."""
    found = [attack for attack in attacks(results) if attack.stages]
    if not found:
        return None
    heads = (
        ("AUC", "membership"),
        ("TPR at 1% FPR", "roc"),
        ("TPR at 0.1% FPR", "roc"),
        ("deleted", ""),
        ("others", ""),
    )
    lines = []
    for attack in found:
        lines.append(Row(attack.title, "", (), attack.word))
        lines += [_line(attack, model, stage) for model, stage in attack.stages.items()]
    return Table((Column("model"), *(Column(*head) for head in heads)), tuple(lines))


def _line(attack: Attack, model: str, stage: Any) -> Row:
    others = attack.others.get(model)
    cells = (
        Cell(fraction(at(stage, "auc")), between(interval_at(stage))),
        *(_rate(at(stage, "tpr_at", rate), float(rate), others) for rate in RATES),
        Cell(count(attack.members.get(model)), _left_out(stage)),
        Cell(count(others)),
    )
    return Row(model, "", cells, reference=model == "retrained")


def _left_out(stage: Any) -> str:
    left = number_at(stage, "left_out")
    return f"{many(left, 'utterance')} left out" if left else ""


def _rate(found: Any, rate: float, others: float | None) -> Cell:
    value = at(found, "value") if isinstance(found, Mapping) else found
    if number_at({"value": value}, "value") is None:
        return Cell(MISSING)
    interval = between(interval_at(found)) if isinstance(found, Mapping) else ""
    few = "too few to say" if others is not None and others * rate < 1 else ""
    return Cell(fraction(value), "\n".join(filter(None, (interval, few))))


def request_attacks(results: Mapping[str, Any]) -> Table | None:
    """The informed attack request by request, trained on the others; None where there is none."""
    stages = {
        model: rows(at(results, "attacks", "informed", "stages", model, "requests")) for model in MODELS
    }
    shown = [model for model, listed in stages.items() if listed]
    named = {plain(at(entry, "request")): entry for model in shown for entry in stages[model]}
    if not named:
        return None
    lines = []
    for name, entry in named.items():
        cells = [Cell(_of(stages[model], name)) for model in shown]
        lines.append(
            Row(name, f"client {plain(at(entry, 'client'))}, n = {count(at(entry, 'n'))}", tuple(cells))
        )
    return Table((Column("request"), *(Column(model, model, model=model) for model in shown)), tuple(lines))


def _of(listed: Sequence[Any], name: str) -> str:
    return next((fraction(at(e, "auc")) for e in listed if plain(at(e, "request")) == name), MISSING)


def attack_words(results: Mapping[str, Any]) -> list[str]:
    """How the per-utterance attacks were made, whether their shadows are like the run, what is missing."""
    if at(results, "attacks") is None:
        known = at(results, "models") is not None
        why = " (evaluation.shadows = 0)" if at(results, "config", "evaluation", "shadows") == 0 else ""
        return [f"Attacks on single utterances (U-LiRA, informed): not run{why}."] if known else []
    shadowed = any(attack.stages for attack in attacks(results) if attack.name in ("ulira", "informed"))
    shadows, candidates = (number_at(results, "attacks", name) for name in ("shadows", "candidates"))
    said = []
    if shadows is not None:
        of = f" of the {many(candidates, 'candidate')}" if candidates is not None else " of the candidates"
        said.append(
            f"{many(shadows, 'shadow federation')}, each trained with a random half{of} and then unlearned. "
            f"{_replay(results)}".strip()
        )
    if shadowed:
        said.append(
            "U-LiRA and the informed attack are tried on the shadows, and count an utterance once a shadow. "
            "They have no retrained model's row: half of the shadows never heard the utterance, and the aim "
            "is an AUC of 0.5."
        )
    said += [f"{a.title}: {a.why.rstrip('.')}." for a in attacks(results) if a.why]
    return said


def _replay(results: Mapping[str, Any]) -> str:
    exact = at(results, "attacks", "replay", "exact")
    off = number_at(results, "attacks", "replay", "difference")
    if exact is True:
        return "The shadows replay the run exactly: with its own speech they end at its very weights."
    if off is None:
        return ""
    departures = [plain(text) for text in rows(at(results, "attacks", "replay", "departures"))]
    why = f" ({'; '.join(departures)})" if departures else ""
    return (
        "The shadows do not replay the run exactly: with its own speech they end at other weights, by up to "
        f"{significant(off)}{why}."
    )
