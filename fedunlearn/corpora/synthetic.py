"""Generated speech: any number of speakers, six emotions, no download.

A source-filter synthesiser (``vocal_tract``) speaks pseudo-sentences (``phones``) in voices and emotions
drawn by ``prosody``. Nothing is stored: an utterance is generated when it is read, always from the same named
random streams, so that the judge and a device get the same bytes.
"""

from functools import lru_cache, partial

import numpy as np

from fedunlearn.audio import PCM, quantise
from fedunlearn.corpora.phones import (
    CONSONANTS,
    NEUTRAL_TRACT,
    NEUTRAL_VOWEL,
    VOWEL_SECONDS,
    VOWELS,
    PhoneState,
)
from fedunlearn.corpora.prosody import EMOTIONS, Voice, express, voice
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.corpora.vocal_tract import Score, render, upper_formants
from fedunlearn.seeding import rng_for

SHORTEST, LONGEST = 1.2, 2.6
"""Duration of an utterance in seconds, including silence at both ends."""

_PEAK = 0.97
"""Share of full scale: louder takes are attenuated, as by a recorder's limiter."""

# A hand-held device is never twice in the same place: standard deviations, between one speaker's takes, of
# the response at each of the microphone's knots and of the room's noise, in dB.
_TAKE_COLOUR = 6.0
_TAKE_ROOM = 6.0


def read(speakers: int, utterances: int, seed: int) -> Corpus:
    """Generate a corpus.

    Speaker "s003" is the same person, and "s003-017" the same bytes, however many others are generated. Each
    speaker expresses the six emotions in turn, in a random order within every six utterances; odd speakers
    are male, even ones female.

    Args:
        speakers: number of speakers, >= 1.
        utterances: number of utterances of each, >= 1; a multiple of six balances the emotions exactly.
        seed: seed of the random streams.
    """
    generated = [
        Utterance(
            id=f"s{speaker:03d}-{index:03d}",
            speaker=f"s{speaker:03d}",
            emotion=_emotion(seed, speaker, index),
            pcm=partial(speak, seed, speaker, index),
            gender={"f": "female", "m": "male"}[_gender(speaker)],
            text=" ".join("".join(syllable) for syllable in _sentence(seed, speaker, index)),
        )
        for speaker in range(speakers)
        for index in range(utterances)
    ]
    return Corpus("synthetic", tuple(sorted(generated, key=lambda u: u.id)), EMOTIONS)


def speak(seed: int, speaker: int, index: int) -> PCM:
    """Synthesise one utterance: int16 [S], 16 kHz, 1.2 to 2.6 s.

    Args:
        seed: seed of the corpus.
        speaker: number of the speaker.
        index: number of the utterance among the speaker's.
    """
    who = _voice(seed, speaker)
    rng = rng_for(seed, "speech", speaker, index, "sound")
    how = express(who, _emotion(seed, speaker, index), rng_for(seed, "speech", speaker, index, "expression"))
    speech = render(_score(who, how, _sentence(seed, speaker, index), rng), rng)
    loudness = 10 ** ((who.level + how["level"]) / 20) / float(np.sqrt(np.mean(speech**2)))
    room = 10 ** ((who.floor + _TAKE_ROOM * float(np.clip(rng.standard_normal(), -2, 2))) / 20)
    sound = loudness * speech + room * rng.standard_normal(len(speech), dtype=np.float32)
    return quantise(sound * min(1.0, _PEAK / float(np.abs(sound).max())))


def _gender(speaker: int) -> str:
    return "m" if speaker % 2 else "f"


@lru_cache(maxsize=1024)
def _voice(seed: int, speaker: int) -> Voice:
    return voice(_gender(speaker), rng_for(seed, "speech", speaker, "voice"))


def _emotion(seed: int, speaker: int, index: int) -> str:
    block, place = divmod(index, len(EMOTIONS))
    order = rng_for(seed, "speech", speaker, "order", block).permutation(len(EMOTIONS))
    return EMOTIONS[order[place]]


