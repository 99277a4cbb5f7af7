"""The key numbers at the top of the page."""

from collections.abc import Callable
from dataclasses import dataclass

from fedunlearn.report.costs import CLIENT_TIME, phase_cost, total_cost
from fedunlearn.report.finding import count_closed
from fedunlearn.report.request_view import FULFILLED, view_requests
from fedunlearn.report.values import Interval, duration, fraction, interval, interval_words, many
from fedunlearn.results_schema import ModelScores, Results


@dataclass(frozen=True)
class Tile:
    """A key number.

    Attributes:
        label: what it is.
        word: the entry of the glossary that explains it.
        value: the number.
        notes: its interval, and what it is to be read against.
    """

    label: str
    word: str
    value: str
    notes: tuple[str, ...]


def tiles(results: Results) -> list[Tile]:
    """The numbers to remember."""
    gap = results.gap[results.final_model]
    spent = total_cost(results, ("unlearn", "recover"), (CLIENT_TIME,))
    retraining = phase_cost(results, "retrain").client_seconds
    return [
        Tile(
            "Mean gap",
            "gap",
            fraction(gap.mean),
            (
                *filter(None, [interval_words(interval(gap))]),
                f"noise floor {fraction(results.gap.noise_floor.mean)}",
                f"doing nothing {fraction(results.gap.none.mean)}",
            ),
        ),
        _tile(
            results,
            "Forget accuracy",
            "accuracy",
            lambda model: (model.forget.accuracy, model.forget.accuracy_interval),
        ),
        _tile(results, "Test UAR", "uar", lambda model: (model.test.uar, model.test.uar_interval)),
        _tile(
            results,
            "Membership AUC",
            "membership",
            lambda model: (model.membership.auc, interval(model.membership)),
        ),
        Tile(
            "Client time",
            "cost",
            duration(spent),
            ("unlearn + recover", f"retraining {duration(retraining)}"),
        ),
        _fulfilled(results),
    ]


def _fulfilled(results: Results) -> Tile:
    requests = view_requests(results)
    done = sum(request.state in FULFILLED for request in requests)
    closed = count_closed(results)
    notes = [closed] if closed else []
    waited = [request.waited for request in requests if request.waited is not None]
    if any(waited):
        notes.append(f"waited {sum(waited) / len(waited):.1f} rounds")
    notes.append(many(len(results.faults), "fault") + " on the way")
    value = f"{done} of {len(requests)}" if requests else "none received"
    return Tile("Requests fulfilled", "states", value, tuple(notes))


def _tile(
    results: Results,
    label: str,
    word: str,
    measure: Callable[[ModelScores], tuple[float | None, Interval | None]],
) -> Tile:
    value, ends = measure(results.models[results.final_model])
    others = (("retrained", results.models.retrained), ("original", results.models.original))
    against = (f"{name} {fraction(measure(scores)[0])}" for name, scores in others)
    words = interval_words(ends)
    return Tile(label, word, fraction(value), (*filter(None, [words]), *against))
