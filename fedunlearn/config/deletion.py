"""Settings of deletions: who takes what back, and when."""

from typing import Literal, Self

from pydantic import model_validator

from fedunlearn.config.fields import AtLeastOne, Count, Fraction, Settings


class ScheduledDeletion(Settings):
    """One deletion that a client will raise by itself.

    Attributes:
        client: which client, 0 ...
        what: "all" its utterances; "some": ``count`` drawn at random; "emotion": all of one emotion;
            "named": the ids in ``utterances``.
        count, emotion, utterances: see ``what``.
        round: raised when this many ordinary rounds are done (0 = before the first). Or else:
        after_learning: raised this many rounds after the last ordinary one.
        Give exactly one of ``round`` and ``after_learning``.
    """

    client: Count
    what: Literal["all", "some", "emotion", "named"] = "all"
    count: Count = 0
    emotion: str = ""
    utterances: tuple[str, ...] = ()
    round: Count | None = None
    after_learning: Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.round is None) == (self.after_learning is None):
            raise ValueError("give exactly one of round and after_learning")
        given = {"some": self.count > 0, "emotion": bool(self.emotion), "named": bool(self.utterances)}
        needed = {"some": "count", "emotion": "emotion", "named": "utterances"}
        for what, present in given.items():
            if self.what == what and not present:
                raise ValueError(f'what = "{what}" needs {needed[what]}')
            if self.what != what and present:
                raise ValueError(f'{needed[what]} is given, but what = "{self.what}" does not read it')
        return self


class DeletionSettings(Settings):
    """Where deletion requests come from: a schedule, and random arrivals.

    Attributes:
        schedule: deletions with a date.
        rate: chance that a client raises a request in any one ordinary round, in [0, 1].
        rate_count: utterances per random request; a client with fewer left deletes all it has.
        window: rounds that a request waits, so that others may be served with it; 0 = none.
        patience: listenings after the last planned one in which what is open is tried again.
    """

    schedule: tuple[ScheduledDeletion, ...] = (
        ScheduledDeletion(client=0, what="all", after_learning=0),
        ScheduledDeletion(client=1, what="some", count=20, after_learning=5),
        ScheduledDeletion(client=2, what="some", count=12, after_learning=10),
        ScheduledDeletion(client=3, what="some", count=12, after_learning=10),
    )
    rate: Fraction = 0.0
    rate_count: AtLeastOne = 5
    window: Count = 0
    patience: Count = 3
