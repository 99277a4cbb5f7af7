"""Rehearsals: how far an honest unlearn update goes, measured on clients that have requested nothing.

Each runs the run's own unlearning method, from the same global model and with the same numbers from the
server, on some of its own training speech, reports four numbers, and keeps nothing of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from statistics import median
from typing import Any

from flwr.app import RecordDict

from fedunlearn.blockwise import StateDict
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.rehearsals import Rehearsal, read_rehearsal
from fedunlearn.messages.scalars import as_settings
from fedunlearn.server.clients import Payload, settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.left_out import difference_for
from fedunlearn.server.steps import distance_travelled, draw_rehearsing
from fedunlearn.unlearning.contract import ServerScalars


class RehearsingClients:
    """Clients that the server asks to rehearse an unlearn step.

    Args:
        context: of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context, self._clients, self._state = context, context.clients, context.state

    def ask(self, weights: StateDict, scalars: ServerScalars, size: int) -> list[Rehearsal]:
        """Have clients without a request rehearse an unlearn step.

        Args:
            weights: of the global model.
            scalars: as for the requesters.
            size: utterances that each unlearns; all of its own where it has fewer.

        Returns:
            of those that replied, in client order
        """
        state, config = self._state, self._context.config
        requesters = {r.client for r in state.open}
        staying = [c for c in self._context.reachable() if c not in requesters]
        payload, content = Payload(weights), {}
        for client in draw_rehearsing(staying, config, state.timeline_round):
            share = min(1.0, size / self._clients.examples[client])
            content[client] = payload.with_settings(
                settings(
                    size=size,
                    round=state.timeline_round,
                    rounds_done=state.last_report.get(client, 0),
                    **as_settings(replace(scalars, share=share)),
                ),
                difference_for(config, state.history.left_out, client),
            )

        def read(client: int, reply: RecordDict) -> Rehearsal:
            return read_rehearsal(reply, state.held_out[client])

        occasion = ExchangeInfo(state.timeline_round, Phase.GUARD, state.costs[Phase.UNLEARN])
        found = [*self._clients.ask("train.rehearse", content, read, occasion, quorum=0.0).values()]
        distance = distance_travelled(weights, state.history)
        state.rehearsals.append(
            {
                "round": state.timeline_round,
                "size": size,
                "distance": distance if isfinite(distance) else None,
                **summary_of(found),
            }
        )
        return found


def summary_of(rehearsals: Sequence[Rehearsal]) -> Mapping[str, Any]:
    """Summarise the rehearsals of a step, as results.json shows them.

    Args:
        rehearsals: of the clients that replied.
    """
    drops = [r.drop for r in rehearsals if r.drop is not None]
    return {
        "clients": len(rehearsals),
        "longest": max((r.norm for r in rehearsals), default=None),
        "silenced": max((r.silenced for r in rehearsals), default=None),
        "drop": median(drops) if drops else None,
    }
