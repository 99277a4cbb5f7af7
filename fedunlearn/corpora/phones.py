"""The sounds of generated speech: sixteen consonants and seven vowels, as states of the vocal tract."""

from typing import NamedTuple

import numpy as np

NEUTRAL_TRACT = 17.2
"""Length in cm of the vocal tract whose formants the inventory lists."""


class PhoneState(NamedTuple):
    """A stretch of speech in which the articulators rest.

    Attributes:
        seconds: its duration at tempo 1.
        voicing: amplitude of the voice source in [0, 1].
        aspiration: amplitude of the aspiration noise in [0, 1].
        frication: amplitude of the frication noise in [0, 1].
        place: index into ``PLACES``, the places of frication.
        f1: first formant in Hz, for a vocal tract of 17.2 cm.
        f2: second formant.
        f3: third formant.
        glide: share of the state spent on the transitions from and to its neighbours' formants.
    """

    seconds: float
    voicing: float
    aspiration: float
    frication: float
    place: int
    f1: float
    f2: float
    f3: float
    glide: float


PLACES = np.array(
    [(900.0, 900.0), (4200.0, 1400.0), (2100.0, 600.0), (6200.0, 1300.0), (3200.0, 900.0), (6000.0, 5000.0)]
)
"""Centre and half width in Hz: labial, alveolar and velar bursts; s, sh, f."""


def _stop(place: int, f2: float, f3: float, voiced: bool) -> tuple[PhoneState, ...]:
    if voiced:
        return (
            PhoneState(0.050, 0.12, 0.0, 0.0, place, 200, f2, f3, 0.3),
            PhoneState(0.010, 0.2, 0.1, 0.5, place, 250, f2, f3, 0.3),
        )
    return (
        PhoneState(0.060, 0.0, 0.0, 0.0, place, 250, f2, f3, 0.3),
        PhoneState(0.012, 0.0, 0.2, 0.8, place, 300, f2, f3, 0.3),
        PhoneState(0.035, 0.0, 0.8, 0.0, place, 400, f2, f3, 0.8),
    )


CONSONANTS: dict[str, tuple[PhoneState, ...]] = {
    "p": _stop(0, 950, 2300, False),
    "t": _stop(1, 1750, 2650, False),
    "k": _stop(2, 1950, 2300, False),
    "b": _stop(0, 950, 2300, True),
    "d": _stop(1, 1750, 2650, True),
    "g": _stop(2, 1950, 2300, True),
    "s": (PhoneState(0.095, 0.0, 0.0, 0.5, 3, 320, 1700, 2600, 0.3),),
    "z": (PhoneState(0.070, 0.35, 0.0, 0.3, 3, 280, 1700, 2600, 0.3),),
    "sh": (PhoneState(0.095, 0.0, 0.0, 0.5, 4, 320, 1850, 2500, 0.3),),
    "f": (PhoneState(0.085, 0.0, 0.0, 0.22, 5, 320, 1100, 2300, 0.3),),
    "m": (PhoneState(0.065, 0.45, 0.0, 0.0, 0, 260, 1050, 2250, 0.3),),
    "n": (PhoneState(0.060, 0.45, 0.0, 0.0, 0, 260, 1500, 2500, 0.3),),
    "l": (PhoneState(0.055, 0.55, 0.0, 0.0, 0, 360, 1200, 2700, 0.6),),
    "r": (PhoneState(0.055, 0.55, 0.0, 0.0, 0, 380, 1250, 1650, 0.7),),
    "w": (PhoneState(0.055, 0.60, 0.0, 0.0, 0, 310, 700, 2200, 0.8),),
    "j": (PhoneState(0.050, 0.60, 0.0, 0.0, 0, 290, 2150, 2900, 0.8),),
}
"""Each consonant's states; formant loci near those that Klatt (1980, doi 10.1121/1.383940) uses."""

VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010),
    "e": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
"""F1, F2, F3 in Hz: means of men, Peterson & Barney 1952 (doi 10.1121/1.1906875)."""

NEUTRAL_VOWEL = (500.0, 1500.0, 2500.0)
"""A uniform tube: where vowels go when articulation is lax."""

VOWEL_SECONDS = 0.115
