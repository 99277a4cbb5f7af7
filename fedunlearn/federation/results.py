"""results.json: every number of a run, as plain data."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fedunlearn.config import AttackerSettings
from fedunlearn.deletion import DeletionRequest, State
from fedunlearn.evaluation.cost import PhaseCost
from fedunlearn.evaluation.gap import Record, gap, noise_floor, rank
from fedunlearn.evaluation.judge import Judge, Predictions
from fedunlearn.federation.exchange import Fault
from fedunlearn.federation.requests import Key, ServedRequest
from fedunlearn.unlearning.contract import MethodCard
from fedunlearn.unlearning.upper_reference import ReferenceCard

SCHEMA = "fedunlearn/results/1"
_VERSIONED = ("fedunlearn", "torch", "torchaudio", "flwr", "ray", "numpy")
Row = Mapping[str, Any]


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}}


def about_method(card: MethodCard | ReferenceCard) -> dict[str, str]:
    """The method, what it sees ("forget": the forget set alone), and whom it is from."""
    return {"method": card.name, "sees": card.sees, "source": card.source}


def gaps(models: Mapping[str, Record], controls: Mapping[str, Record]) -> dict[str, Any]:
    """Distances of the unlearned and recovered models and of both controls to the retrained model.

    And the noise floor: the distance between retrained models that differ in their seed alone.
    """
    reference = models["retrained"]
    judged = {"unlearned": models["unlearned"], "recovered": models["recovered"], **controls}
    distances = {name: gap(record, reference) for name, record in judged.items()}
    return {**distances, "noise_floor": noise_floor(reference["seeds"])}


def ranking(models: Mapping[str, Record], controls: Mapping[str, Record], method: str, classes: int) -> Any:
    """The run's models and both controls, nearest to the retrained model first."""
    named = {f"{stage} ({method})": models[stage] for stage in ("unlearned", "recovered")}
    return rank(named, controls, models["retrained"], classes, method)


def timeline(
    rows: Iterable[Row], curve: Sequence[Predictions | None], judge: Judge, forget: Sequence[str]
) -> list[dict[str, Any]]:
    """One entry a round, the forget and retain accuracy filled in now that D_f is known."""
    entries = []
    for row, predictions in zip(rows, curve, strict=True):
        entry = dict(row)
        point = judge.curve_point(predictions) if predictions is not None else None
        retain, gone = (
            judge.retain_and_forget(predictions, forget) if predictions is not None else (None, None)
        )
        entry |= {
            "test_uar": point.test_uar if point else None,
            "unseen_uar": point.unseen_uar if point else None,
            "retain_accuracy": retain,
            "forget_accuracy": gone,
        }
        entries.append(entry)
    return entries


def request_rows(
    served: Iterable[ServedRequest], books: Mapping[Key, DeletionRequest], faults: Sequence[Fault]
) -> list[dict[str, Any]]:
    """What was asked and what became of it, in the order of asking."""
    rows, reasons = [], {f.client: f.reason for f in faults}
    for request in served:
        applied = request.round_applied
        rows.append(
            {
                "id": request.id,
                "client": request.client,
                "what": books[request.key].what if request.key in books else None,
                "round_raised": request.round_raised,
                "round_applied": applied,
                "utterances": request.utterances,
                "state": str(request.state),
                "rounds_waited": None if applied is None else applied - request.round_raised,
                "deadline": request.deadline,
                "overdue": request.overdue,
                "devices": request.devices,
                "learned": request.learned,
                "attempts": request.attempts,
                "history": request.history,
                "reason_open": reasons.get(request.client) if request.unfinished else None,
                **request.outcome,
            }
        )
    return rows


def unfulfilled(
    served: Iterable[ServedRequest], unheard: Iterable[int], faults: Sequence[Fault]
) -> list[str]:
    """What was not followed to the end, one line each, with the last that went wrong at that client."""
    reasons = {f.client: f" ({f.reason})" for f in faults}
    return [
        *(
            f"request {r.id} of client {r.client} is {r.state}, not verified{reasons.get(r.client, '')}"
            for r in served
            if r.state not in {State.VERIFIED, State.WITHDRAWN, State.REFUSED}
        ),
        *(f"client {c} did not say whether it has deletions" for c in sorted(unheard)),
    ]


def costs(book: Mapping[str, PhaseCost]) -> dict[str, Any]:
    """Cost by phase."""
    return {phase: cost.as_dict() for phase, cost in book.items()}


def attackers(settings: AttackerSettings) -> dict[str, Any] | None:
    """Which clients lie in this run, and how; None where nobody does."""
    return settings.model_dump(mode="json") if settings.clients else None


def fault_rows(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    """Refused and missing replies, in the order they happened."""
    return [vars(f) for f in faults]
