"""Settings of deletion requests: which client requests what, and when."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fedunlearn.config.fields import AtLeastOne, Count, Fraction, Settings


class ScheduledDeletion(Settings):
    """One deletion request that a client raises at a planned time."""

    client: Count = Field(description="Number of the client that raises the request, counted from 0.")
    what: Literal["all", "some", "emotion", "speaker", "named"] = Field(
        default="all",
        description='What the request covers. "all": every utterance of the client; "some": `count` '
        'training utterances drawn at random; "emotion": all utterances of one emotion; "speaker": all '
        'utterances of one speaker, on every client that holds any; "named": the ids listed in `utterances`.',
    )
    count: Count = Field(
        default=0, description='Number of utterances to draw. Read, and required, with what = "some".'
    )
    emotion: str = Field(
        default="", description='Emotion to delete. Read, and required, with what = "emotion".'
    )
    speaker: str = Field(
        default="", description='Speaker to delete. Read, and required, with what = "speaker".'
    )
    utterances: tuple[str, ...] = Field(
        default=(), description='Ids of the utterances to delete. Read, and required, with what = "named".'
    )
    round: Count | None = Field(
        default=None,
        description="The request is raised when this many ordinary rounds are done; 0 = before the first. "
        "Give exactly one of `round` and `after_learning`.",
    )
    after_learning: Count | None = Field(
        default=None,
        description="The request is raised this many rounds after the last ordinary round. Give exactly one "
        "of `round` and `after_learning`.",
    )
    deadline: Count = Field(
        default=0,
        description="Rounds after raising within which the request should be verified; 0 = the value of "
        "`deletions.deadline`.",
    )

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
    """Where deletion requests come from (a schedule and random arrivals) and how long they may wait."""

    schedule: tuple[ScheduledDeletion, ...] = Field(
        default=(
            ScheduledDeletion(client=0, what="all", after_learning=0),
            ScheduledDeletion(client=1, what="some", count=20, after_learning=5),
            ScheduledDeletion(client=2, what="some", count=12, after_learning=10),
            ScheduledDeletion(client=3, what="some", count=12, after_learning=10),
        ),
        description="Requests with a planned time, one table each; the keys of a table are listed under "
        "`deletions.schedule[]`. The default schedule is fitted to a small corpus: a client deletes at most "
        "half of its training utterances, or everything where two other clients are left.",
    )
    rate: Fraction = Field(
        default=0.0,
        description="Probability that a client raises a request in any one ordinary round; 0 = never.",
    )
    rate_count: AtLeastOne = Field(
        default=5,
        description="Utterances in a random request. A client that holds fewer deletes all it has.",
    )
    burst_rate: Fraction = Field(
        default=0.0, description="Probability that a burst of requests starts in any one round; 0 = never."
    )
    burst_clients: AtLeastOne = Field(
        default=3,
        description="Number of clients, drawn at random, that raise a request in the same round of a burst.",
    )
    leave_rate: Fraction = Field(
        default=0.0,
        description="Probability that a client asks for the deletion of everything it holds in any one "
        "round; 0 = never.",
    )
    arrive_for: Count = Field(
        default=0,
        description="Rounds after learning in which random requests still arrive; 0 = only during learning.",
    )
    deadline: Count = Field(
        default=0,
        description="Rounds after raising within which a request should be verified; 0 = no deadline.",
    )
    patience: Count = Field(
        default=3,
        description="Rounds for which the server keeps asking after the last planned round while a request "
        "is still open.",
    )
    window: Count = Field(
        default=0,
        description="Rounds for which a request waits so that others can be served in the same unlearn "
        "step; 0 = it is served at once.",
    )

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
