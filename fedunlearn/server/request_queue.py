"""Which requests are given out to their devices when: windows, deadlines, leases and other devices."""

from fedunlearn.deletion.request import RequestState
from fedunlearn.server.context import ServerContext
from fedunlearn.server.requests import TrackedRequest


class RequestQueue:
    """Accepted requests that wait for their unlearn step.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._state, self._config = context.state, context.config
        self._availability = context.availability

    def ready(self) -> list[TrackedRequest]:
        """List accepted requests to be given out now: all that wait, once one of them has waited long enough.

        Those whose client cannot be reached, or is at work, wait on; so do the parts of one person's request
        until all of that person's devices have reported theirs, or the deadline has passed.
        """
        state = self._state
        at_work = {r.client for r in state.open if r.lease is not None and state.rounds_done < r.lease}
        waiting = [
            r
            for r in state.requests.values()
            if r.state is RequestState.ACCEPTED
            and r.client not in at_work
            and self._availability.reachable(r.client, state.rounds_done)
            and self._complete(r)
        ]
        return waiting if any(self._has_waited(r) for r in waiting) else []

    def leases(self) -> list[int]:
        """List, in rounds done, when requests that are at their devices are due back or given out anew."""
        accepted = [r for r in self._state.open if r.state is RequestState.ACCEPTED]
        return [r.lease for r in accepted if r.lease is not None]

    def due(self) -> list[int]:
        """List, in rounds done, by when each waiting request is given out, if its client can be reached."""
        rounds = []
        for request in self._state.open:
            if request.state is RequestState.ACCEPTED and request.lease is None:
                rounds.append(request.rounds_done + self._config.deletions.window)
                if not self._complete(request) and request.deadline is not None:
                    # Then it no longer waits for the others.
                    rounds.append(request.rounds_done + request.deadline + 1)
        return rounds

    def _complete(self, request: TrackedRequest) -> bool:
        parts = [r for r in self._state.requests.values() if r.id == request.id]
        return request.overdue or len(parts) >= request.devices

    def _has_waited(self, request: TrackedRequest) -> bool:
        waited = self._state.rounds_done - request.rounds_done
        in_time = request.deadline is not None and waited >= request.deadline
        return waited >= self._config.deletions.window or in_time
