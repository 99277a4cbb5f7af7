"""What must be true of a run after every round, whatever has happened to it."""

import math
from collections.abc import Iterator
from itertools import pairwise

from fedunlearn.deletion.request import FOLLOWS, OVERDUE, RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.ledger import LedgerReader
from fedunlearn.vault.index import Index

INVARIANTS = (
    "the ledger's chain is whole, no state is in it twice, and no state follows one that it cannot follow",
    "every request that the server knows is in the ledger, and has been applied once at most",
    "every request that was ever accepted is known to the server",
    "what is purged is in no vault, and no evidence of it is left once it is verified",
    "the server knows how much each client trains on",
    "the global model's weights are finite",
)


def broken(experiment: Experiment, accepted: set[tuple[str, int]]) -> list[str]:
    """The invariants that do not hold now, one line each.

    Args:
        experiment: between two rounds.
        accepted: (request, client) that were ever seen accepted, in this life of the run or an earlier one;
            those that are now are added.
    """
    return [
        *_of_ledger(experiment),
        *_of_requests(experiment, accepted),
        *_of_vaults(experiment),
        *_of_weights(experiment),
    ]


def _of_ledger(experiment: Experiment) -> Iterator[str]:
    reader = LedgerReader(experiment.run.ledger)
    try:
        damage = reader.verify()
        if damage:
            yield f"ledger: {damage}"
        for request in experiment.state.requests.values():
            states = [s for s in reader.states(request.id, request.client) if s != OVERDUE]
            if len(set(states)) < len(states):
                yield f"ledger: request {request.id} of client {request.client} is twice in one of {states}"
            for one, next_ in pairwise(states):
                if RequestState(next_) not in FOLLOWS[RequestState(one)]:
                    yield f"ledger: request {request.id} went from {one} to {next_}"
            if states and request.state not in states:
                yield f"ledger: request {request.id} is {request.state}, the ledger has {states}"
            if not states:
                yield f"ledger: request {request.id} of client {request.client} is not in it"
    finally:
        reader.close()


def _of_requests(experiment: Experiment, accepted: set[tuple[str, int]]) -> Iterator[str]:
    known = experiment.state.requests
    for request in known.values():
        applied = sum(step["state"] == RequestState.APPLIED for step in request.history)
        if applied > 1:
            yield f"request {request.id} of client {request.client} was applied {applied} times"
        if any(step["state"] == RequestState.ACCEPTED for step in request.history):
            accepted.add(request.key)
    for key in sorted(accepted - known.keys()):
        yield f"request {key[0]} of client {key[1]} was accepted, and is lost"


def _of_vaults(experiment: Experiment) -> Iterator[str]:
    state = experiment.state
    for share in experiment.partition.clients:
        client, folder = share.client, experiment.run.vault(share.client)
        entries = {e.id: e for e in Index.read(folder).entries}
        purged, verified = set[str](), set[str]()
        for request in RequestStore(folder).all():
            server = state.requests.get((request.id, client))
            if server is not None and server.gone:
                purged |= {*request.utterances, *request.held_out}
                if server.state is RequestState.VERIFIED:
                    verified.add(request.id)
        if left := purged & entries.keys():
            yield f"client {client} holds {len(left)} utterances that are purged"
        for request_id in verified:
            if (folder / "evidence" / request_id).exists():
                yield f"client {client} keeps evidence of request {request_id}, which is verified"
        waits = any(r.client == client and r.unfinished for r in state.requests.values())
        trains = sum(
            e.split == "train" and e.recorded <= state.last_report.get(client, 0) for e in entries.values()
        )
        if not waits and state.examples[client] != trains:
            yield f"client {client} trains on {trains}, the server believes {state.examples[client]}"


def _of_weights(experiment: Experiment) -> Iterator[str]:
    model = experiment.state.model
    for name, value in model.weights.items() if model else ():
        if not math.isfinite(float(value.abs().sum())):
            yield f"the global model's {name} is not finite"
