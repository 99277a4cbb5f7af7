"""Unlearning methods, one file each.

METHODS see the forget set alone, by the type ``contract.Method``. REFERENCES see more than the forget set,
and each says what by the type of its card (``upper_reference``).
"""

from fedunlearn.errors import BadInput
from fedunlearn.unlearning.contract import MethodCard
from fedunlearn.unlearning.methods import (
    amun_forget,
    boundary_shrink,
    calm,
    delete,
    destroy,
    gradient_ascent,
    l2ul,
    none,
    pga,
    random_label,
    salun,
)
from fedunlearn.unlearning.privileged import fed_eraser, fine_tune, neggrad_plus, retrained, scrub
from fedunlearn.unlearning.privileged import not_ as weight_negation
from fedunlearn.unlearning.privileged.contract import PrivilegedCard

METHODS: dict[str, MethodCard] = {
    card.name: card
    for card in (
        calm.CARD,
        l2ul.CARD,
        random_label.CARD,
        gradient_ascent.CARD,
        boundary_shrink.CARD,
        delete.CARD,
        amun_forget.CARD,
        pga.CARD,
        salun.CARD,
        none.CARD,
        destroy.CARD,
    )
}
"""Every method that sees the forget set alone, by the name that ``unlearning.method`` takes."""

PRIVILEGED: dict[str, PrivilegedCard] = {
    card.name: card
    for card in (
        fine_tune.CARD,
        neggrad_plus.CARD,
        scrub.CARD,
        weight_negation.CARD,
        fed_eraser.CARD,
        retrained.CARD,
    )
}
"""Every upper reference, by the name that ``unlearning.method`` takes."""


def method_named(name: str) -> MethodCard | PrivilegedCard:
    """The method or upper reference of this name.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    known: dict[str, MethodCard | PrivilegedCard] = {**METHODS, **PRIVILEGED}
    if name not in known:
        raise BadInput(f'unlearning.method: there is no "{name}"; known: {", ".join(sorted(known))}')
    return known[name]
