"""Membership attacks: how well deleted utterances are distinguished from others, and how certain that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedunlearn.report.names import MODELS
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import (
    MISSING,
    bracketed,
    count,
    fraction,
    interval,
    many,
    plain,
    significant,
)
from fedunlearn.results_schema import (
    MembershipAttack,
    RateWithInterval,
    RequestAttack,
    Results,
    ShadowAttackReport,
    ShadowAttackScores,
)

RATES = ("0.01", "0.001")
"""false-positive rates, as results.json writes them"""
SHADOWED = ("original", "unlearned", "recovered")
"""models that the attacks with shadow federations are tried on"""

AttackScores = MembershipAttack | ShadowAttackScores


@dataclass(frozen=True)
class Attack:
    """An attack and what it reached against each model.

    Attributes:
        name: population, same-speaker, ulira or informed.
        title: what it is called on the page.
        word: the entry of the glossary that explains it.
        scores: model -> what it reached; only those with an AUC.
        members: model -> number of deleted utterances; None where unknown.
        others: model -> number of utterances they are distinguished from; None where unknown.
        why: why there are no numbers; empty where there are.
    """

    name: str
    title: str
    word: str
    scores: Mapping[str, AttackScores]
    members: Mapping[str, int | None]
    others: Mapping[str, int | None]
    why: str = ""


def list_attacks(results: Results) -> list[Attack]:
    """Those with a number or a reason why there is none, weakest first."""
    found = [
        _population(results),
        _same_speaker(results),
        _shadow_attack("ulira", "U-LiRA", results.attacks.ulira),
        _shadow_attack("informed", "Informed attack", results.attacks.informed),
    ]
    return [attack for attack in found if attack.scores or attack.why]


def _population(results: Results) -> Attack:
    scores = {model: results.models[model].membership for model in MODELS}
    members = {model: attack.n for model, attack in scores.items()}
    others = {model: results.models[model].test.n for model in MODELS}
    return Attack("population", "Population attack", "membership", _known(scores), members, others)


def _same_speaker(results: Results) -> Attack:
    scores = {model: results.models[model].membership_same_speaker for model in MODELS}
    members = {model: attack.n for model, attack in scores.items()}
    title = "Population attack, same speaker"
    return Attack("same-speaker", title, "same-speaker", _known(scores), members, {})


def _shadow_attack(name: str, title: str, report: ShadowAttackReport) -> Attack:
    scores = {model: report.stages[model] for model in SHADOWED}
    known = _known(scores)
    members = {model: found.n_in for model, found in scores.items()}
    others = {model: found.n_out for model, found in scores.items()}
    return Attack(name, title, name, known, members, others, "" if known else report.why or "")


def _known(scores: Mapping[str, AttackScores]) -> dict[str, AttackScores]:
    return {model: found for model, found in scores.items() if found.auc is not None}


def attack_table(results: Results) -> Table | None:
    """AUC and true-positive rate at 1 % and 0.1 % false positives, with intervals; None without any."""
    found = [attack for attack in list_attacks(results) if attack.scores]
    if not found:
        return None
    heads = (
        ("AUC", "membership"),
        ("TPR at 1% FPR", "roc"),
        ("TPR at 0.1% FPR", "roc"),
        ("deleted", ""),
        ("others", ""),
    )
    rows = []
    for attack in found:
        rows.append(Row(attack.title, word=attack.word))
        rows += [_row(attack, model, scores) for model, scores in attack.scores.items()]
    return Table((Column("model"), *(Column(*head) for head in heads)), tuple(rows))


def _row(attack: Attack, model: str, scores: AttackScores) -> Row:
    others = attack.others.get(model)
    left_out = scores.left_out if isinstance(scores, ShadowAttackScores) else None
    cells = (
        Cell(fraction(scores.auc), bracketed(interval(scores))),
        *(_rate(scores.tpr_at.get(rate), float(rate), others) for rate in RATES),
        Cell(count(attack.members.get(model)), f"{many(left_out, 'utterance')} left out" if left_out else ""),
        Cell(count(others)),
    )
    return Row(model, "", cells, reference=model == "retrained")


def _rate(found: RateWithInterval | float | None, rate: float, others: int | None) -> Cell:
    value, ends = (found.value, interval(found)) if isinstance(found, RateWithInterval) else (found, None)
    if value is None:
        return Cell(MISSING)
    few = "too few to say" if others is not None and others * rate < 1 else ""
    return Cell(fraction(value), "\n".join(filter(None, (bracketed(ends), few))))


def request_attacks(results: Results) -> Table | None:
    """The informed attack request by request, trained on the others; None where there is none."""
    stages = results.attacks.informed.stages
    scores = {model: stages[model].requests for model in SHADOWED if stages[model].requests}
    named = {plain(entry.request): entry for listed in scores.values() for entry in listed}
    if not named:
        return None
    rows = []
    for name, entry in named.items():
        cells = tuple(_request_cell(listed, name) for listed in scores.values())
        rows.append(Row(name, f"client {plain(entry.client)}, n = {count(entry.n)}", cells))
    return Table((Column("request"), *(Column(model, model, model=model) for model in scores)), tuple(rows))


def klom_table(results: Results) -> Table | None:
    """KL divergence of margins of the shadow models, and its value by chance; None where there is none."""
    report = results.attacks.klom
    named = {
        **{"original": report.original, "unlearned": report.unlearned, "recovered": report.recovered},
        "never heard": report.null,
    }
    rows = []
    for name, scores in named.items():
        if scores.mean is None:
            continue
        null = scores is report.null
        note = "against each other: chance" if null else ""
        numbers = (scores.median, scores.mean, scores.p95, scores.gaussian)
        counts = (scores.n, scores.models)
        cells = (*(Cell(fraction(value)) for value in numbers), *(Cell(count(n)) for n in counts))
        rows.append(Row(name, note, cells, "klom", reference=null))
    heads = ("median", "mean", "95th percentile", "median of Gaussians", "utterances", "models")
    return Table((Column("model"), *map(Column, heads)), tuple(rows)) if rows else None


def _request_cell(listed: Sequence[RequestAttack], name: str) -> Cell:
    entry = next((entry for entry in listed if plain(entry.request) == name), RequestAttack.empty())
    rate = entry.tpr_at.get("0.01")
    return Cell(fraction(entry.auc), "" if rate is None else f"TPR at 1% FPR {fraction(rate)}")


def attack_notes(results: Results) -> list[str]:
    """How the per-utterance attacks were made, whether their shadows are like the run, what is missing."""
    report = results.attacks
    if not report:
        why = " (evaluation.shadows = 0)" if results.setting("evaluation", "shadows") == 0 else ""
        return [f"Attacks on single utterances (U-LiRA, informed): not run{why}."] if results.models else []
    attacks = list_attacks(results)
    notes = []
    if report.shadows is not None:
        known = report.candidates is not None
        of = f" of the {many(report.candidates or 0, 'candidate')}" if known else " of the candidates"
        notes.append(
            f"{many(report.shadows, 'shadow federation')}, each trained with a random half{of} and then "
            f"unlearned. {_replay(results)}".strip()
        )
    if any(attack.scores for attack in attacks if attack.name in ("ulira", "informed")):
        notes.append(
            "U-LiRA and the informed attack are evaluated on the shadow federations, and count an utterance "
            "once for each of them. They have no row of the retrained model: half of the shadow federations "
            "were never trained on the utterance, and the aim is an AUC of 0.5."
        )
    if report.klom.why:
        notes.append(f"KLoM: {report.klom.why.rstrip('.')}.")
    return notes + [f"{attack.title}: {attack.why.rstrip('.')}." for attack in attacks if attack.why]


def _replay(results: Results) -> str:
    replay = results.attacks.replay
    if replay.exact:
        return "They replay the run exactly: with the run's own utterances they end at its very weights."
    if replay.difference is None:
        return ""
    why = f" ({'; '.join(replay.departures)})" if replay.departures else ""
    return (
        "They do not replay the run exactly: with the run's own utterances they end at other weights, which "
        f"differ by up to {significant(replay.difference)}{why}."
    )
