"""Small worlds for tests: a corpus of generated tones in memory, assigned to a few devices, and their
vaults."""

from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from fedunlearn.audio import PCM, SAMPLE_RATE, quantise
from fedunlearn.config.partition import PartitionSettings
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.partition import Partition, partition_corpus
from fedunlearn.seeding import rng_for
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

EMOTIONS = ("angry", "calm", "sad")


def tone(speaker: int, emotion: int, take: int, seconds: float = 0.25) -> PCM:
    """One utterance: speakers differ in pitch, emotions in the speed of a tremolo; no two are alike."""
    rng = rng_for(7, "tone", speaker, emotion, take)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 110.0 * 1.1**speaker * (1.0 + 0.02 * rng.standard_normal())
    tremolo = 1.0 + 0.5 * np.sin(2 * np.pi * (4.0 + 9.0 * emotion) * time)
    voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 2 + 2 * (emotion + 1)))
    return quantise(0.2 * tremolo * voice + 0.02 * rng.standard_normal(len(time)))


def tiny_corpus(
    speakers: int = 5, takes: int = 3, emotions: tuple[str, ...] = EMOTIONS, seconds: float = 0.25
) -> Corpus:
    """``takes`` tones of each emotion from each speaker; s00, s01, ... are "f" and "m" in turn."""
    utterances = [
        Utterance(
            id=f"s{speaker:02d}-{emotion}-{take}",
            speaker=f"s{speaker:02d}",
            emotion=emotion,
            pcm=partial(tone, speaker, label, take, seconds),
            gender="fm"[speaker % 2],
        )
        for speaker in range(speakers)
        for label, emotion in enumerate(emotions)
        for take in range(takes)
    ]
    return Corpus("tiny", tuple(sorted(utterances, key=lambda u: u.id)), emotions)


def tiny_partition(
    corpus: Corpus | None = None,
    clients: int = 4,
    unseen_speakers: int = 1,
    seed: int = 1,
    shared_speakers: int = 0,
    devices: int = 2,
) -> Partition:
    """The tiny corpus partitioned: of 9 utterances a speaker, 6 are trained on and 3 are held out."""
    settings = PartitionSettings(
        clients=clients,
        unseen_speakers=unseen_speakers,
        test_fraction=1 / 3,
        shared_speakers=shared_speakers,
        devices=devices,
    )
    return partition_corpus(corpus or tiny_corpus(), settings, seed)


def recordings_of(
    partition: Partition, client: int, emotions: tuple[str, ...] = EMOTIONS
) -> list[tuple[VaultEntry, PCM]]:
    """What goes into one device's vault."""
    return [
        (VaultEntry(u.id, u.emotion, emotions.index(u.emotion), split, len(pcm), u.speaker), pcm)
        for split, utterances in partition.clients[client].splits
        for u in utterances
        for pcm in [u.pcm()]
    ]


def tiny_vault(folder: Path, partition: Partition | None = None, client: int = 0) -> Vault:
    """One device's vault at ``folder``, which must not exist yet."""
    recordings = recordings_of(partition or tiny_partition(), client)
    return Vault.build(folder, recordings, len(EMOTIONS))


def write_wav(utterance: Utterance, path: Path) -> None:
    """Write an utterance of any corpus as 16 kHz mono 16-bit WAV, to listen to.

    Args:
        utterance: the utterance.
        path: the file to write.
    """
    soundfile.write(str(path), utterance.pcm(), SAMPLE_RATE, subtype="PCM_16", format="WAV")
