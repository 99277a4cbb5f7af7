"""What the vaults of a replayed federation hold, round by round, as the ids of its training utterances."""

from collections.abc import Collection, Sequence

from fedunlearn.experiment.timeline import Timeline, TimelineRound
from fedunlearn.server.late_clients import LateClients


class ReplayedVaults:
    """Which training utterances each client holds, and who can train on them.

    Args:
        train: of each client, in client order, the ids of what it trains on.
        timeline: of the run.
        late: clients that join learning later.
        outside: utterances that no client holds.
    """

    def __init__(
        self,
        train: Sequence[tuple[str, ...]],
        timeline: Timeline,
        late: LateClients,
        outside: Collection[str],
    ) -> None:
        self._train, self._timeline, self._late = train, timeline, late
        self._outside = outside

    def held(self, client: int, rounds_done: int, gone: Collection[str]) -> tuple[str, ...]:
        """List what a client trains on.

        Args:
            client: 0 ...
            rounds_done: rounds done; later recordings are not there yet.
            gone: utterances that are deleted or withheld.
        """
        away, later = self._outside, self._timeline.later
        return tuple(
            u
            for u in self._train[client]
            if u not in away and u not in gone and later.get(u, 0) <= rounds_done
        )

    def reached(
        self, rounds_done: int, gone: Collection[str], absent: Collection[int] = ()
    ) -> dict[int, tuple[str, ...]]:
        """List what each client trains on that can be reached.

        Args:
            rounds_done: rounds done.
            gone: utterances that are deleted or withheld.
            absent: clients that do not count.

        Returns:
            empty where only one of several clients is left
        """
        held = {c: self.held(c, rounds_done, gone) for c in range(len(self._train))}
        holding = {c: ids for c, ids in held.items() if ids}
        away = {*self._timeline.away[rounds_done], *absent}
        there = {c: ids for c, ids in holding.items() if c not in away}
        return there if len(there) >= min(2, len(holding)) else {}

    def training(self, rounds_done: int, withheld: Collection[str]) -> dict[int, tuple[str, ...]]:
        """List what each client trains on that can be reached and has joined learning.

        Args:
            rounds_done: rounds done.
            withheld: utterances that no client trains on.

        Returns:
            as ``reached``
        """
        return self.reached(rounds_done, withheld, self._late.absent(rounds_done))

    def holding(self, round_: TimelineRound) -> dict[int, int]:
        """Count the training utterances in each vault at an unlearn step.

        Args:
            round_: of the timeline.
        """
        gone = self._timeline.purged(round_.timeline_round)
        return {c: len(self.held(c, round_.rounds_done, gone)) for c in range(len(self._train))}
