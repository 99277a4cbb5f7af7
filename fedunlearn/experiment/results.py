"""results.json: every number of a run, as plain data."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedunlearn.config import Config
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.evaluation.judge import Judge, Predictions
from fedunlearn.ledger import LedgerReader
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.server.clients import Fault
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import Standing
from fedunlearn.unlearning import method_named
from fedunlearn.unlearning.contract import MethodCard
from fedunlearn.unlearning.privileged.contract import PrivilegedCard

SCHEMA = "fedunlearn/results/1"
_VERSIONED = ("fedunlearn", "torch", "torchaudio", "transformers", "flwr", "ray", "numpy")
Row = Mapping[str, Any]


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}}


def about_method(card: MethodCard | PrivilegedCard) -> dict[str, str]:
    """The method, what it sees ("forget": the forget set alone), and whom it is from."""
    return {"method": card.name, "sees": card.sees, "source": card.source}


def frame(
    config: Config,
    corpus: Corpus,
    partition: Partition,
    standing: Standing,
    books: Mapping[RequestKey, DeletionRequest],
    ledger: Path,
    model: EmotionModel,
) -> dict[str, Any]:
    """What there is to say of every run, however it ended."""
    attackers = config.attackers
    with LedgerReader(ledger) as reader:
        entries, head = len(reader.entries()), reader.head()
    return {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": versions(),
        "unlearning": about_method(method_named(config.unlearning.method)),
        "corpus": {
            "name": corpus.name,
            "utterances": len(corpus.utterances),
            "speakers": len(corpus.speakers),
            "clients": len(partition.clients),
            "emotions": list(corpus.emotions),
            "unseen_speakers": len({u.speaker for u in partition.unseen}),
            "warnings": list(corpus.warnings),
        },
        "model": model.about(),
        "requests": request_rows(standing.requests.values(), books, standing.faults),
        "cost": {phase: cost.as_dict() for phase, cost in standing.costs.items()},
        "guard": standing.guarded,
        "attackers": attackers.model_dump(mode="json") if attackers.clients else None,
        "faults": [vars(f) for f in standing.faults],
        "ledger": {"entries": entries, "head": head},
    }


def reversion_steps(
    entries: Sequence[Row], original: float | None, requests: Iterable[TrackedRequest]
) -> list[dict[str, Any]]:
    """What each joint unlearn step did to the forget accuracy, and what its recovery did to that.

    The rounds of an upper reference are one step, of which the last names the requests.

    Args:
        entries: the timeline.
        original: the original's forget accuracy, where a step is the first entry.
        requests: of the run, for whose each was.

    Returns:
        a row a step: round, clients, and forget accuracy on all of D_f before, unlearned, recovered (None
        where no recovery round followed).
    """
    whose: dict[str, set[int]] = {}
    for request in requests:
        whose.setdefault(request.id, set()).add(request.client)
    steps: list[dict[str, Any]] = []
    before = here = original
    on_the_way = recovering = False
    for entry in entries:
        before = before if on_the_way else here
        here = entry["forget_accuracy"]
        unlearning, asked = entry["phase"] == "unlearn", entry["requests"]
        on_the_way = unlearning and not asked
        if unlearning and asked:
            clients = sorted(set().union(*(whose.get(name, set()) for name in asked)))
            steps.append(
                {
                    "round": entry["round"],
                    "clients": clients,
                    "before": before,
                    "unlearned": here,
                    "recovered": None,
                }
            )
        recovering = (unlearning and bool(asked)) or (recovering and entry["phase"] == "recover")
        if recovering and entry["phase"] == "recover":
            steps[-1]["recovered"] = here
    return steps


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
    served: Iterable[TrackedRequest], books: Mapping[RequestKey, DeletionRequest], faults: Sequence[Fault]
) -> list[dict[str, Any]]:
    """What was asked and what became of it, in the order of asking."""
    rows, reasons = [], {f.client: f.reason for f in faults if f.kind != "repeated"}
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
    served: Iterable[TrackedRequest], silent_clients: Iterable[int], faults: Sequence[Fault]
) -> list[str]:
    """What was not followed to the end, one line each, with the last that went wrong at that client."""
    reasons = {f.client: f" ({f.reason})" for f in faults if f.kind != "repeated"}
    return [
        *(
            f"request {r.id} of client {r.client} is {r.state}, not verified{reasons.get(r.client, '')}"
            for r in served
            if r.state not in {RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED}
        ),
        *(f"client {c} did not say whether it has deletions" for c in sorted(silent_clients)),
    ]
