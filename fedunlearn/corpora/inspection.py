"""Listen to a corpus once, before anything is trained on it: what cannot be used, and what is odd."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedunlearn.audio import FULL_SCALE, PCM, SAMPLE_RATE, BadAudio
from fedunlearn.corpora.folder import NAMED_AT_MOST, assemble, name_few
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

SHORT = 0.1
"""Seconds; a clip below it is named."""
LONG = 60.0
"""Seconds; a clip above it is named."""
SILENT = -60.0
"""dB relative to full scale; a clip whose peak lies below it is named."""


def recordings(
    corpus: Corpus, skip_bad: bool, progress: Callable[[int], None] | None = None
) -> tuple[Corpus, dict[str, PCM]]:
    """Decode every utterance, once.

    Args:
        corpus: as read.
        skip_bad: leave out what cannot be read, with a warning, instead of stopping.
        progress: called after each utterance with how many are done.

    Returns:
        (the corpus without what was left out, its warnings completed; id to int16 PCM [S] at 16 kHz).
        Warned about and still used: recordings equal sample for sample, silent ones (peak below -60 dB of
        full scale), those shorter than 0.1 s or longer than 60 s, speakers lacking an emotion.

    Raises:
        BadInput: names every recording that cannot be read, unless ``skip_bad``; or none can.
    """
    sound: dict[str, PCM] = {}
    bad: list[str] = []
    for done, utterance in enumerate(corpus.utterances, start=1):
        try:
            sound[utterance.id] = utterance.pcm()
        except BadAudio as error:
            bad.append(str(error))
        if progress is not None:
            progress(done)
    if bad and not skip_bad:
        raise BadInput([*bad, f"{len(bad)} of {len(corpus.utterances)} recordings cannot be used: repair or "
                              "remove them, or leave them out with --skip-bad"])  # fmt: skip
    if not sound:
        raise BadInput([*bad[:NAMED_AT_MOST], f"{corpus.name}: not one recording can be read"])
    kept = [u for u in corpus.utterances if u.id in sound]
    warnings = [*corpus.warnings, *name_few("cannot be read, left out", bad), *_oddities(kept, sound)]
    heard = assemble(corpus.name, kept, corpus.emotions, warnings)
    return replace(heard, warnings=(*heard.warnings, *_gaps(heard))), sound


def _oddities(utterances: Sequence[Utterance], sound: dict[str, PCM]) -> list[str]:
    equal: defaultdict[bytes, list[Utterance]] = defaultdict(list)
    silent, short, long = [], [], []
    for utterance in utterances:
        pcm = sound[utterance.id]
        seconds = len(pcm) / SAMPLE_RATE
        # In int32: the absolute value of -32768 does not fit into 16 bits.
        peak = int(np.abs(pcm.astype(np.int32)).max(initial=0))
        if peak < FULL_SCALE * 10 ** (SILENT / 20):
            silent.append(utterance.id)
        else:
            equal[hashlib.sha256(pcm.tobytes()).digest()].append(utterance)
        if seconds < SHORT:
            short.append(f"{utterance.id} ({seconds:.3f} s)")
        if seconds > LONG:
            long.append(f"{utterance.id} ({seconds:.0f} s)")
    twins = [_twins(group) for group in equal.values() if len(group) > 1]
    return [
        *name_few("the same recording, sample for sample (may lie in training and test)", twins),
        *name_few("silent", silent),
        *name_few(f"shorter than {SHORT:g} s", short),
        *name_few(f"longer than {LONG:g} s", long),
    ]


def _twins(group: Sequence[Utterance]) -> str:
    differ = [
        what
        for what, values in (
            ("speakers", {u.speaker for u in group}),
            ("emotions", {u.emotion for u in group}),
        )
        if len(values) > 1
    ]
    return " = ".join(u.id for u in group) + (f" (different {' and '.join(differ)})" if differ else "")


def _gaps(corpus: Corpus) -> list[str]:
    has: defaultdict[str, set[str]] = defaultdict(set)
    for utterance in corpus.utterances:
        has[utterance.speaker].add(utterance.emotion)
    lacking = [
        f"{speaker} ({', '.join(e for e in corpus.emotions if e not in has[speaker])})"
        for speaker in corpus.speakers
        if len(has[speaker]) < len(corpus.emotions)
    ]
    return name_few("speakers without a recording of an emotion", lacking)
