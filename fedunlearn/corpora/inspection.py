"""Decode a corpus once before training, and report what cannot be used and what is odd."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedunlearn.audio import FULL_SCALE, ODDITIES, PCM, SAMPLE_RATE, BadAudio, Recording, examine
from fedunlearn.corpora.folder import NAMED_AT_MOST, assemble, name_few
from fedunlearn.corpora.labels import check_emotions, warn_of_labels
from fedunlearn.corpora.speech_process import generated_ahead
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

SHORT = 0.1
"""Seconds; shorter recordings are named."""
LONG = 60.0
"""Seconds; longer recordings are named."""
BAD_AT_MOST = 20
"""Number of unusable recordings that are named when the run stops because of them."""
SILENT = -60.0
"""dB relative to full scale; recordings whose peak is below it are named."""


def recordings(
    corpus: Corpus, skip_bad: bool, progress: Callable[[int], None] | None = None
) -> tuple[Corpus, dict[str, PCM]]:
    """Decode every utterance, once.

    Args:
        corpus: the corpus as it was read.
        skip_bad: leave out what cannot be decoded, with a warning, instead of stopping.
        progress: called after each utterance with the number of finished ones.

    Returns:
        The corpus without what was left out and with all warnings, and a map from id to int16 PCM [S] at 16
        kHz. Used with a warning: recordings equal sample for sample, silent ones (peak below -60 dB of full
        scale), those shorter than 0.1 s or longer than 60 s, what ``audio.examine`` finds odd (clipped, a
        silent channel, a low rate, 8 bits), emotions and speakers with a single recording, speakers without
        some emotion.

    Raises:
        BadInput: recordings cannot be decoded (the first 20 are named) and ``skip_bad`` is not set; or none
            can; or all that can be have the same emotion.
    """
    sound: dict[str, PCM] = {}
    bad: list[str] = []
    odd: defaultdict[str, list[str]] = defaultdict(list)
    with generated_ahead(corpus.utterances) as read:
        for done, utterance in enumerate(corpus.utterances, start=1):
            try:
                recording = examine(utterance.path) if utterance.path else Recording(read(utterance))
                sound[utterance.id] = recording.pcm
                for what, figures in recording.oddities.items():
                    odd[what].append(f"{utterance.id} ({figures})")
            except BadAudio as error:
                bad.append(str(error))
            if progress is not None:
                progress(done)
    if bad and not skip_bad:
        more = [f"and {len(bad) - BAD_AT_MOST} more"] if len(bad) > BAD_AT_MOST else []
        advice = "repair or remove them, or leave them out with --skip-bad"
        total = f"{len(bad)} of {len(corpus.utterances)} recordings cannot be used: {advice}"
        raise BadInput([*bad[:BAD_AT_MOST], *more, total])
    if not sound:
        raise BadInput([*bad[:NAMED_AT_MOST], f"{corpus.name}: not one recording can be read"])
    kept = [u for u in corpus.utterances if u.id in sound]
    usable = assemble(corpus.name, kept, corpus.emotions)
    if bad:
        check_emotions(usable, corpus.name)
    gone = [emotion for emotion in corpus.emotions if emotion not in usable.emotions]
    left = f"; no recording is left of {', '.join(gone)}" if gone else ""
    warnings = [
        *corpus.warnings,
        *(line + left for line in name_few("cannot be read, left out", bad)),
        *_oddities(kept, sound),
        *(line for what in ODDITIES for line in name_few(what, odd[what])),
        *warn_of_labels(usable),
        *_gaps(usable),
    ]
    return replace(usable, warnings=tuple(warnings)), sound


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
    groups = [group for group in equal.values() if len(group) > 1]
    # Contradictions first: only the first few are named.
    twins = sorted(map(_twins, groups), key=lambda line: not line.endswith(")"))
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
