"""Numbers out of a results record that may have holes, and how they are written on the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"


def at(node: Any, *keys: str) -> Any:
    """The value under nested ``keys``, or None where any step of the way is missing or null."""
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None where it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number_at(node: Any, *keys: str) -> float | None:
    """The finite number under nested ``keys``, or None."""
    return number(at(node, *keys))


def interval_at(node: Any, *keys: str) -> tuple[float, float] | None:
    """The interval under nested ``keys``: ``[low, high]``, or a record with ``low`` and ``high``; or None."""
    found = at(node, *keys)
    if isinstance(found, Mapping):
        low, high = number_at(found, "low"), number_at(found, "high")
        return None if low is None or high is None else (low, high)
    ends = numbers(found)
    return (ends[0], ends[1]) if len(ends) == 2 else None


def between(interval: tuple[float, float] | None, decimals: int = 2) -> str:
    """``[0.45, 0.61]``; empty where there is no interval, or resampling showed no spread."""
    return (
        ""
        if interval is None or interval[0] == interval[1]
        else f"[{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"
    )


def sure(interval: tuple[float, float] | None) -> str:
    """``95% 0.012 to 0.046``; empty where there is no interval, or resampling showed no spread."""
    return (
        ""
        if interval is None or interval[0] == interval[1]
        else f"95% {fraction(interval[0])} to {fraction(interval[1])}"
    )


def noise_floor(results: Any, measure: str) -> float | None:
    """The noise floor of a measure: it stands beside the gaps, in some records among them."""
    beside = number_at(results, "noise_floor", measure)
    return number_at(results, "gap", "noise_floor", measure) if beside is None else beside


def numbers(value: Any) -> list[float]:
    """A list of finite numbers, or an empty list where ``value`` is anything else."""
    found = [number(item) for item in rows(value)]
    return [item for item in found if item is not None] if None not in found else []


def rows(value: Any) -> list[Any]:
    """``value`` as a list, empty where it is not a sequence."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


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
