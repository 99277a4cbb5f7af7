"""The key numbers at the top of the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedunlearn.report.finding import closed, final_model
from fedunlearn.report.request_view import FULFILLED, wishes
from fedunlearn.report.values import (
    at,
    duration,
    fraction,
    interval_at,
    many,
    noise_floor,
    number_at,
    rows,
    sure,
)


@dataclass(frozen=True)
class Tile:
    """A key number: what it is, the word that explains it, the number, what to read it against."""

    label: str
    word: str
    value: str
    against: tuple[str, ...]


def tiles(results: Mapping[str, Any]) -> list[Tile]:
    """The numbers to remember."""
    final = final_model(results)
    spent = [number_at(results, "cost", name, "client_seconds") for name in ("unlearn", "recover")]
    together = None if None in spent else sum(value for value in spent if value is not None)
    floor, nothing = noise_floor(results, "mean"), at(results, "gap", "none", "mean")
    return [
        Tile(
            "Mean gap",
            "gap",
            fraction(at(results, "gap", final, "mean")),
            (
                *filter(None, [sure(interval_at(results, "gap", final))]),
                f"noise floor {fraction(floor)}",
                f"doing nothing {fraction(nothing)}",
            ),
        ),
        _tile(
            results, "Forget accuracy", "accuracy", ("forget", "accuracy"), ("forget", "accuracy_interval")
        ),
        _tile(results, "Test UAR", "uar", ("test", "uar"), ("test", "uar_interval")),
        _tile(results, "Membership AUC", "membership", ("membership", "auc"), ("membership",)),
        Tile(
            "Client time",
            "cost",
            duration(together),
            ("unlearn + recover", f"retraining {duration(at(results, 'cost', 'retrain', 'client_seconds'))}"),
        ),
        _fulfilled(results),
    ]


def _fulfilled(results: Mapping[str, Any]) -> Tile:
    asked = wishes(results)
    done = sum(wish.state in FULFILLED for wish in asked)
    notes = [closed(results)] if closed(results) else []
    waited = [wish.waited for wish in asked if wish.waited is not None]
    if any(waited):
        notes.append(f"waited {sum(waited) / len(waited):.1f} rounds")
    notes.append(many(len(rows(at(results, "faults"))), "fault") + " on the way")
    return Tile(
        "Requests fulfilled", "states", f"{done} of {len(asked)}" if asked else "none heard", tuple(notes)
    )


def _tile(
    results: Mapping[str, Any], label: str, word: str, path: tuple[str, ...], spread: tuple[str, ...]
) -> Tile:
    models = at(results, "models")
    final = at(models, final_model(results))
    against = (f"{name} {fraction(at(models, name, *path))}" for name in ("retrained", "original"))
    said = sure(interval_at(final, *spread))
    return Tile(label, word, fraction(at(final, *path)), (*filter(None, [said]), *against))
