"""Messages to requesters and their replies: leases, dropouts and late replies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import RecordDict

from fedunlearn.blockwise import StateDict
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.replies import LONGEST_UNLEARN_UPDATE, UpdateForm
from fedunlearn.messages.scalars import as_settings
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import trained_names
from fedunlearn.server.clients import Payload, settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.left_out import difference_for
from fedunlearn.server.requests import RequestKey, TrackedRequest, ids_of, read_outcome
from fedunlearn.server.state import Fault, LateReply
from fedunlearn.unlearning.contract import ServerScalars

ClientAnswers = dict[int, tuple[Update, dict[str, Any]]]
"""client -> its update, and what it reports of its unlearning"""


class Requesters:
    """Clients that have requested deletions and have to unlearn them.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._clients, self._config = context.clients, context.config
        self._state, self._template = context.state, context.template
        self._availability = context.availability

    def ask(
        self,
        weights: StateDict,
        requests: Mapping[int, Sequence[TrackedRequest]],
        scalars: ServerScalars,
        kind: str,
        teacher: StateDict | None,
    ) -> ClientAnswers:
        """Have requesters unlearn their forget sets.

        Args:
            weights: of the global model.
            requests: client -> its requests.
            scalars: for the requesters.
            kind: of the message.
            teacher: weights that go with it; None = none.

        Returns:
            the answers that arrive at once; the others are lost, or late
        """
        state, content, payload = self._state, {}, Payload(weights, teacher)
        for client, own in requests.items():
            share = min(1.0, sum(r.utterances for r in own) / self._clients.examples[client])
            numbers = as_settings(replace(scalars, share=share))
            config = settings(
                requests=ids_of(own),
                round=state.timeline_round,
                rounds_done=state.rounds_done,
                **numbers,
            )
            apart = difference_for(self._config, state.history.left_out, client)
            content[client] = payload.with_settings(config, apart)
            for request in own:
                request.attempts += 1
                request.lease = state.rounds_done + self._config.availability.lease

        form = UpdateForm.of(weights, trained_names(self._template), LONGEST_UNLEARN_UPDATE)

        def read(client: int, reply: RecordDict) -> tuple[Update, dict[str, Any]]:
            wanted = sum(r.utterances for r in requests[client])
            outcome = read_outcome(reply, client, kind, wanted, form)
            return outcome.update, outcome.about

        occasion = ExchangeInfo(state.timeline_round, Phase.UNLEARN, state.costs[Phase.UNLEARN])
        answers = self._clients.ask(kind, content, read, occasion, quorum=0.0)
        # A client that failed has reported it: no lease is waited for.
        self.give_back(r.key for c, own in requests.items() if c not in answers for r in own)
        if kind != "train.unlearn":  # the rounds of a privileged baseline do not wait for late replies
            return answers
        return {c: answer for c, answer in answers.items() if self._at_once(c, answer, requests[c])}

    def _at_once(
        self, client: int, answer: tuple[Update, dict[str, Any]], requests: Sequence[TrackedRequest]
    ) -> bool:
        state, attempt = self._state, max(r.attempts for r in requests)
        if self._availability.drops(client, state.rounds_done, attempt):
            self.add_fault(client, "dropped out in the middle of its unlearn step", "dropped")
            return False
        delay = self._availability.delay(client, state.rounds_done, attempt)
        if delay:
            given = tuple((r.key, r.attempts) for r in requests)
            state.late_replies.append(LateReply(state.rounds_done + delay, answer[0], given, answer[1]))
        return not delay

    def give_back(self, keys: Iterable[RequestKey]) -> None:
        """End the leases of requests, so that they are given out anew.

        Args:
            keys: of the requests.
        """
        for key in keys:
            self._state.requests[key].lease = None

    def add_fault(self, client: int, reason: str, kind: str) -> None:
        """Note a requester's reply that does not count.

        Args:
            client: the requester.
            reason: one line.
            kind: as of ``Fault``.
        """
        self._state.faults.append(Fault(self._state.timeline_round, Phase.UNLEARN, client, reason, kind))
