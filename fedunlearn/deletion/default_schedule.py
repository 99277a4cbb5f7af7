"""The default schedule of deletions, fitted to a corpus that is too small for it."""

from collections.abc import Iterator

from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.partition import Partition

_ENOUGH_CLIENTS = 3
"""clients, so that two are left when one deletes everything"""


def is_default(settings: DeletionSettings) -> bool:
    """Say whether the schedule is the default one."""
    return settings.schedule == DeletionSettings().schedule


def fit_default_schedule(settings: DeletionSettings, partition: Partition) -> DeletionSettings:
    """Fit the default schedule to a partition.

    A client deletes everything only where two others are left, and otherwise at most half of its training
    utterances. Requests of clients that do not exist are dropped.

    Args:
        settings: of deletions.
        partition: which client holds what.

    Returns:
        the settings with a schedule that this partition allows; unchanged if the schedule is not the default.
    """
    if not is_default(settings):
        return settings
    return settings.model_copy(update={"schedule": tuple(_fitted(settings.schedule, partition))})


def _fitted(schedule: tuple[ScheduledDeletion, ...], partition: Partition) -> Iterator[ScheduledDeletion]:
    clients = len(partition.clients)
    largest = max(event.count for event in schedule)
    for event in schedule:
        if event.client >= clients:
            continue
        half = len(partition.clients[event.client].train) // 2
        if event.what == "all" and clients >= _ENOUGH_CLIENTS:
            yield event
        elif half:
            yield event.model_copy(update={"what": "some", "count": min(event.count or largest, half)})
