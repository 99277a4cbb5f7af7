"""Who can be reached when, whose unlearn reply comes late, and who drops in the middle of it.

All of it is a function of settings, seed, client, round and attempt, each by a stream of its own: computed in
any order, in any process, before or after a resumption, the answers are the same. A round is meant as
schedules mean it (the number of rounds done), so that a reference that learns through the same rounds meets
the same absences.
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedunlearn.config.federation import AvailabilitySettings
from fedunlearn.errors import BadInput
from fedunlearn.inputs import read_text
from fedunlearn.seeding import rng_for

_COLUMNS = ("client", "from", "until")

Absence = tuple[int, int]
"""offline in the rounds from <= round < until"""


class Availability:
    """When each client can be reached.

    Args:
        settings: of availability; the defaults make everybody always reachable and prompt.
        seed: of the experiment.
        clients: how many there are, 0 ... clients - 1.

    Raises:
        BadInput: the trace cannot be read; one line for each of its rows that makes no sense.
    """

    def __init__(self, settings: AvailabilitySettings, seed: int, clients: int) -> None:
        self._settings, self._seed, self._clients = settings, seed, clients
        self._trace = read_trace(Path(settings.trace), clients) if settings.trace else {}
        # An absence lasts L rounds, so a client is offline where one began in any of the last L: where each
        # begins one with chance b, that is 1 - (1 - b)**L. Rounds before the first count like any other.
        self._begin = 1.0 - (1.0 - settings.offline) ** (1.0 / settings.offline_rounds)
        self._begun: dict[tuple[int, int], bool] = {}

    @property
    def certain(self) -> bool:
        """Whether every client is always reachable and every unlearn reply comes at once."""
        chances = (self._settings.offline, self._settings.slow, self._settings.drop)
        return not any(chances) and not self._trace

    def reachable(self, client: int, rounds_done: int) -> bool:
        """Find out whether the server can reach a client.

        Args:
            client: 0 ...
            rounds_done: rounds done.
        """
        if any(start <= rounds_done < end for start, end in self._trace.get(client, ())):
            return False
        if self._settings.offline == 0.0:
            return True
        return not any(
            self._begins(client, rounds_done - ago) for ago in range(self._settings.offline_rounds)
        )

    def unreachable(self, rounds_done: int) -> tuple[int, ...]:
        """List all clients that cannot be reached, in order.

        Args:
            rounds_done: rounds done.
        """
        return tuple(c for c in range(self._clients) if not self.reachable(c, rounds_done))

    def delay(self, client: int, rounds_done: int, attempt: int) -> int:
        """Find out by how many rounds the reply of an unlearn step is late; 0 = it comes at once.

        Args:
            client: the requester.
            rounds_done: rounds done when the client was sent its message.
            attempt: which lease of the client's this is, 0 ...
        """
        late = self._happens(self._settings.slow, "slow", client, rounds_done, attempt)
        return self._settings.slow_rounds if late else 0

    def drops(self, client: int, rounds_done: int, attempt: int) -> bool:
        """Find out whether a client drops out in the middle of an unlearn step, and nothing comes back.

        Args:
            client: the requester.
            rounds_done: rounds done when the client was sent its message.
            attempt: which lease of the client's this is, 0 ...
        """
        return self._happens(self._settings.drop, "drop", client, rounds_done, attempt)

    def in_results(self, rounds_done_at: Mapping[int, int], requesters: Iterable[int]) -> dict[str, Any]:
        """List absences for ``results.json``.

        Args:
            rounds_done_at: timeline round -> rounds done when it was played.
            requesters: clients whose absences are listed one by one.

        Returns:
            "unreachable": [timeline round, how many clients] wherever it is not none;
            "requesters": [client, from, until] in timeline rounds, in order.
        """
        away = {when: self.unreachable(rounds_done) for when, rounds_done in sorted(rounds_done_at.items())}
        absences = []
        for client in sorted(set(requesters)):
            missed = [timeline_round for timeline_round, clients in away.items() if client in clients]
            starts = [timeline_round for timeline_round in missed if timeline_round - 1 not in missed]
            ends = [timeline_round + 1 for timeline_round in missed if timeline_round + 1 not in missed]
            absences += [[client, start, end] for start, end in zip(starts, ends, strict=True)]
        counts = [[timeline_round, len(clients)] for timeline_round, clients in away.items() if clients]
        return {"unreachable": counts, "requesters": absences}

    def _begins(self, client: int, rounds_done: int) -> bool:
        known = self._begun.get((client, rounds_done))
        if known is None:
            known = self._begun[client, rounds_done] = self._happens(
                self._begin, "absence", client, rounds_done
            )
        return known

    def _happens(self, chance: float, *name: str | int) -> bool:
        return chance > 0.0 and bool(rng_for(self._seed, "availability", *name).random() < chance)


def read_trace(file: Path, clients: int) -> dict[int, tuple[Absence, ...]]:
    """Read absences that are known beforehand.

    Args:
        file: CSV with the columns client, from, until (whole numbers; others are ignored).
        clients: how many there are.

    Returns:
        client -> its absences, in order of time.

    Raises:
        BadInput: it cannot be read; or one line for each row that is not three whole numbers, names an
            unknown client, is empty or begins before round 0, or overlaps another of its client.
    """
    lines = read_text(file, "availability.trace", "CSV").splitlines()
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise BadInput(f"availability.trace: {file}: is not CSV ({error})") from error
    head = [name.strip() for name in rows[0]] if rows else []
    if not set(_COLUMNS) <= set(head):
        raise BadInput(
            f"availability.trace: {file}: the columns {', '.join(_COLUMNS)} are needed, in a first row"
        )
    problems: list[str] = []
    known: dict[int, list[tuple[int, int, int]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        place = f"availability.trace: {file}: row {number}"
        try:
            client, start, end = (int(row[head.index(name)]) for name in _COLUMNS)
        except (ValueError, IndexError):
            problems.append(f"{place}: client, from and until must be whole numbers (got {','.join(row)})")
            continue
        if not 0 <= client < clients:
            problems.append(f"{place}: there is no client {client}, they are 0 to {clients - 1}")
        elif not 0 <= start < end:
            problems.append(f"{place}: must be 0 <= from < until (got {start}, {end})")
        else:
            known.setdefault(client, []).append((start, end, number))
    for client, absences in sorted(known.items()):
        absences.sort()
        _, end, last = absences[0]
        for start, its_end, number in absences[1:]:
            if start < end:
                one, other = sorted((last, number))
                place = f"availability.trace: {file}: row {other}"
                problems.append(f"{place}: overlaps row {one}, both of client {client}; join them")
            if its_end > end:
                end, last = its_end, number
    if problems:
        raise BadInput(problems)
    return {client: tuple((start, end) for start, end, _ in own) for client, own in sorted(known.items())}
