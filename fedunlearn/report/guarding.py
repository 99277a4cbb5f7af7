"""What requests told, what the guard did, and who lied, as rows of ready-made text."""

from collections.abc import Mapping
from typing import Any

from fedunlearn.report.tables import Cell, Row
from fedunlearn.report.values import (
    MISSING,
    at,
    between,
    fraction,
    interval_at,
    number_at,
    plain,
    rows,
    significant,
)

PRIVACY_COLUMNS = (
    "features read off it",
    "off the models kept",
    "label mix, off by",
    "guessing alike",
    "guessing the corpus",
    "told from kept",
    "told from held-out",
)
TOO_FEW = 4
"""utterances: an update of fewer gives them away; as ``vault_calibration.FEWEST``"""
GIVEN_AWAY = 0.5
"""correlation with a deleted utterance's features from which on the page says that they are given away"""
GUARD_COLUMNS = ("what", "client", "request", "length", "limit", "drop", "silenced", "left of it")


def privacy_table(results: Mapping[str, Any]) -> list[Row]:
    """One line a request whose update came: what a curious server reads off it."""
    measured = [r for r in rows(at(results, "requests")) if at(r, "privacy") is not None]
    kept = {(at(row, "request"), at(row, "client")): row for row in rows(at(results, "kept"))}
    return [
        _privacy_row(request, at(request, "privacy"), kept.get((at(request, "id"), at(request, "client"))))
        for request in measured
    ]


def given_away(results: Mapping[str, Any]) -> str:
    """Sentences where updates, or the models that the run folder keeps, give deleted utterances away."""
    sent = [r for r in rows(at(results, "requests")) if at(r, "privacy") is not None]
    few = sum(0 < (number_at(r, "utterances") or 0) < TOO_FEW for r in sent)
    updates = [number_at(at(r, "privacy"), "reconstruction", "r") for r in rows(at(results, "requests"))]
    kept = [number_at(row, "r") for row in rows(at(results, "kept"))]
    parts = []
    if few:
        which = f"{few} of {len(sent)} requests are" if len(sent) > 1 else "The request is"
        parts.append(f"{which} of fewer than {TOO_FEW} utterances: an update of so few gives them away.")
    for found, where in ((updates, "The updates of {} give"), (kept, "The models kept for {} give")):
        told = [r for r in found if r is not None and r >= GIVEN_AWAY]
        if told:
            many = f"{len(told)} of {len(found)} requests" if len(found) > 1 else "this request"
            parts.append(
                f"{where.format(many)} deleted utterances away: their features are read off with a "
                f"correlation of up to {fraction(max(told))}."
            )
    return " ".join(parts)


def _privacy_row(request: Any, told: Any, kept: Any) -> Row:
    mix = at(told, "label_mix")
    cells = (
        _rebuilt(at(told, "reconstruction")),
        _rebuilt(kept),
        Cell(fraction(at(mix, "tv")), str(at(mix, "attack") or "")),
        Cell(fraction(at(mix, "uniform")), reference=True),
        Cell(fraction(at(mix, "corpus")), reference=True),
        _told(told, "membership", "kept"),
        _told(told, "membership_held_out", "held-out"),
    )
    noise = at(request, "noise")
    epsilon = number_at(noise, "epsilon")
    worth = "" if epsilon is None else f"noise: epsilon {significant(epsilon)} at delta {at(noise, 'delta')}"
    return Row(plain(at(request, "id")), worth, cells)


def _rebuilt(found: Any) -> Cell:
    if number_at(found, "r") is None:
        return Cell(MISSING)
    others = number_at(found, "r_others")
    notes = [" to ".join(plain(name) for name in rows(at(found, "between")))]
    notes.append("" if others is None else f"others {fraction(others)}")
    return Cell(fraction(at(found, "r")), ", ".join(note for note in notes if note))


def _told(told: Any, name: str, against: str) -> Cell:
    found = at(told, name)
    if found is None or at(found, "against") != against:
        return Cell(MISSING)
    return Cell(
        fraction(at(found, "auc")), f"{between(interval_at(found))} {plain(at(found, 'attack'))}".strip()
    )


def guard_table(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One line an intervention, its round first."""
    return [
        (
            plain(at(i, "round")),
            plain(at(i, "what")),
            plain(at(i, "client")),
            ", ".join(plain(name) for name in rows(at(i, "requests"))) or MISSING,
            significant(at(i, "norm")),
            significant(at(i, "limit")),
            fraction(at(i, "drop")),
            fraction(at(i, "silenced")),
            fraction(at(i, "factor")),
        )
        for i in rows(at(results, "guard"))
    ]


def liars(results: Mapping[str, Any]) -> str:
    """One sentence on the clients that lie in this run; empty where nobody does."""
    named = at(results, "attackers")
    if not rows(at(named, "clients")):
        return ""
    who = ", ".join(plain(client) for client in rows(at(named, "clients")))
    how = f"{plain(at(named, 'kind'))}, factor {significant(at(named, 'factor'))}"
    return f"test client{'s' if ',' in who else ''} {who} lie{'' if ',' in who else 's'} ({how})"
