"""What a device tells the server of its requests: ids, counts, states and dates; nothing of the speech."""

from collections.abc import Mapping

from fedunlearn.config.fields import LARGEST
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.deletion.request_book import RequestBook
from fedunlearn.vault.index import Entry

Answer = dict[str, list[str] | list[int]]
"""Equally long lists, one place for each request: ids; counts (training utterances of it on this device);
states ("raised", "withdrawn", "refused" or "purged"); deadlines (rounds that are left, >= 0; -1 = none);
devices (how many hold speech of the same person); learned (how many of its utterances a training round has
used)."""


def answer(book: RequestBook, entries: Mapping[str, Entry], date: int, trained: int) -> Answer:
    """Every request raised by ``date``, in the order of the book.

    Args:
        entries: of the device's vault.
        date: rounds done. A run that goes on from an earlier date hears what had been raised by then.
        trained: the last date at which this device's training counted; -1 = never.
    """
    raised = [r for r in book.all() if r.round <= date]
    return {
        "ids": [r.id for r in raised],
        "counts": [r.count for r in raised],
        "states": [str(r.at(date)) for r in raised],
        "deadlines": [_left(r, date) for r in raised],
        "devices": [r.devices for r in raised],
        "learned": [
            sum(u in entries and entries[u].recorded <= trained for u in r.utterances) for r in raised
        ],
    }


def _left(request: DeletionRequest, date: int) -> int:
    if request.deadline is None:
        return -1
    return min(max(0, request.round + request.deadline - date), LARGEST)
