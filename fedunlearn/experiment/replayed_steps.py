"""The requesters' joint step in a replayed federation."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedunlearn.blockwise import StateDict
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.replayed_rehearsals import replay_rehearsals
from fedunlearn.experiment.timeline import TimelineRequest, TimelineRound
from fedunlearn.server.history import History
from fedunlearn.server.left_out import difference_for
from fedunlearn.server.steps import StepInputs, StepRehearsals, apply_unlearn_updates
from fedunlearn.unlearning.contract import Method, ServerScalars, UnknownSpeakers

RequestsOfClients = dict[int, list[TimelineRequest]]
"""client -> its requests that are served, in client order"""


@dataclass(frozen=True)
class HalfRound:
    """What a privileged baseline's forget half adds to a joint step.

    Attributes:
        method: gives a client's method; None = that of the data, for the client's forget set.
        share: of the joint step.
        orthogonal_to: as of ``StepInputs``.
    """

    method: Callable[[int], Method] | None = None
    share: float = 1.0
    orthogonal_to: Sequence[StateDict] = ()


class ReplayedSteps:
    """Takes joint steps of a replayed federation.

    Args:
        data: of the run.
        stream: seed of all randomness.
        clients: of the replay.
        history: of its main line.
        outside: utterances that it never sees.
    """

    def __init__(
        self,
        data: ReplayData,
        stream: int,
        clients: ReplayedClients,
        history: History,
        outside: Collection[str],
    ) -> None:
        self._data, self._config, self._timeline = data, data.config, data.timeline
        self._stream, self._clients, self._history = stream, clients, history
        self._outside = outside

    def requests(self, round_: TimelineRound) -> RequestsOfClients:
        """List the requests of a step that name any of the federation's utterances.

        Args:
            round_: of the timeline.
        """
        own: RequestsOfClients = {}
        numbers = sorted(round_.requests, key=lambda n: self._timeline.requests[n].client)
        for number in numbers:
            request = self._timeline.requests[number]
            own.setdefault(request.client, []).append(request)
        return {client: requests for client, requests in own.items() if self.forget_set(requests)}

    def forget_set(self, requests: Sequence[TimelineRequest]) -> tuple[str, ...]:
        """List what a client's requests name of the federation's utterances.

        Args:
            requests: of one client.
        """
        return tuple(u for r in requests for u in r.utterances if u not in self._outside)

    def scalars(
        self, weights: StateDict, round_: TimelineRound, unknown: UnknownSpeakers | None, log_odds: bool
    ) -> ServerScalars:
        """Have the clients evaluate a model, for the numbers that requesters are sent.

        Args:
            weights: of the model.
            round_: of the timeline.
            unknown: as of ``ServerState``.
            log_odds: whether log-odds are wanted.
        """
        scalars = self._clients.scalars(weights, round_, log_odds)
        return replace(scalars, unknown=unknown) if log_odds else scalars

    def take(
        self,
        weights: StateDict,
        round_: TimelineRound,
        requests: RequestsOfClients,
        scalars: ServerScalars,
        half: HalfRound | None = None,
    ) -> tuple[StateDict, set[int]]:
        """Take the joint step of requesters.

        Args:
            weights: of the global model.
            round_: of the timeline.
            requests: that are served.
            scalars: for the requesters.
            half: of a privileged baseline; None = the step of a method.

        Returns:
            (the next weights, the clients whose updates joined)
        """
        half, joined = half or HalfRound(), set[int]()
        apart = partial(difference_for, self._config, self._history.left_out)
        played = self._data, self._stream, self._clients, apart
        rehearse = StepRehearsals(partial(replay_rehearsals, *played, weights, round_, scalars))
        one_by_one = self._config.unlearning.aggregation == "sequential"
        for turn in [[c] for c in requests] if one_by_one else [list(requests)] if requests else []:
            if joined:  # the model has moved since
                scalars = self.scalars(weights, round_, scalars.unknown, scalars.trained is not None)
            made = (
                self._clients.unlearn(
                    weights,
                    round_,
                    client,
                    self.forget_set(requests[client]),
                    scalars,
                    apart(client),
                    half.method(client) if half.method else None,
                )
                for client in turn
            )
            updates = [update for update in made if update]
            if not updates:
                continue
            request_ids = {u.client: [r.id for r in requests[u.client]] for u in updates}
            inputs = StepInputs(
                self._config,
                self._clients.model,
                self._history,
                self._clients.vaults.holding(round_),
                self._timeline.requesters(round_.timeline_round),
                partial(self._accuracy, round_),
                rehearse,
                round_.timeline_round,
                half.share,
                half.orthogonal_to,
            )
            weights, passed, _ = apply_unlearn_updates(weights, updates, inputs, request_ids)
            joined |= {update.client for update in passed}
        return weights, joined

    def _accuracy(self, round_: TimelineRound, weights: StateDict, staying: Collection[int]) -> float | None:
        """Have clients evaluate a model on their held-out speech; None where there are no such clients."""
        if not staying:
            return None
        return self._clients.scalars(weights, round_, False, staying).test_accuracy
