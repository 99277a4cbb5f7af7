"""Rehearsals in a replayed federation, as the clients of a run make them for the server's guard."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from fedunlearn.blockwise import StateDict
from fedunlearn.client.steps import draw_rehearsal, rehearse, with_unknown
from fedunlearn.experiment.replayed_clients import ReplayData, ReplayedClients
from fedunlearn.experiment.timeline import TimelineRound
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.models.probes import Probes
from fedunlearn.server.steps import draw_rehearsing
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed


def replay_rehearsals(
    data: ReplayData,
    stream: int,
    clients: ReplayedClients,
    left_out: Callable[[int], StateDict | None],
    weights: StateDict,
    round_: TimelineRound,
    scalars: ServerScalars,
    size: int,
) -> list[Rehearsal]:
    """Have clients without a request rehearse an unlearn step.

    Args:
        data: of the run.
        stream: seed of all randomness.
        clients: of the replay.
        left_out: what the server sends to a client with its numbers.
        weights: of the global model.
        round_: of the timeline.
        scalars: of the server.
        size: utterances that each unlearns.

    Returns:
        of those that do not fail, in client order
    """
    config, number, found = data.config, round_.timeline_round, []
    gone, holding = data.timeline.purged(number), clients.vaults.holding(round_)
    away = {*data.timeline.away[round_.rounds_done], *data.timeline.requesters(number)}
    staying = [client for client, held in holding.items() if held and client not in away]
    method, model = METHODS[config.unlearning.method].unlearn, clients.model
    model.load_state_dict(weights)
    probes = Probes(model, weights, config.seed)
    for client in draw_rehearsing(staying, config, number):
        when = client, number, stream
        own = draw_rehearsal(clients.vaults.held(client, round_.rounds_done, gone), size, *when)
        held_out = clients.examples(u for u in data.test[client] if u not in gone)
        sent = replace(scalars, share=min(1.0, size / holding[client]))
        with suppress(UnlearnFailed):
            forget_set = with_unknown(model, clients.forget_set(own), left_out(client))
            found.append(rehearse(model, probes, forget_set, held_out, method, config, sent, *when))
    return found
