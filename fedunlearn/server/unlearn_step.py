"""The unlearn step: requesters unlearn, each on its own forget set alone, and their updates join the model.

A reply may be late (``availability``): it joins the model of the round in which it arrives, if the lease of
its request still runs; else it is refused, and the request is given out anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.client.privacy import guarantee
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.server.clients import request_scalars
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.guard import Intervention
from fedunlearn.server.rehearsals import RehearsingClients
from fedunlearn.server.requesters import ClientAnswers, Requesters
from fedunlearn.server.requests import RequestKey, TrackedRequest, grouped, ids_of
from fedunlearn.server.state import LateReply
from fedunlearn.server.steps import (
    Rehearse,
    StepInputs,
    StepRehearsals,
    apply_unlearn_updates,
    sample_clients,
)
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import ServerScalars

Outcomes = dict[int, dict[str, Any]]
"""client -> what became of its requests"""


class UnlearnStep:
    """Has requesters unlearn and joins their updates.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context, self._clients, self._config = context, context.clients, context.config
        self._state, self._template = context.state, context.template
        self._requesters, self._rehearsing = Requesters(context), RehearsingClients(context)

    def request_scalars(self, weights: StateDict, log_odds: bool) -> ServerScalars:
        """Ask all clients that can be reached for the few numbers that requesters are sent.

        Args:
            weights: of the global model.
            log_odds: whether the method reads log-odds.
        """
        scalars = self._scalars_of(weights, log_odds, Phase.EVALUATE, self._evaluating())
        return replace(scalars, unknown=self._state.unknown) if log_odds else scalars

    def _scalars_of(
        self, weights: StateDict, log_odds: bool, phase: Phase, known: Mapping[int, int]
    ) -> ServerScalars:
        state = self._state
        occasion = ExchangeInfo(state.timeline_round, phase, state.costs[Phase.UNLEARN])
        return request_scalars(self._clients, known, state.held_out, weights, log_odds, occasion)

    def _evaluating(self) -> dict[int, int]:
        """Clients that evaluate -> rounds done up to which the server knows of their recordings."""
        state = self._state
        there, most, seed = self._context.reachable(), self._config.unlearning.asked, self._config.seed
        drawn = sample_clients(there, most, seed, Phase.EVALUATE, state.timeline_round)
        return {c: state.last_report.get(c, 0) for c in drawn}

    def take(
        self,
        weights: StateDict,
        requests: Sequence[TrackedRequest],
        scalars: ServerScalars,
        kind: str = "train.unlearn",
        teacher: StateDict | None = None,
        share: float = 1.0,
        orthogonal_to: Sequence[StateDict] = (),
    ) -> tuple[StateDict, Outcomes]:
        """Take the requesters' joint step.

        Args:
            weights: of the global model.
            requests: of clients that can be reached.
            scalars: for them.
            kind: of the message.
            teacher: weights that go with it.
            share: of the joint step.
            orthogonal_to: as of ``StepInputs``.

        Returns:
            (the next weights, the outcome at each client whose reply has arrived)
        """
        outcomes: Outcomes = {}
        rehearse = StepRehearsals(partial(self._rehearsing.ask, weights, scalars))
        by_client = grouped(requests)
        turns = [[c] for c in by_client] if self._sequential else [list(by_client)]
        for turn in turns:
            self._state.costs[Phase.UNLEARN].rounds += 1
            if outcomes:  # the model has moved since
                scalars = self.request_scalars(weights, scalars.trained is not None)
            answers = self._requesters.ask(weights, {c: by_client[c] for c in turn}, scalars, kind, teacher)
            request_ids = {c: ids_of(by_client[c]) for c in answers}
            weights, new = self._join(weights, answers, request_ids, rehearse, share, orthogonal_to)
            outcomes |= new
        return weights, outcomes

    def _join(
        self,
        weights: StateDict,
        answers: ClientAnswers,
        request_ids: Mapping[int, Sequence[str]],
        rehearse: Rehearse,
        share: float = 1.0,
        orthogonal_to: Sequence[StateDict] = (),
    ) -> tuple[StateDict, Outcomes]:
        """Join the requesters' updates with the global model, as far as the guard lets them.

        Args:
            weights: of the global model.
            answers: client -> its update and what it reports.
            request_ids: client -> ids of the requests that its answer is to. A client whose update the guard
                refuses is as if it had not answered.
            rehearse: called by the guard.
            share: of the joint step.
            orthogonal_to: as of ``StepInputs``.

        Returns:
            (the next weights, the outcome at each client whose update joined)
        """
        if not answers:
            return weights, {}
        state = self._state
        updates = [update for update, _ in answers.values()]
        measured = self._context.callbacks.on_unlearn_updates(
            weights, updates, request_ids, state.timeline_round
        )

        def accuracy(candidate: StateDict, staying: Sequence[int]) -> float | None:
            known = {c: until for c, until in self._evaluating().items() if c in staying}
            return self._scalars_of(candidate, False, Phase.GUARD, known).test_accuracy

        requesters = {r.client for r in state.open}
        usual = state.history.usual_norm([c for c in state.examples if c not in requesters])
        weights, passed, done = apply_unlearn_updates(
            weights,
            updates,
            StepInputs(
                self._config,
                self._template,
                state.history,
                state.examples,
                requesters,
                accuracy,
                rehearse,
                state.timeline_round,
                share,
                orthogonal_to,
            ),
            request_ids,
        )
        self._record_interventions(done)
        more = {"noise": self._noise()} if self._config.privacy.clip else {}
        outcomes = {}
        for client in (u.client for u in passed):
            update, outcome = answers[client]
            self._context.callbacks.digests.on_update(update, Phase.UNLEARN, state.timeline_round)
            lengths = {"update_norm": update.norm, "usual_norm": usual if isfinite(usual) else None}
            outcomes[client] = {**outcome, **more, **lengths, "privacy": measured.get(client)}
        return weights, outcomes

    def _record_interventions(self, done: Sequence[Intervention]) -> None:
        """Record what the guard did; clients that it refused may try again."""
        self._state.guarded += [intervention.as_row() for intervention in done]
        for refusal in (i for i in done if i.what == "refused"):
            self._requesters.add_fault(refusal.client, refusal.reason, "refused")
            self._requesters.give_back((name, refusal.client) for name in refusal.requests)

    def _noise(self) -> dict[str, float | None]:
        privacy, worth = self._config.privacy, guarantee(self._config.privacy)
        epsilon = worth.epsilon if isfinite(worth.epsilon) else None
        return {"clip": privacy.clip, "multiplier": privacy.noise, "epsilon": epsilon, "delta": privacy.delta}

    def join_late_replies(self, weights: StateDict) -> tuple[StateDict, dict[RequestKey, dict[str, Any]]]:
        """Join the replies that were on their way and have arrived.

        Args:
            weights: of the global model.

        Returns:
            (the next weights, request -> its outcome)
        """
        state, outcomes = self._state, dict[RequestKey, dict[str, Any]]()
        now = [r for r in state.late_replies if r.due <= state.rounds_done]
        state.late_replies = [r for r in state.late_replies if r.due > state.rounds_done]
        in_time: dict[int, LateReply] = {}
        for reply in now:
            if all(self._counts(key, attempt, reply.due) for key, attempt in reply.requests):
                in_time[reply.update.client] = reply
            else:
                self._requesters.add_fault(
                    reply.update.client, "its unlearn reply came after it had been withdrawn from it", "late"
                )
                self._requesters.give_back(
                    key for key, attempt in reply.requests if self._waits(key, attempt)
                )
        if in_time:
            state.costs[Phase.UNLEARN].rounds += 1
        rehearse = StepRehearsals(partial(self._rehearse_late, weights))
        for turn in [[c] for c in in_time] if self._sequential else [list(in_time)]:
            answers = {c: (in_time[c].update, in_time[c].outcome) for c in turn}
            request_ids = {c: [name for (name, _), _ in in_time[c].requests] for c in turn}
            weights, new = self._join(weights, answers, request_ids, rehearse)
            outcomes |= {key: new[c] for c in new for key, _ in in_time[c].requests}
        return weights, outcomes

    def _rehearse_late(self, weights: StateDict, size: int) -> Sequence[Rehearsal]:
        scalars = self.request_scalars(weights, METHODS[self._config.unlearning.method].reads_log_odds)
        return self._rehearsing.ask(weights, scalars, size)

    @property
    def _sequential(self) -> bool:
        return self._config.unlearning.aggregation == "sequential"

    def _waits(self, key: RequestKey, attempt: int) -> bool:
        request = self._state.requests[key]
        return request.lease is not None and request.attempts == attempt

    def _counts(self, key: RequestKey, attempt: int, due: int) -> bool:
        lease = self._state.requests[key].lease
        return self._waits(key, attempt) and lease is not None and due < lease
