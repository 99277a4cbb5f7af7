"""What speech a run was of, without any of it: digests by which studies of the same speech are known.

Resampled and generated samples may differ in the last bit from one processor to another, so no digest is of
samples. The digest of a corpus is of speakers (as numbers), emotions and lengths. Its level, which is
compared with a tolerance, changes where recordings were processed.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedunlearn.audio import PCM
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.partition import Partition


@dataclass(frozen=True)
class SpeechDigest:
    """The speech of a run.

    Attributes:
        corpus: SHA-256 of each utterance's speaker (numbered in order of name), emotion and length in
            samples.
        level: mean absolute sample over the corpus, 16-bit integers.
        partition: SHA-256 of the utterances (numbered in order of id) that each client trains on and holds
            out, and of those of unseen speakers.
    """

    corpus: str
    level: float
    partition: str


def digest_recordings(corpus: Corpus, pcm: Mapping[str, PCM]) -> tuple[str, float]:
    """Compute digest and level of a corpus.

    Args:
        corpus: its utterances.
        pcm: id -> int16 [S], of every utterance.

    Returns:
        ``SpeechDigest.corpus`` and ``SpeechDigest.level``; the level of a corpus without samples is 0.
    """
    numbers = {speaker: number for number, speaker in enumerate(corpus.speakers)}
    lines = (f"{numbers[u.speaker]}\t{u.emotion}\t{len(pcm[u.id])}" for u in corpus.utterances)
    recordings = [pcm[u.id] for u in corpus.utterances]
    total = sum(int(np.abs(one.astype(np.int32)).sum(dtype=np.int64)) for one in recordings)
    return _digest(lines), total / max(1, sum(map(len, recordings)))


def digest_partition(corpus: Corpus, partition: Partition) -> str:
    """Compute ``SpeechDigest.partition``.

    Args:
        corpus: that was partitioned.
        partition: of it.
    """
    numbers = {u.id: number for number, u in enumerate(corpus.utterances)}
    sets = [own for share in partition.clients for own in (share.train, share.test)]
    return _digest(" ".join(str(numbers[u.id]) for u in own) for own in (*sets, partition.unseen))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
