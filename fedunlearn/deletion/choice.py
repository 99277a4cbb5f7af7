"""Which utterances a wish may mean."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from fedunlearn.deletion.inbox import Wish
from fedunlearn.vault.index import Entry

if TYPE_CHECKING:
    from fedunlearn.corpora.utterance import Utterance

Spoken = TypeVar("Spoken", Entry, "Utterance")
"""as a vault's index or as the corpus knows it"""


def matching(wish: Wish, spoken: Iterable[Spoken]) -> list[Spoken]:
    """Those that a wish may mean, in their own order; for "some", all that it is drawn from.

    Args:
        spoken: training and held-out utterances; for "some" the training ones alone.
    """
    if wish.what == "emotion":
        return [u for u in spoken if u.emotion == wish.emotion]
    if wish.what == "speaker":
        return [u for u in spoken if u.speaker == wish.speaker]
    if wish.what == "named":
        return [u for u in spoken if u.id in wish.utterances]
    return list(spoken)