def _sentence(seed: int, speaker: int, index: int) -> list[tuple[str, str]]:
    """Draw seven to nine syllables, each a consonant and a vowel."""
    rng = rng_for(seed, "speech", speaker, index, "text")
    count = int(rng.integers(7, 10))
    onsets = rng.integers(len(CONSONANTS), size=count)
    nuclei = rng.integers(len(VOWELS), size=count)
    consonants, vowels = list(CONSONANTS), list(VOWELS)
    return [(consonants[c], vowels[v]) for c, v in zip(onsets, nuclei, strict=True)]


def _score(
    who: Voice, how: dict[str, float], sentence: list[tuple[str, str]], rng: np.random.Generator
) -> Score:
    """Lay the syllables out in time, with their stress, melody and articulation."""
    count = len(sentence)
    stress = rng.permutation(np.arange(count) % 2) * rng.uniform(0.6, 1.4, count)
    lengths = rng.normal(1.0, 0.08, count)
    breath_group = int(rng.integers(count // 2 - 1, count // 2 + 2))
    silence = PhoneState(0.0, 0.0, 0.0, 0.0, 0, *NEUTRAL_VOWEL, 0.5)
    states, centres = [silence], []
    seconds = [0.08]
    tempo = who.rate * 2 ** how["rate"]
    for k, (consonant, vowel) in enumerate(sentence):
        if k == breath_group:
            states.append(silence)
            seconds.append(min(0.35, 0.05 * 2 ** how["pause"]))
        onset = CONSONANTS[consonant]
        states += onset
        seconds += [state.seconds * lengths[k] / tempo for state in onset]
        loudness = (0.75 + 0.25 * stress[k]) * (1 - 0.35 * k / count)
        centres.append(len(states))
        states.append(PhoneState(VOWEL_SECONDS, loudness, 0.0, 0.0, 0, *VOWELS[vowel], 0.6))
        final = 1.3 if k == count - 1 else 1.0
        seconds.append(VOWEL_SECONDS * final * (0.8 + 0.35 * stress[k]) * lengths[k] / tempo)
    states.append(silence)
    seconds.append(0.1)
    table = np.array(states)
    span = np.array(seconds)
    span *= np.clip(span.sum(), SHORTEST, LONGEST) / span.sum()

    middles = (np.cumsum(span) - span / 2)[centres]
    through = np.linspace(-0.5, 0.5, count)
    melody = (how["slope"] - 2.0) * through + 2.0 * 2 ** how["range"] * (
        stress - 0.5 + rng.normal(0, 0.4, count)
    )
    pitch = who.pitch * 2 ** ((how["pitch"] + np.clip(melody, -9, 11)) / 12)

    scale = NEUTRAL_TRACT / who.tract * 2 ** how["formants"]
    rest = np.array(NEUTRAL_VOWEL)
    formants = rest + 2 ** min(0.3, how["articulation"]) * (table[:, 5:8] - rest)
    formants[:, 0] *= 2 ** how["opening"]
    lowest, highest = np.array([180.0, 600.0, 1400.0]), np.array([1000.0, 2600.0, 3200.0])
    return Score(
        seconds=span,
        voicing=table[:, 1],
        aspiration=table[:, 2],
        frication=table[:, 3],
        place=table[:, 4].astype(np.int64),
        formants=scale * np.clip(formants, lowest, highest),
        glide=table[:, 8],
        upper=upper_formants(scale) * who.upper,
        scale=scale,
        pitch_times=middles,
        pitch=np.clip(pitch, 60.0, 500.0),
        tilt=float(np.clip(who.tilt * 2 ** how["tilt"], 300.0, 7000.0)),
        breath=who.breath * 10 ** (how["breath"] / 20),
        jitter=who.jitter * 2 ** how["jitter"],
        shimmer=5 * who.jitter * 2 ** how["jitter"],
        tremor=max(0.0, how["tremor"]),
        onset=0.030 * 2 ** -how["attack"],
        colour=who.colour + _TAKE_COLOUR * rng.standard_normal(len(who.colour)),
    )
