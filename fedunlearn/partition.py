"""Which client holds which utterances: disjoint training and held-out sets, and unseen speakers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedunlearn.config.partition import PartitionSettings
from fedunlearn.corpora.protocols import fold_speakers
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.seeding import rng_for

Split = Literal["train", "test"]

MOST_CLIENTS = 20
"""Clients of generated speech, and the most that ``partition.clients`` = "auto" makes of a corpus."""
_GENERATED_UNSEEN = 6


@dataclass(frozen=True)
class ClientShare:
    """The utterances of one client.

    Attributes:
        client: number of the client, counted from 0.
        train: the utterances it trains on, of which D_f and D_r are parts.
        test: the held-out utterances.
    """

    client: int
    train: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    @property
    def splits(self) -> tuple[tuple[Split, tuple[Utterance, ...]], ...]:
        """Both sets, by name."""
        return ("train", self.train), ("test", self.test)


@dataclass(frozen=True)
class Partition:
    """A partition of a corpus: every utterance is in exactly one place.

    Attributes:
        clients: the clients' utterances, in client order 0 ... N-1.
        unseen: all utterances of the speakers that no client holds.
    """

    clients: tuple[ClientShare, ...]
    unseen: tuple[Utterance, ...]

    @property
    def train(self) -> tuple[Utterance, ...]:
        """All utterances that the federation trains on, in client order."""
        return tuple(u for share in self.clients for u in share.train)

    @property
    def test(self) -> tuple[Utterance, ...]:
        """D_t: held-out utterances of the client speakers, in client order."""
        return tuple(u for share in self.clients for u in share.test)

    @cached_property
    def holders(self) -> dict[str, tuple[int, ...]]:
        """Map each speaker to the clients that hold their training or held-out speech, in client order."""
        found: dict[str, list[int]] = defaultdict(list)
        for share in self.clients:
            for speaker in {u.speaker for u in (*share.train, *share.test)}:
                found[speaker].append(share.client)
        return {speaker: tuple(clients) for speaker, clients in sorted(found.items())}

    def devices_of(self, client: int) -> dict[str, int]:
        """Count the devices of those speakers of a client who have more than one.

        Args:
            client: number of the client.

        Returns:
            Speaker -> number of clients that hold their speech, >= 2.
        """
        return {
            s: len(holders) for s, holders in self.holders.items() if client in holders and len(holders) > 1
        }


def with_counts(settings: PartitionSettings, speakers: int | None) -> PartitionSettings:
    """Work out the numbers of clients and of unseen speakers where they are "auto".

    A sixth of the speakers is unseen, as in the published protocols of RAVDESS (4 of 24), but never so many
    that a client is left without a speaker.

    Args:
        settings: of the partition.
        speakers: number of speakers of the corpus; None = generated speech, with as many as are needed.

    Returns:
        the settings with both numbers. Given numbers are kept, even if the corpus is too small for them.
    """
    clients, unseen = settings.clients, settings.unseen_speakers
    if speakers is None:
        unseen = _GENERATED_UNSEEN if unseen is None else unseen
        return settings.model_copy(update={"clients": clients or MOST_CLIENTS, "unseen_speakers": unseen})
    if unseen is None:
        least = 2 if speakers >= 6 else 1 if speakers >= 3 else 0
        spare = speakers - (clients or 1)
        unseen = max(0, min(max(least, (speakers + 3) // 6), spare))
    clients = clients or max(1, min(MOST_CLIENTS, speakers - unseen))
    return settings.model_copy(update={"clients": clients, "unseen_speakers": unseen})


def count_in(corpus: Corpus, settings: PartitionSettings) -> PartitionSettings:
    """Do as ``with_counts`` for a corpus; a fold has the number of unseen speakers that it has.

    Args:
        corpus: the corpus.
        settings: of the partition.

    Raises:
        BadInput: the corpus has no such fold.
    """
    if settings.fold:
        unseen = len(fold_speakers(corpus, settings.protocol, settings.fold))
        settings = settings.model_copy(update={"unseen_speakers": unseen})
    return with_counts(settings, len(corpus.speakers))


def partition_corpus(corpus: Corpus, settings: PartitionSettings, seed: int) -> Partition:
    """Partition a corpus over clients.

    Unseen speakers are the test speakers of ``fold``, or drawn at random, alternating between genders where
    the corpus names them. Each client speaker's utterances are split by emotion according to
    ``test_fraction`` (largest remainder). Those of a shared speaker go to their own client and the following
    ones in turn, with the emotions evenly spread.

    Args:
        corpus: the corpus.
        settings: number of clients, unseen speakers and so on.
        seed: seed of the experiment.

    Raises:
        BadInput: the fold is not known, fewer client speakers than clients or than shared ones, more devices
            than clients, or too little speech to hold any out.
    """
    rng = rng_for(seed, "partition")
    speakers = _genders_in_turn(corpus, rng)
    settings = count_in(corpus, settings)
    clients, unseen = settings.client_count, _unseen(corpus, settings, speakers)
    client_speakers = [speaker for speaker in speakers if speaker not in unseen]
    if len(client_speakers) < clients:
        raise BadInput(
            f"partition.clients is {clients}, but {corpus.name} leaves {len(client_speakers)} "
            f"client speakers ({len(speakers)} less {len(unseen)} unseen): a client needs at least one; "
            f"lower clients{'' if settings.fold else ' or partition.unseen_speakers'}"
        )
    _check_shared(settings, len(client_speakers))
    spoken: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        spoken[utterance.speaker].append(utterance)
    train: list[list[Utterance]] = [[] for _ in range(clients)]
    test: list[list[Utterance]] = [[] for _ in range(clients)]
    for client in range(clients):
        for place in range(client, len(client_speakers), clients):
            devices = settings.devices if place < settings.shared_speakers else 1
            parts = _split(spoken[client_speakers[place]], settings.test_fraction, rng)
            for kind, utterances in zip((train, test), parts, strict=True):
                for device in range(devices):
                    kind[(client + device) % clients] += utterances[device::devices]
    shares = []
    for client, (kept, held_out) in enumerate(zip(train, test, strict=True)):
        if not kept or not held_out:
            raise BadInput(
                f"client {client} has {len(kept)} training and {len(held_out)} held-out utterances; it needs "
                "some of both: change partition.test_fraction or give more speech"
            )
        shares.append(ClientShare(client, tuple(kept), tuple(held_out)))
    partition = Partition(tuple(shares), tuple(u for speaker in unseen for u in spoken[speaker]))
    _check(corpus, partition)
    return partition


def recorded_later(partition: Partition, settings: PartitionSettings, seed: int) -> dict[str, int]:
    """Draw the utterances that are recorded only in the course of the run.

    Args:
        partition: the partition.
        settings: ``settings.recordings`` says how many, where and when.
        seed: seed of the experiment.

    Returns:
        Utterance id -> number of rounds done when it is recorded, for those not present from the start.

    Raises:
        BadInput: there is no such client, or more utterances are named than it trains on.
    """
    later: dict[str, int] = {}
    problems = []
    for number, late in enumerate(settings.recordings):
        place = f"partition.recordings.{number}"
        if late.client >= len(partition.clients):
            last = len(partition.clients) - 1
            problems.append(f"{place}.client is {late.client}, but the clients are 0 to {last}")
            continue
        there = [u.id for u in partition.clients[late.client].train if u.id not in later]
        if late.count > len(there):
            problems.append(
                f"{place}.count is {late.count}, but client {late.client} has {len(there)} to record"
            )
            continue
        drawn = rng_for(seed, "recordings", number).permutation(len(there))[: late.count]
        later |= {there[i]: late.round for i in drawn.tolist()}
    if problems:
        raise BadInput(problems)
    return {utterance: round_ for utterance, round_ in later.items() if round_}


def _unseen(corpus: Corpus, settings: PartitionSettings, speakers: Sequence[str]) -> Sequence[str]:
    if settings.fold:
        return fold_speakers(corpus, settings.protocol, settings.fold)
    if settings.protocol:
        raise BadInput(
            f"partition.protocol is {settings.protocol!r}, but no fold is chosen; "
            "say which with partition.fold"
        )
    return speakers[: settings.unseen_count]


def _check_shared(settings: PartitionSettings, client_speakers: int) -> None:
    problems = []
    if settings.shared_speakers > client_speakers:
        problems.append(
            f"partition.shared_speakers is {settings.shared_speakers}, but there are {client_speakers} "
            "client speakers: lower it"
        )
    if settings.shared_speakers and settings.devices > settings.client_count:
        problems.append(
            f"partition.devices is {settings.devices}, but there are {settings.client_count} clients: "
            "lower it"
        )
    if problems:
        raise BadInput(problems)


def _genders_in_turn(corpus: Corpus, rng: np.random.Generator) -> list[str]:
    """All speakers in random order, alternating between genders as long as each lasts."""
    gender = {u.speaker: u.gender for u in corpus.utterances}
    groups: dict[str, list[str]] = defaultdict(list)
    for speaker in rng.permutation(np.array(corpus.speakers, dtype=object)):
        groups[gender[speaker]].append(speaker)
    queues = list(groups.values())
    return [q[i] for i in range(max(map(len, queues), default=0)) for q in queues if i < len(q)]


def _split(
    utterances: Sequence[Utterance], fraction: float, rng: np.random.Generator
) -> tuple[list[Utterance], list[Utterance]]:
    by_emotion: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_emotion[utterance.emotion].append(utterance)
    emotions = sorted(by_emotion)
    exact = np.array([fraction * len(by_emotion[e]) for e in emotions])
    take = np.floor(exact).astype(int)
    missing = round(fraction * len(utterances)) - int(take.sum())
    order = sorted(range(len(emotions)), key=lambda i: (-(exact[i] - take[i]), rng.random()))
    for i in order[: max(missing, 0)]:
        take[i] += 1
    kept: list[Utterance] = []
    held_out: list[Utterance] = []
    for emotion, count in zip(emotions, take, strict=True):
        drawn = set(rng.permutation(len(by_emotion[emotion]))[:count].tolist())
        for position, utterance in enumerate(by_emotion[emotion]):
            (held_out if position in drawn else kept).append(utterance)
    return kept, held_out


def _check(corpus: Corpus, partition: Partition) -> None:
    placed = [u.id for u in (*partition.train, *partition.test, *partition.unseen)]
    if sorted(placed) != sorted(u.id for u in corpus.utterances):
        raise AssertionError("partition: an utterance was lost or assigned twice")
    unseen = {u.speaker for u in partition.unseen}
    seen = {u.speaker for u in (*partition.train, *partition.test)}
    if unseen & seen:
        raise AssertionError("partition: an unseen speaker was assigned to a client")
