"""Deletion requests as the server knows them: an id, who asked, how much, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedunlearn.deletion import State as RequestState
from fedunlearn.federation.transport import Refused, number


@dataclass
class ServedRequest:
    """A request as the server knows it: an id, who asked, how many utterances, and its progress."""

    id: str
    client: int
    utterances: int
    round_raised: int
    state: RequestState = RequestState.RAISED
    round_applied: int | None = None
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        """Whether the server still has something to do for it."""
        return self.state in {RequestState.ACCEPTED, RequestState.UNLEARNED, RequestState.APPLIED}

    @property
    def gone(self) -> bool:
        """Whether its utterances have left the vault."""
        return self.state in {RequestState.PURGED, RequestState.VERIFIED}


def grouped(requests: Sequence[ServedRequest]) -> dict[int, list[ServedRequest]]:
    """By client, in client order."""
    by_client: dict[int, list[ServedRequest]] = {}
    for request in sorted(requests, key=lambda r: r.client):
        by_client.setdefault(request.client, []).append(request)
    return by_client


def read_requests(_: int, reply: RecordDict) -> list[tuple[str, int]]:
    """A client's open requests: (id, number of utterances) each.

    Raises:
        Refused: the lists do not fit together, or a request counts nothing.
    """
    record = reply.config_records.get("requests", ConfigRecord())
    ids, counts = record.get("ids"), record.get("counts")
    if not isinstance(ids, list) or not isinstance(counts, list) or len(ids) != len(counts):
        raise Refused("the reply's list of requests is not one")
    wishes = [(str(i), n) for i, n in zip(ids, counts, strict=True) if isinstance(n, int) and n > 0]
    if len(wishes) < len(ids):
        raise Refused("a request counts no utterances")
    return wishes


def read_outcome(reply: RecordDict) -> dict[str, Any]:
    """What a requester tells of its unlearning: numbers and a few words, nothing of its data.

    Raises:
        Refused: a part is missing, or too long to be one of the words.
    """
    said = reply.config_records.get("outcome", ConfigRecord())
    stopped, scalars_read = said.get("stopped"), said.get("scalars_read")
    if not isinstance(stopped, str) or not isinstance(scalars_read, str) or len(stopped + scalars_read) > 100:
        raise Refused("the reply does not say, in a few words, how its unlearning ended")
    metrics = reply.metric_records.get("metrics", MetricRecord())
    return {
        "steps": int(number(reply, "steps")),
        "stopped": stopped,
        "scalars_read": [name for name in scalars_read.split(",") if name],
        "forget_accuracy": [metrics.get("forget_before"), metrics.get("forget_after")],
        "adversarial": int(number(reply, "adversarial")),
        "attack_success": metrics.get("attack_success"),
    }
