"""Where deletion requests arrive and are followed to the end: heard, given out, purged, verified."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import RecordDict
from safetensors.torch import save
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.deletion.request import OVERDUE, RequestState
from fedunlearn.deletion.schedule import last_scheduled_round
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients, ExchangeInfo, settings
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
from fedunlearn.server.state import Standing


class RequestTracker:
    """The life cycle of requests, on the server's side.

    Args:
        federation: the clients.
        config: the experiment.
        standing: of the run.
        observer: of the run.
        availability: of the clients.
    """

    def __init__(
        self,
        federation: Clients,
        config: Config,
        standing: Standing,
        observer: Callbacks,
        availability: Availability,
    ) -> None:
        self._clients, self._config = federation, config
        self._standing, self._observer = standing, observer
        self._availability = availability

    # ---- listening -----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Ask every client that can be reached for deletions."""
        standing = self._standing
        # During learning the asking is part of what learning costs, so that a cached original has it too.
        learning = standing.rounds_done < self._config.training.rounds
        occasion = ExchangeInfo(
            standing.timeline_round, "listen", standing.costs["learn" if learning else "listen"]
        )
        content = {
            c: RecordDict(
                {"settings": settings(rounds_done=standing.rounds_done, trained=standing.trained.get(c, -1))}
            )
            for c in standing.held_out  # those who have left, too: they may have recorded something new
        }
        there = {c: r for c, r in content.items() if self._availability.reachable(c, standing.rounds_done)}

        def read(client: int, reply: RecordDict) -> ClientReport:
            known = {r.id: r for r in standing.requests.values() if r.client == client}
            return read_requests(reply, self._most(client), self._config.partition.clients, known)

        last_report = self._clients.ask("query.deletions", there, read, occasion, quorum=0.0)
        last = last_scheduled_round(self._config.deletions, self._config.training.rounds)
        silent = set(content) - set(last_report)
        standing.silent_clients = silent if standing.rounds_done <= last else standing.silent_clients & silent
        for client, said in last_report.items():
            self._hear(client, said)
        for request in standing.open:
            if request.late(standing.rounds_done) and not request.overdue:
                self._observer.on_request_state(request, OVERDUE, standing.timeline_round)
                request.overdue = True

    def _most(self, client: int) -> int:
        """Utterances that a client may train on by now: no more than before, unless it is to record some."""
        examples = self._standing.examples[client]
        return self._clients.most[client] if client in self._clients.later else examples

    def _hear(self, client: int, said: ClientReport) -> None:
        standing = self._standing
        standing.examples[client], standing.last_report[client] = said.train, standing.rounds_done
        for wish in said.wishes:
            request = standing.requests.get((wish.id, client))
            if request is None:
                if wish.state is RequestState.PURGED:
                    continue  # of another life of this vault; there is nothing left to do
                request = self._new(client, wish)
            if wish.state is RequestState.RAISED:
                request.learned = wish.learned
            request.purged_there = wish.state is RequestState.PURGED
            before_applied = request.state in {RequestState.RAISED, RequestState.ACCEPTED}
            if wish.state is RequestState.WITHDRAWN and before_applied:
                self.move(request, RequestState.WITHDRAWN)
                request.lease = None

    def _new(self, client: int, wish: ReportedRequest) -> TrackedRequest:
        standing = self._standing
        request = TrackedRequest(
            wish.id,
            client,
            wish.utterances,
            standing.timeline_round,
            rounds_done=standing.rounds_done,
            deadline=wish.deadline,
            devices=wish.devices,
            learned=wish.learned,
        )
        standing.requests[request.key] = request
        self.move(request, RequestState.RAISED)
        if wish.state is RequestState.RAISED:
            self.move(request, RequestState.ACCEPTED)
        elif wish.state is RequestState.REFUSED:
            self.move(request, RequestState.REFUSED)
        return request

    # ---- giving out ----------------------------------------------------------------------------------

    def ripe(self) -> list[TrackedRequest]:
        """Accepted requests to be given out now: all that wait, as soon as one of them has waited enough.

        Those whose client cannot be reached, or is at work, wait on; so do the parts of one person's request
        until all of that person's devices have spoken, or the deadline has passed.
        """
        standing = self._standing
        at_work = {r.client for r in standing.open if r.lease is not None and standing.rounds_done < r.lease}
        waiting = [
            r
            for r in standing.requests.values()
            if r.state is RequestState.ACCEPTED
            and r.client not in at_work
            and self._availability.reachable(r.client, standing.rounds_done)
            and self._complete(r)
        ]
        return waiting if any(self._has_waited(r) for r in waiting) else []

    def leases(self) -> list[int]:
        """Dates at which requests that are at their devices will have come back, or be given out anew."""
        accepted = [r for r in self._standing.open if r.state is RequestState.ACCEPTED]
        return [r.lease for r in accepted if r.lease is not None]

    def due(self) -> list[int]:
        """Of each request that waits: the date by which it is given out, if its client can be reached."""
        rounds_done_at = []
        for request in self._standing.open:
            if request.state is RequestState.ACCEPTED and request.lease is None:
                rounds_done_at.append(request.rounds_done + self._config.deletions.window)
                if not self._complete(request) and request.deadline is not None:
                    rounds_done_at.append(
                        request.rounds_done + request.deadline + 1
                    )  # then it waits for the others no more
        return rounds_done_at

    def _complete(self, request: TrackedRequest) -> bool:
        parts = [r for r in self._standing.requests.values() if r.id == request.id]
        return request.overdue or len(parts) >= request.devices

    def _has_waited(self, request: TrackedRequest) -> bool:
        waited = self._standing.rounds_done - request.rounds_done
        in_time = request.deadline is not None and waited >= request.deadline
        return waited >= self._config.deletions.window or in_time

    # ---- removing for good ---------------------------------------------------------------------------

    def to_purge(self) -> list[TrackedRequest]:
        """What is applied and in a vault still, or not proved gone; and what no model was trained with."""
        standing = self._standing
        return [
            r
            for r in standing.requests.values()
            if (
                r.state in {RequestState.APPLIED, RequestState.PURGED}
                or (r.state is RequestState.ACCEPTED and not r.learned)
            )
            and self._availability.reachable(r.client, standing.rounds_done)
        ]

    def purge(self, requests: Sequence[TrackedRequest]) -> None:
        """Have them removed for good; where a device does not answer, it is asked again at the next date."""
        # A receipt names the model from which on its speech is forgotten: one message for each such model.
        applied = {(r.round_applied, r.model): None for r in requests}
        for round_applied, model in applied:
            together = [r for r in requests if (r.round_applied, r.model) == (round_applied, model)]
            self._purge(together, -1 if round_applied is None else round_applied, model)
        for request in requests:
            # Its speech is unlearned, so its last step goes even where the device did not answer. Held-out
            # speech is in no step.
            left = self._standing.examples[request.client]
            if request.utterances:
                self._standing.history.forget(request.client, left=left == 0)
        gone = {r.key for r in requests}
        for reply in self._standing.late_replies:
            if gone & {key for key, _ in reply.requests}:  # of an earlier lease: it comes too late to count
                reply.update = replace(reply.update, difference={})

    def _purge(self, requests: Sequence[TrackedRequest], round_applied: int, model: str) -> None:
        standing = self._standing
        content = {}
        asked_of = grouped(requests)
        for client, own in asked_of.items():
            asked = settings(
                requests=ids_of(own),
                rounds_done=standing.rounds_done,
                round=standing.timeline_round,
                round_applied=round_applied,
                model=model,
                ledger_head=self._observer.ledger_head(),
            )
            content[client] = RecordDict({"settings": asked})

        def read(client: int, reply: RecordDict) -> PurgeReport:
            others = [r for r in standing.open if r.client == client and r not in requests and r.stays]
            least, most = sum(r.utterances for r in others), self._most(client)
            if client not in self._clients.later:
                most -= sum(r.withheld for r in asked_of[client])
            return read_purged(reply, least, most, standing.held_out[client])

        replies = self._clients.ask(
            "query.purge",
            content,
            read,
            ExchangeInfo(standing.timeline_round, "purge", standing.costs["unlearn"]),
            quorum=0.0,
        )
        for request in requests:
            if request.client in replies:
                said = replies[request.client]
                standing.examples[request.client] = said.train
                standing.held_out[request.client] = said.held_out
                standing.last_report[request.client] = standing.rounds_done
                if request.state is not RequestState.PURGED:
                    self.move(request, RequestState.PURGED)
                if said.verified:
                    self.move(request, RequestState.VERIFIED)

    def move(self, request: TrackedRequest, state: RequestState) -> None:
        """A request reached a state: first on disk, then here."""
        self._observer.on_request_state(request, state, self._standing.timeline_round)
        self.note(request, state)

    def note(self, request: TrackedRequest, state: RequestState) -> None:
        """As ``move``, where the disk knows or will be told."""
        request.state = state
        now = {"round": self._standing.timeline_round, "date": self._standing.rounds_done}
        request.history.append({"state": str(state), **now})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's weights, as its safetensors file has them."""
    return hashlib.sha256(save({k: v.contiguous() for k, v in sorted(weights.items())})).hexdigest()
