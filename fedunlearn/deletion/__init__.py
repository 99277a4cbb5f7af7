"""Deletion as people live it: what may be asked, where requests come from, and what becomes of them.

``request``: a request and its states. ``inbox``: where a person's wish waits. ``book``: the device's own
record. ``schedule`` and ``arrivals``: the people whom a simulation plays. ``door``: where every wish becomes
a request, or is refused.
"""

from fedunlearn.deletion.admission import admit, raise_due
from fedunlearn.deletion.arrivals import any_while_learning, last_scheduled_round
from fedunlearn.deletion.inbox import Inbox, Wish
from fedunlearn.deletion.reply import answer
from fedunlearn.deletion.request import CLOSED, FOLLOWS, OVERDUE, DeletionRequest, ImpossibleStep, State, step
from fedunlearn.deletion.request_book import RequestBook
from fedunlearn.deletion.schedule import check_schedule
from fedunlearn.deletion.shared import note_devices

__all__ = [
    "CLOSED",
    "FOLLOWS",
    "OVERDUE",
    "DeletionRequest",
    "ImpossibleStep",
    "Inbox",
    "RequestBook",
    "State",
    "Wish",
    "admit",
    "answer",
    "any_while_learning",
    "check_schedule",
    "last_scheduled_round",
    "note_devices",
    "raise_due",
    "step",
]
