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
    "label mix, off by", "guessing alike", "guessing the corpus", "told from kept", "told from held-out"
)  # fmt: skip
GUARD_COLUMNS = ("what", "client", "request", "length", "limit", "drop", "silenced", "left of it")


def privacy_table(results: Mapping[str, Any]) -> list[Row]:
    """One line a request whose update came: what a curious server reads off it."""
    measured = [r for r in rows(at(results, "requests")) if at(r, "privacy") is not None]
    return [_privacy_row(request, at(request, "privacy")) for request in measured]


def _privacy_row(request: Any, told: Any) -> Row:
    mix = at(told, "label_mix")
    cells = (
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
