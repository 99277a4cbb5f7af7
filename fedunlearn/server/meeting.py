"""The first exchange of a run: every client reports its id and how much it holds."""

import time
from collections import Counter
from collections.abc import Sequence

from flwr.app import RecordDict

from fedunlearn.console import warn
from fedunlearn.errors import RunFailed
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.replies import PopulationReport, read_population, read_reply_cost
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.exchange import Channel, Exchange, ExchangeInfo, kind_of_fault, reason_of
from fedunlearn.server.state import UNKNOWN_CLIENT

_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS = 3.0, 30.0
"""s after which a warning says that clients are missing, the first time and then again"""
_MORE_CLIENTS = (
    "with flwr run, the federation needs as many SuperNodes as there are clients: set "
    "options.num-supernodes, or clients in --run-config"
)


def meet_clients(channel: Channel, count: int) -> dict[int, PopulationReport]:
    """Have all clients introduce themselves, and note their nodes in the channel.

    Args:
        channel: to the clients.
        count: how many there must be.

    Returns:
        client -> its introduction, in client order

    Raises:
        RunFailed: a client did not introduce itself, or the run was interrupted.
    """
    nodes = _wait_for_nodes(channel, count)
    reasons: dict[int, str] = {}
    known: dict[int, PopulationReport] = {}
    for _ in range(1 + channel.settings.retries):
        missing = [n for n in nodes if n not in channel.nodes.values()]
        if len(channel.nodes) < count:
            found, reasons = _introduce(channel, missing, count)
            known |= found
    if sorted(known) != list(range(count)):
        lost = sorted(set(range(count)) - set(known))
        why = "; ".join(f"node {node}: {reason}" for node, reason in reasons.items())
        raise RunFailed(f"clients {lost} did not say who they are; their vaults may be unreadable ({why})")
    return dict(sorted(known.items()))


def _wait_for_nodes(channel: Channel, count: int) -> list[int]:
    # Node ids are random in every run, and the list is empty when a ServerApp starts.
    begin, timeout = time.monotonic(), channel.settings.timeout
    next_warning = begin + _FIRST_WORD_SECONDS
    nodes: list[int] = []
    while len(nodes) < count:
        here = f"{len(nodes)} of {count} clients are connected"
        if (now := time.monotonic()) > next_warning:
            warn(f"{here}; waiting for the others, {timeout - (now - begin):.0f} s more")
            next_warning = now + _NEXT_WORD_SECONDS
        channel.check_time(begin + timeout, here, more=f"; {_MORE_CLIENTS}")
        nodes = sorted(channel.grid.get_node_ids())
    return nodes


def _introduce(
    channel: Channel, nodes: Sequence[int], count: int
) -> tuple[dict[int, PopulationReport], dict[int, str]]:
    """Ask nodes which clients they are.

    Returns:
        (client -> its introduction, node -> why its introduction does not count)
    """
    occasion, empty = ExchangeInfo(0, Phase.MEET, PhaseCost()), {node: RecordDict() for node in nodes}
    exchange = Exchange(channel, "query.population", empty, dict(zip(nodes, nodes, strict=True)), occasion)
    exchange.send(nodes)
    found: dict[int, PopulationReport] = {}
    refused: dict[int, str] = {}
    for node in nodes:
        reply = exchange.reply_of(node)
        try:
            content = exchange.check_reply(reply)
            read_reply_cost(content)
            found[node] = read_population(content, count)
        except RunFailed:
            raise
        except Exception as error:
            refused[node] = reason_of(error)
            reason = f"node {node}: {refused[node]}"
            channel.add_fault(UNKNOWN_CLIENT, reason, occasion, kind_of_fault(reply))
    claims = Counter(introduction.client for introduction in found.values()) + Counter(channel.nodes)
    met: dict[int, PopulationReport] = {}
    for node, introduction in found.items():
        client = introduction.client
        if claims[client] > 1:
            refused[node] = f"it says that it is client {client}, as another node does"
            channel.add_fault(UNKNOWN_CLIENT, f"node {node}: {refused[node]}", occasion, "refused")
            continue
        channel.nodes[client] = node
        met[client] = introduction
    return met, refused
