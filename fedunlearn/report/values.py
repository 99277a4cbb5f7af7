"""How numbers, intervals and texts that may be missing are written on a page."""

import math
from typing import Any, Protocol

MISSING = "–"

Interval = tuple[float, float]
"""lower and upper end"""


class WithInterval(Protocol):
    """A measure with the ends of its interval."""

    @property
    def low(self) -> float | None:
        """Lower end; None where unknown."""

    @property
    def high(self) -> float | None:
        """Upper end; None where unknown."""


def interval(measure: WithInterval) -> Interval | None:
    """The interval of a measure; None where one of its ends is unknown."""
    return None if measure.low is None or measure.high is None else (measure.low, measure.high)


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None where it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def bracketed(ends: Interval | None, decimals: int = 2) -> str:
    """``[0.45, 0.61]``; empty where there is no interval, or resampling showed no spread."""
    if ends is None or ends[0] == ends[1]:
        return ""
    return f"[{ends[0]:.{decimals}f}, {ends[1]:.{decimals}f}]"


def interval_words(ends: Interval | None) -> str:
    """``95% 0.012 to 0.046``; empty where there is no interval, or resampling showed no spread."""
    if ends is None or ends[0] == ends[1]:
        return ""
    return f"95% {fraction(ends[0])} to {fraction(ends[1])}"


def plain(value: Any) -> str:
    """Text as it stands; "–" for null and for the empty string."""
    return MISSING if value is None or value == "" else str(value)


def fraction(value: Any) -> str:
    """A value in [0, 1] (or a distance of such) with three decimals."""
    known = number(value)
    return MISSING if known is None else f"{known:.3f}"


def signed(value: Any) -> str:
    """A difference with its sign and three decimals; "±0.000" where it rounds to nothing."""
    known = number(value)
    if known is None:
        return MISSING
    digits = f"{abs(known):.3f}"
    return ("±" if digits == "0.000" else "+" if known > 0 else "−") + digits


def count(value: Any) -> str:
    """A whole number with thousands separated."""
    known = number(value)
    return MISSING if known is None else f"{known:,.0f}"


def significant(value: Any) -> str:
    """Three significant digits, never in powers of ten between 0.001 and a million."""
    known = number(value)
    if known is None:
        return MISSING
    if known == 0 or 0.001 <= abs(known) < 1e6:
        decimals = 0 if known == 0 else max(0, 2 - math.floor(math.log10(abs(known))))
        return f"{known:,.{decimals}f}"
    return f"{known:.2e}"


def duration(value: Any) -> str:
    """Seconds as s, min or h."""
    known = number(value)
    if known is None:
        return MISSING
    if known < 120:
        return f"{significant(known)} s"
    return f"{known / 60:.1f} min" if known < 7200 else f"{known / 3600:.1f} h"


def size(value: Any) -> str:
    """Bytes as B, kB, MB, GB or TB (powers of 1000)."""
    known = number(value)
    if known is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if known < 1000:
            return f"{known:.0f} B" if unit == "B" else f"{significant(known)} {unit}"
        known /= 1000
    return f"{significant(known)} TB"


def many(amount: int | float, noun: str) -> str:
    """``1 client``, ``2 clients``."""
    return f"{amount:,.0f} {noun}" if amount == 1 else f"{amount:,.0f} {noun}s"
