"""How much worse the global model recognises speakers that it never heard than those that it knows."""

from fedunlearn.blockwise import StateDict
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.scalars import compare_log_odds, read_log_odds
from fedunlearn.server.clients import Payload, settings
from fedunlearn.server.context import ServerContext
from fedunlearn.server.exchange import ExchangeInfo
from fedunlearn.server.late_clients import LateClients
from fedunlearn.unlearning.contract import UnknownSpeakers


def measure_unknown_speakers(context: ServerContext, weights: StateDict) -> UnknownSpeakers | None:
    """Compare the model's log-odds on the speech of late clients with those on held-out speech of the others.

    All clients that can be reached are asked. Those that have trained sum up their held-out speech, the late
    ones all of their speech: the model knows none of it.

    Args:
        context: of the server, before any late client has trained.
        weights: of the global model.

    Returns:
        None where either group has no speech to sum up; a client with fewer than four utterances sends no
        sums
    """
    state, late, payload = context.state, LateClients.of(context.config).clients, Payload(weights)
    trained = state.history.last_rounds()
    asked = [client for client in context.reachable() if client in late or client in trained]
    if not late & {*asked} or not {*asked} - late:
        return None
    content = {
        client: payload.with_settings(
            settings(rounds_done=state.last_report.get(client, 0), all_speech=int(client in late))
        )
        for client in asked
    }
    held = {c: state.held_out[c] + (context.clients.examples[c] if c in late else 0) for c in asked}
    occasion = ExchangeInfo(state.timeline_round, Phase.EVALUATE, state.costs[Phase.LEARN])
    sums = context.clients.ask(
        "evaluate.log_odds",
        content,
        lambda client, reply: read_log_odds(reply, held[client]),
        occasion,
        quorum=0.0,
    )
    return compare_log_odds(
        [of for client, of in sums.items() if client not in late],
        [of for client, of in sums.items() if client in late],
    )
