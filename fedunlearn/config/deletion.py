"""Settings of deletions: who takes what back, and when."""

from typing import Literal, Self

from pydantic import model_validator

from fedunlearn.config.fields import AtLeastOne, Count, Fraction, Settings


class ScheduledDeletion(Settings):
    """One deletion that a client will raise by itself.

    Attributes:
        client: which client, 0 ...
        what: "all" its utterances; "some": ``count`` drawn at random; "emotion": all of one emotion;
            "speaker": all of one speaker, on every client that holds any; "named": the ids in
            ``utterances``.
        count, emotion, speaker, utterances: see ``what``.
        round: raised when this many ordinary rounds are done (0 = before the first). Or else:
        after_learning: raised this many rounds after the last ordinary one.
            Give exactly one of ``round`` and ``after_learning``.
        deadline: rounds after raising within which it should be verified; 0 = as ``deletions.deadline`` says.
    """

    client: Count
    what: Literal["all", "some", "emotion", "speaker", "named"] = "all"
    count: Count = 0
    emotion: str = ""
    speaker: str = ""
    utterances: tuple[str, ...] = ()
    round: Count | None = None
    after_learning: Count | None = None
    deadline: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.round is None) == (self.after_learning is None):
            raise ValueError("give exactly one of round and after_learning")
        needed = {"some": "count", "emotion": "emotion", "speaker": "speaker", "named": "utterances"}
        for what, field in needed.items():
            present = bool(getattr(self, field))
            if self.what == what and not present:
                raise ValueError(f'what = "{what}" needs {field}')
            if self.what != what and present:
                raise ValueError(f'{field} is given, but what = "{self.what}" does not read it')
        return self

    def raised_at(self, learning_rounds: int) -> int:
        """Return the rounds done when it is raised, those after learning included.

        Args:
            learning_rounds: ordinary training rounds of the experiment.
        """
        return self.round if self.round is not None else learning_rounds + (self.after_learning or 0)


class DeletionSettings(Settings):
    """Where deletion requests come from: a schedule, and random arrivals; and how long one waits for them.

    Attributes:
        schedule: deletions with a date.
        rate: chance that a client raises a request in any one ordinary round, in [0, 1]; 0 = never.
        rate_count: utterances per random request; a client with fewer left deletes all it has.
        burst_rate: chance that a burst begins in any one round, in [0, 1]; 0 = never.
        burst_clients: how many clients, drawn at random, then ask in that same round.
        leave_rate: chance that a client takes everything back in any one round, in [0, 1]; 0 = never.
        arrive_for: rounds after learning in which random requests still arrive; 0 = only while learning.
        deadline: rounds after raising within which a request should be verified; 0 = none.
        patience: rounds in which one goes on listening after the last planned one, while a request is open.
        window: rounds that a request waits so that others may be served with it; 0 = served at once.
    """

    schedule: tuple[ScheduledDeletion, ...] = (
        ScheduledDeletion(client=0, what="all", after_learning=0),
        ScheduledDeletion(client=1, what="some", count=20, after_learning=5),
        ScheduledDeletion(client=2, what="some", count=12, after_learning=10),
        ScheduledDeletion(client=3, what="some", count=12, after_learning=10),
    )
    rate: Fraction = 0.0
    rate_count: AtLeastOne = 5
    burst_rate: Fraction = 0.0
    burst_clients: AtLeastOne = 3
    leave_rate: Fraction = 0.0
    arrive_for: Count = 0
    deadline: Count = 0
    patience: Count = 3
    window: Count = 0

    def last_round(self, learning_rounds: int) -> int:
        """Return the rounds done when every planned request has been raised and random ones have ceased.

        Args:
            learning_rounds: ordinary training rounds of the experiment.

        Returns:
            at least ``learning_rounds``; random requests arrive up to ``arrive_for`` rounds from there
        """
        random = self.rate or self.burst_rate or self.leave_rate
        ceased = learning_rounds + self.arrive_for - 1 if random else 0
        return max([learning_rounds, ceased, *(event.raised_at(learning_rounds) for event in self.schedule)])
