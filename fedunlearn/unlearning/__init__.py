"""Unlearning methods, one file each, all of the type ``contract.Method``."""

from fedunlearn.errors import BadInput
from fedunlearn.unlearning import (
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
from fedunlearn.unlearning.contract import MethodCard

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
"""Every method by the name that ``unlearning.method`` takes."""


def method_named(name: str) -> MethodCard:
    """The method of this name.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise BadInput(f'unlearning.method: there is no "{name}"; known: {", ".join(sorted(METHODS))}')
    return METHODS[name]
