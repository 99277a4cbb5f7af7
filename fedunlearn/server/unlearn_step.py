"""The unlearn step: requesters forget, each on its own forget set alone, and their updates join the model.

A reply may take its time (``availability``): it joins the model of the date at which it comes, if the lease
of its request still runs; else it is refused, and the request is given out anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from flwr.app import RecordDict

from fedunlearn.blockwise import StateDict
from fedunlearn.client.privacy import guarantee
from fedunlearn.config import Config
from fedunlearn.messages.replies import LONGEST_UNLEARN_UPDATE, UpdateForm
from fedunlearn.messages.scalars import as_settings
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel, trained_names
from fedunlearn.server.availability import Availability
from fedunlearn.server.callbacks import Callbacks
from fedunlearn.server.clients import Clients, ExchangeInfo, Fault, Payload, ask_scalars, settings
from fedunlearn.server.guard import Intervention
from fedunlearn.server.requests import RequestKey, TrackedRequest, grouped, ids_of, read_outcome
from fedunlearn.server.state import Reply, Standing
from fedunlearn.server.steps import apply_unlearn_updates, sample_clients
from fedunlearn.unlearning.contract import ServerScalars

Outcomes = dict[int, dict[str, Any]]
"""client -> what became of its requests"""
Answers = dict[int, tuple[Update, dict[str, Any]]]


class UnlearnStep:
    """Asks requesters to forget and joins what they send.

    Args:
        federation: the clients.
        config: the experiment.
        template: a model of its kind.
        standing: of the run.
        observer: of the run.
        availability: of the clients.
    """

    def __init__(
        self,
        federation: Clients,
        config: Config,
        template: EmotionModel,
        standing: Standing,
        observer: Callbacks,
        availability: Availability,
    ) -> None:
        self._clients, self._config, self._standing = federation, config, standing
        self._template, self._observer = template, observer
        self._availability = availability

    def scalars(self, weights: StateDict, log_odds: bool) -> ServerScalars:
        """The few numbers that requesters are told, asked of all clients that can be reached."""
        standing = self._standing
        occasion = ExchangeInfo(standing.timeline_round, "evaluate", standing.costs["unlearn"])
        return ask_scalars(self._clients, self._there(), weights, log_odds, occasion)

    def _there(self) -> dict[int, int]:
        """Clients that are asked for numbers -> the date up to which the server knows of their recordings."""
        standing = self._standing
        there = [c for c in self._clients.clients if self._availability.reachable(c, standing.rounds_done)]
        asked, seed = self._config.unlearning.asked, self._config.seed
        there = list(sample_clients(there, asked, seed, "evaluate", standing.timeline_round))
        return {c: standing.last_report.get(c, 0) for c in there}

    def take(
        self,
        weights: StateDict,
        requests: Sequence[TrackedRequest],
        scalars: ServerScalars,
        kind: str = "train.unlearn",
        teacher: StateDict | None = None,
        share: float = 1.0,
    ) -> tuple[StateDict, Outcomes]:
        """The requesters' joint step, and what became of it at each whose answer has come.

        Args:
            requests: of clients that can be reached.
            scalars: for them.
            kind: of the message.
            teacher: weights that go with it.
            share: of the joint step.
        """
        told: Outcomes = {}
        by_client = grouped(requests)
        turns = [[c] for c in by_client] if self._sequential else [list(by_client)]
        for turn in turns:
            self._standing.costs["unlearn"].rounds += 1
            if told:  # somebody has moved the model since
                scalars = self.scalars(weights, scalars.trained is not None)
            answers = self._ask(weights, {c: by_client[c] for c in turn}, scalars, kind, teacher)
            weights, new = self.join(weights, answers, {c: ids_of(by_client[c]) for c in answers}, share)
            told |= new
        return weights, told

    def join(
        self, weights: StateDict, answers: Answers, asked: Mapping[int, Sequence[str]], share: float = 1.0
    ) -> tuple[StateDict, Outcomes]:
        """The model after these answers, and what became of the requests of each.

        Args:
            asked: client -> ids of the requests that its answer is to. One whose update the guard refuses
                is as if it had not answered.
        """
        if not answers:
            return weights, {}
        standing = self._standing
        updates = [update for update, _ in answers.values()]
        measured = self._observer.on_unlearn_updates(weights, updates, asked, standing.timeline_round)
        occasion = ExchangeInfo(standing.timeline_round, "guard", standing.costs["unlearn"])

        def accuracy(state: StateDict, staying: Sequence[int]) -> float | None:
            there = {c: rounds_done for c, rounds_done in self._there().items() if c in staying}
            return ask_scalars(self._clients, there, state, False, occasion).test_accuracy

        asking = {r.client for r in standing.open}
        usual = standing.history.usual_norm([c for c in self._clients.examples if c not in asking])
        weights, passed, done = apply_unlearn_updates(
            weights,
            updates,
            asked,
            self._config,
            self._template,
            standing.history,
            self._clients.examples,
            asking,
            accuracy,
            standing.timeline_round,
            share,
        )
        self._write_down(done)
        more = {"noise": self._noise()} if self._config.privacy.clip else {}
        told = {}
        for client in (u.client for u in passed):
            sent, outcome = answers[client]
            lengths = {"update_norm": sent.norm, "usual_norm": usual if isfinite(usual) else None}
            told[client] = {**outcome, **more, **lengths, "privacy": measured.get(client)}
        return weights, told

    def _write_down(self, done: Sequence[Intervention]) -> None:
        """Keep what the guard did; whom it refused may try again."""
        self._standing.guarded += [intervention.as_row() for intervention in done]
        for refusal in (i for i in done if i.what == "refused"):
            self._fault(refusal.client, refusal.reason, "refused")
            self._give_back((name, refusal.client) for name in refusal.requests)

    def _noise(self) -> dict[str, float | None]:
        privacy, worth = self._config.privacy, guarantee(self._config.privacy)
        epsilon = worth.epsilon if isfinite(worth.epsilon) else None
        return {"clip": privacy.clip, "multiplier": privacy.noise, "epsilon": epsilon, "delta": privacy.delta}

    def arrived(self, weights: StateDict) -> tuple[StateDict, dict[RequestKey, dict[str, Any]]]:
        """Join the replies that were on their way and have come, each to the model of now.

        Returns:
            (the model, what became of each of their requests)
        """
        standing, done = self._standing, dict[RequestKey, dict[str, Any]]()
        now = [r for r in standing.late_replies if r.due <= standing.rounds_done]
        standing.late_replies = [r for r in standing.late_replies if r.due > standing.rounds_done]
        in_time: dict[int, Reply] = {}
        for reply in now:
            if all(self._counts(key, attempt, reply.due) for key, attempt in reply.requests):
                in_time[reply.update.client] = reply
            else:
                self._fault(
                    reply.update.client, "its unlearn reply came when it was asked for no more", "late"
                )
                self._give_back(key for key, attempt in reply.requests if self._waits(key, attempt))
        if in_time:
            standing.costs["unlearn"].rounds += 1
        for turn in [[c] for c in in_time] if self._sequential else [list(in_time)]:
            answers = {c: (in_time[c].update, in_time[c].outcome) for c in turn}
            asked = {c: [name for (name, _), _ in in_time[c].requests] for c in turn}
            weights, told = self.join(weights, answers, asked)
            done |= {key: told[c] for c in told for key, _ in in_time[c].requests}
        return weights, done

    @property
    def _sequential(self) -> bool:
        return self._config.unlearning.aggregation == "sequential"

    def _waits(self, key: RequestKey, attempt: int) -> bool:
        request = self._standing.requests[key]
        return request.lease is not None and request.attempts == attempt

    def _counts(self, key: RequestKey, attempt: int, due: int) -> bool:
        lease = self._standing.requests[key].lease
        return self._waits(key, attempt) and lease is not None and due < lease

    def _give_back(self, keys: Iterable[RequestKey]) -> None:
        for key in keys:
            self._standing.requests[key].lease = None

    def _fault(self, client: int, reason: str, kind: str) -> None:
        self._clients.faults.append(Fault(self._standing.timeline_round, "unlearn", client, reason, kind))

    def _ask(
        self,
        weights: StateDict,
        requests: Mapping[int, Sequence[TrackedRequest]],
        scalars: ServerScalars,
        kind: str,
        teacher: StateDict | None,
    ) -> Answers:
        """The answers that come at once; the others are lost, or on their way."""
        standing, content, letter = self._standing, {}, Payload(weights, teacher)
        for client, own in requests.items():
            share = min(1.0, sum(r.utterances for r in own) / self._clients.examples[client])
            told = as_settings(replace(scalars, share=share))
            asked = settings(
                requests=ids_of(own), round=standing.timeline_round, rounds_done=standing.rounds_done, **told
            )
            content[client] = letter(asked)
            for request in own:
                request.attempts += 1
                request.lease = standing.rounds_done + self._config.availability.lease

        form = UpdateForm.of(weights, trained_names(self._template), LONGEST_UNLEARN_UPDATE)

        def read(client: int, reply: RecordDict) -> tuple[Update, dict[str, Any]]:
            wanted = sum(r.utterances for r in requests[client])
            said = read_outcome(reply, client, kind, wanted, form)
            return said.update, said.about

        occasion = ExchangeInfo(standing.timeline_round, "unlearn", standing.costs["unlearn"])
        answers = self._clients.ask(kind, content, read, occasion, quorum=0.0)
        # Who has failed has said so: no lease is waited for.
        self._give_back(r.key for c, own in requests.items() if c not in answers for r in own)
        if kind != "train.unlearn":  # an upper reference's rounds know no patience
            return answers
        return {c: answer for c, answer in answers.items() if self._at_once(c, answer, requests[c])}

    def _at_once(
        self, client: int, answer: tuple[Update, dict[str, Any]], requests: Sequence[TrackedRequest]
    ) -> bool:
        standing, attempt = self._standing, max(r.attempts for r in requests)
        if self._availability.drops(client, standing.rounds_done, attempt):
            self._fault(client, "dropped out in the middle of its unlearn step", "dropped")
            return False
        delay = self._availability.delay(client, standing.rounds_done, attempt)
        if delay:
            given = tuple((r.key, r.attempts) for r in requests)
            standing.late_replies.append(Reply(standing.rounds_done + delay, answer[0], given, answer[1]))
        return not delay
