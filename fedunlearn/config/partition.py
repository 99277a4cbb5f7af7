"""Settings of the partition: which client holds which recordings, and from when on."""

from typing import Annotated

from pydantic import Field

from fedunlearn.config.fields import AUTO, LARGEST_SHAPE, AtLeastOne, Count, Settings, Shape


class LateRecordings(Settings):
    """Utterances that one client records only in the course of the run."""

    client: Count = Field(description="Number of the client, counted from 0.")
    count: AtLeastOne = Field(
        description="Number of its training utterances, drawn at random, that are recorded late."
    )
    round: Count = Field(
        description="The utterances exist once this many rounds are done, counting ordinary rounds and "
        "those after learning; 0 = from the start."
    )


class PartitionSettings(Settings):
    """Which client holds which speakers, and which speech is held out."""

    clients: Annotated[Shape | None, AUTO] = Field(
        default=None,
        description="Number of clients. The client speakers are assigned to them in turn. "
        '"auto": one for each client speaker, at most 20; generated speech has 20.',
    )
    unseen_speakers: Annotated[Annotated[int, Field(ge=0, le=LARGEST_SHAPE)] | None, AUTO] = Field(
        default=None,
        description="Number of speakers kept out of the federation, for the speaker-independent test. "
        '"auto": a sixth of all speakers, at least 2 of six or more and 1 of three or more, but never so '
        "many that fewer speakers than `partition.clients` are left; generated speech has 6.",
    )
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.2,
        description="Share of the utterances of each client speaker, by emotion, that is never trained on.",
    )
    shared_speakers: Count = Field(
        default=0,
        description="Number of client speakers whose utterances are spread over several clients (people "
        "with more than one device), the first ones in the order of assignment; 0 = every speaker is on one "
        "client.",
    )
    devices: Annotated[int, Field(ge=2, le=LARGEST_SHAPE)] = Field(
        default=2,
        description="Number of clients over which each shared speaker is spread, at most "
        "`partition.clients`.",
    )
    fold: Count = Field(
        default=0,
        description="Fold of the corpus's protocol (docs/corpora.md lists them), counted from 1: "
        "its test speakers are the unseen speakers, all others are client speakers, and "
        "`partition.unseen_speakers` is not read. 0 = unseen speakers are drawn at random.",
    )
    protocol: str = Field(
        default="",
        description='Name of the protocol that `partition.fold` counts in, such as "emobox"; empty = the '
        "corpus's first one.",
    )
    recordings: tuple[LateRecordings, ...] = Field(
        default=(),
        description="Training utterances that are recorded in the course of the run, one table each; the "
        "keys of a table are listed under `partition.recordings[]`.",
    )

    @property
    def client_count(self) -> int:
        """Number of clients of a resolved experiment.

        Raises:
            ValueError: it is still "auto".
        """
        return _known("clients", self.clients)

    @property
    def unseen_count(self) -> int:
        """Number of unseen speakers of a resolved experiment.

        Raises:
            ValueError: it is still "auto".
        """
        return _known("unseen_speakers", self.unseen_speakers)


def _known(name: str, number: int | None) -> int:
    if number is None:
        raise ValueError(f'partition.{name} is "auto": it is known only once the corpus has been read')
    return number
