"""Settings of the partition: who holds what, and since when."""

from typing import Annotated

from pydantic import Field

from fedunlearn.config.fields import LARGEST_SHAPE, AtLeastOne, Count, Settings, Shape


class LateRecordings(Settings):
    """Speech that one client records only later.

    Attributes:
        client: which client, 0 ...
        count: how many of its training utterances, drawn at random.
        round: there once this many rounds are done, ordinary and after learning; 0 = from the start.
    """

    client: Count
    count: AtLeastOne
    round: Count


class PartitionSettings(Settings):
    """Who holds what, and since when.

    Attributes:
        clients: devices; client speakers are dealt to them in turn.
        unseen_speakers: speakers kept out of the federation, for the speaker-independent test.
        test_fraction: share of each client speaker's utterances that is never trained on, by emotion.
        shared_speakers: how many client speakers have their utterances dealt over several clients (people
            with more than one device), the first ones in the order of the deal; 0 = every speaker has one.
        devices: over how many clients each of these is dealt, 2 ... ``clients``.
        recordings: training speech that comes to be recorded in the course of the run.
    """

    clients: Shape = 20
    unseen_speakers: Annotated[int, Field(ge=0, le=LARGEST_SHAPE)] = 6
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    shared_speakers: Count = 0
    devices: Annotated[int, Field(ge=2, le=LARGEST_SHAPE)] = 2
    recordings: tuple[LateRecordings, ...] = ()
