"""Deletion requests on the server, from their arrival to the end: given out, purged, verified."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import RecordDict
from safetensors.torch import save
from torch import Tensor

from fedunlearn.deletion.request import OVERDUE, RequestState
from fedunlearn.messages.phase import Phase
from fedunlearn.server.clients import settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.requests import (
    ClientReport,
    PurgeReport,
    ReportedRequest,
    TrackedRequest,
    grouped,
    ids_of,
    read_purged,
    read_requests,
)


class RequestTracker:
    """The life cycle of deletion requests, on the server's side.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context, self._clients, self._config = context, context.clients, context.config
        self._state, self._callbacks = context.state, context.callbacks
        self._availability = context.availability

    # ---- listening -----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Ask every client that can be reached for deletion requests."""
        state = self._state
        # During learning the asking is part of what learning costs, so that a cached original has it too.
        learning = state.rounds_done < self._config.training.rounds
        cost = state.costs[Phase.LEARN if learning else Phase.LISTEN]
        occasion = ExchangeInfo(state.timeline_round, Phase.LISTEN, cost)
        content = {
            c: RecordDict(
                {"settings": settings(rounds_done=state.rounds_done, trained=state.last_trained.get(c, -1))}
            )
            for c in state.held_out  # those who have left, too: they may have recorded something new
        }
        there = {c: r for c, r in content.items() if self._availability.reachable(c, state.rounds_done)}

        def read(client: int, reply: RecordDict) -> ClientReport:
            known = {r.id: r for r in state.requests.values() if r.client == client}
            return read_requests(reply, self._most(client), self._config.partition.client_count, known)

        reports = self._clients.ask("query.deletions", there, read, occasion, quorum=0.0)
        last = self._config.deletions.last_round(self._config.training.rounds)
        silent = set(content) - set(reports)
        state.silent_clients = silent if state.rounds_done <= last else state.silent_clients & silent
        for client, report in reports.items():
            self._record_report(client, report)
        for request in state.open:
            if request.late(state.rounds_done) and not request.overdue:
                self._callbacks.on_request_state(request, OVERDUE, state.timeline_round)
                request.overdue = True

    def _most(self, client: int) -> int:
        """Utterances that a client may train on by now: no more than before, unless it is to record some."""
        examples = self._state.examples[client]
        return self._clients.most[client] if client in self._clients.later else examples

    def _record_report(self, client: int, report: ClientReport) -> None:
        state = self._state
        state.examples[client], state.last_report[client] = report.train, state.rounds_done
        for reported in report.requests:
            request = state.requests.get((reported.id, client))
            if request is None:
                if reported.state is RequestState.PURGED:
                    continue  # of another life of this vault; there is nothing left to do
                request = self._add(client, reported)
            if reported.state is RequestState.RAISED:
                request.learned = reported.learned
            request.purged_there = reported.state is RequestState.PURGED
            before_applied = request.state in {RequestState.RAISED, RequestState.ACCEPTED}
            if reported.state is RequestState.WITHDRAWN and before_applied:
                self.move(request, RequestState.WITHDRAWN)
                request.lease = None

    def _add(self, client: int, reported: ReportedRequest) -> TrackedRequest:
        state = self._state
        request = TrackedRequest(
            reported.id,
            client,
            reported.utterances,
            state.timeline_round,
            rounds_done=state.rounds_done,
            deadline=reported.deadline,
            devices=reported.devices,
            learned=reported.learned,
        )
        state.requests[request.key] = request
        self.move(request, RequestState.RAISED)
        if reported.state is RequestState.RAISED:
            self.move(request, RequestState.ACCEPTED)
        elif reported.state is RequestState.REFUSED:
            self.move(request, RequestState.REFUSED)
        return request

    # ---- removing for good ---------------------------------------------------------------------------

    def to_purge(self) -> list[TrackedRequest]:
        """List requests that are applied and still in a vault, or unverified; and those never trained on."""
        state = self._state
        return [
            r
            for r in state.requests.values()
            if (
                r.state in {RequestState.APPLIED, RequestState.PURGED}
                or (r.state is RequestState.ACCEPTED and not r.learned)
            )
            and self._availability.reachable(r.client, state.rounds_done)
        ]

    def purge(self, requests: Sequence[TrackedRequest]) -> None:
        """Have devices purge; one that does not answer receives the message again in the next round.

        Args:
            requests: whose utterances are purged.
        """
        # A receipt names the first model without its speech: one message for each such model.
        applied = {(r.round_applied, r.model): None for r in requests}
        for round_applied, model in applied:
            together = [r for r in requests if (r.round_applied, r.model) == (round_applied, model)]
            self._purge(together, -1 if round_applied is None else round_applied, model)
        for request in requests:
            # Its speech is unlearned, so its last update goes even where the device did not answer. Held-out
            # speech is in no update.
            left = self._state.examples[request.client]
            if request.utterances:
                self._state.history.forget(request.client, left=left == 0)
        gone = {r.key for r in requests}
        for reply in self._state.late_replies:
            if gone & {key for key, _ in reply.requests}:  # of an earlier lease: it comes too late to count
                reply.update = replace(reply.update, difference={})

    def _purge(self, requests: Sequence[TrackedRequest], round_applied: int, model: str) -> None:
        state = self._state
        content = {}
        by_client = grouped(requests)
        for client, own in by_client.items():
            config = settings(
                requests=ids_of(own),
                rounds_done=state.rounds_done,
                round=state.timeline_round,
                round_applied=round_applied,
                model=model,
                model_before=own[0].model_before,
                ledger_head=self._callbacks.ledger_head(),
            )
            content[client] = RecordDict({"settings": config})

        def read(client: int, reply: RecordDict) -> PurgeReport:
            others = [r for r in state.open if r.client == client and r not in requests and r.stays]
            least, most = sum(r.utterances for r in others), self._most(client)
            if client not in self._clients.later:
                most -= sum(r.withheld for r in by_client[client])
            return read_purged(reply, least, most, state.held_out[client])

        replies = self._clients.ask(
            "query.purge",
            content,
            read,
            ExchangeInfo(state.timeline_round, Phase.PURGE, state.costs[Phase.UNLEARN]),
            quorum=0.0,
        )
        commitments = {client: report.commitment for client, report in replies.items()}
        self._callbacks.digests.on_commitments(commitments, state.timeline_round)
        for request in requests:
            if request.client in replies:
                report = replies[request.client]
                state.examples[request.client] = report.train
                state.held_out[request.client] = report.held_out
                state.last_report[request.client] = state.rounds_done
                if request.state is not RequestState.PURGED:
                    self.move(request, RequestState.PURGED)
                if report.verified:
                    self.move(request, RequestState.VERIFIED)

    def move(self, request: TrackedRequest, state: RequestState) -> None:
        """Move a request to a state: first on disk, then here.

        Args:
            request: to be moved.
            state: that it has reached.
        """
        self._callbacks.on_request_state(request, state, self._state.timeline_round)
        self.note(request, state)

    def note(self, request: TrackedRequest, state: RequestState) -> None:
        """Note a request's state here alone, where the disk has it or will get it.

        Args:
            request: to be moved.
            state: that it has reached.
        """
        request.state = state
        now = {"round": self._state.timeline_round, "date": self._state.rounds_done}
        request.history.append({"state": str(state), **now})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of a model's weights, as its safetensors file has them.

    Args:
        weights: the whole state.
    """
    return hashlib.sha256(save({k: v.contiguous() for k, v in sorted(weights.items())})).hexdigest()
