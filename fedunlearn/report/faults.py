"""What went wrong on the way: replies that did not count, the guard's interventions, malicious clients."""

from collections import Counter

from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, fraction, plain, significant
from fedunlearn.results_schema import Results

FAULTS_SHOWN = 50
GUARD_COLUMNS = ("round", "what", "client", "request", "length", "limit", "drop", "silenced", "left of it")


def fault_table(results: Results) -> Table | None:
    """The first faults, with their kind where the results have it; None where there was no fault."""
    faults = results.faults
    if not faults:
        return None
    cells = {
        "round": [plain(fault.round) for fault in faults],
        "phase": [plain(fault.phase) for fault in faults],
        "client": [plain(fault.client) for fault in faults],
        "kind": [plain(fault.kind) for fault in faults],
        "reason": [plain(fault.reason) for fault in faults],
    }
    if not any(fault.kind for fault in faults):
        del cells["kind"]
    rows = [
        Row(head, cells=tuple(map(Cell, others)))
        for head, *others in zip(*(column[:FAULTS_SHOWN] for column in cells.values()), strict=True)
    ]
    kinds = Counter(fault.kind for fault in faults if fault.kind)
    counted = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    return Table(tuple(map(Column, cells)), tuple(rows), caption=counted)


def guard_table(results: Results) -> Table | None:
    """One row for each intervention of the guard, its round first; None where there was none."""
    rows = [
        Row(
            plain(each.round),
            cells=tuple(
                map(
                    Cell,
                    (
                        plain(each.what),
                        plain(each.client),
                        ", ".join(each.requests) or MISSING,
                        significant(each.norm),
                        significant(each.limit),
                        fraction(each.drop),
                        fraction(each.silenced),
                        fraction(each.factor),
                    ),
                )
            ),
        )
        for each in results.guard
    ]
    return Table(tuple(map(Column, GUARD_COLUMNS)), tuple(rows)) if rows else None


def rehearsed(results: Results) -> str:
    """What clients without a request reported of their rehearsals, over all steps; empty without any."""
    steps = [each for each in results.rehearsals if each.clients]
    if not steps:
        return ""
    clients = sorted({each.clients for each in steps if each.clients is not None})
    who = (
        "1 client"
        if clients == [1]
        else f"{'–'.join(map(str, dict.fromkeys((clients[0], clients[-1]))))} clients"
    )
    longest = max((each.longest for each in steps if each.longest is not None), default=None)
    silenced = max((each.silenced for each in steps if each.silenced is not None), default=None)
    drop = max((each.drop for each in steps if each.drop is not None), default=None)
    when = "the unlearn step" if len(steps) == 1 else f"each of {len(steps)} unlearn steps"
    return (
        f"{who[0].upper()}{who[1:]} without a request rehearsed {when}: the longest update was "
        f"{significant(longest)} long, a class lost up to {fraction(silenced)} of its probes, and the median "
        f"client lost {fraction(drop)} of its accuracy."
    )


def malicious_clients(results: Results) -> str:
    """``test clients 2, 5 are malicious (scaled, factor 10.0)``; empty where no client is."""
    attackers = results.attackers
    if not attackers.clients:
        return ""
    several = len(attackers.clients) > 1
    who = ", ".join(map(str, attackers.clients))
    how = f"{plain(attackers.kind)}, factor {significant(attackers.factor)}"
    return f"test client{'s' if several else ''} {who} {'are' if several else 'is'} malicious ({how})"
