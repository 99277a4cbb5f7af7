"""The server's guard: what an unlearn update must be before it joins the global model.

Three bounds, in this order, each of which may be off: how long an update is, how long several are together,
and the damage it does. Damage is looked for in two ways, as the server has no speech: it asks those clients
that requested nothing how much of their held-out speech a candidate model gets right, and it shows the
candidate random features, to see whether it still calls any of them by each emotion. The second costs no
message and sees what overall accuracy hardly shows: one emotion that is no longer recognised. Whatever the
guard does is written down.

How far an honest update goes depends on the method, the corpus, the model and the size of the request. The
bounds are therefore measured in each unlearn step: some clients without a request rehearse it
(``rehearsals``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, median_low
from typing import Any, Literal

from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config.guard import GuardSettings
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import step

What = Literal["clipped", "scaled back", "refused"]

HALVINGS = (1.0, 0.5, 0.25, 0.125)
"""factors tried, one after another, on an update that does harm"""
MOST_SILENCED = 0.95
"""share of its probes that a class may lose at most: an attack on one class takes .98 to 1"""
_ALWAYS = 0.25
"""share of the distance travelled that the longest rehearsal counts as at least, as a few may all be short"""
_ALWAYS_SILENCED = 0.3
"""the same of the share of its probes that a class loses"""


@dataclass(frozen=True)
class Intervention:
    """One thing that the guard did, as results.json shows it.

    Attributes:
        round: the timeline round.
        client: whose update.
        requests: its ids.
        what: "clipped" (too long), "scaled back" (harmful), "refused" (either).
        norm: the update's length as it came to this check.
        limit: the longest allowed then; None = any.
        drop: accuracy lost on the held-out speech of clients without a request, by the update as it came to
            this check; None where they did not evaluate it.
        silenced: largest share of its probes that a class lost.
        factor: what is left of the update, in [0, 1); 0 = refused.
    """

    round: int
    client: int
    requests: tuple[str, ...]
    what: What
    norm: float
    limit: float | None
    drop: float | None
    silenced: float | None
    factor: float

    def as_row(self) -> dict[str, Any]:
        """Write it as plain data."""
        return {**vars(self), "requests": list(self.requests)}

    @property
    def reason(self) -> str:
        """Describe it in a few words."""
        if self.drop is None and self.silenced is None:
            return f"guard: {self.what}, {self.norm:.3g} long where {self.limit or math.inf:.3g} are allowed"
        found = [
            "" if self.drop is None else f"costs others {100 * self.drop:.1f} points of accuracy",
            "" if self.silenced is None else f"a class loses {self.silenced:.0%} of its probes",
        ]
        return f"guard: {self.what}, {'; '.join(f for f in found if f)}"


@dataclass(frozen=True)
class Harm:
    """What a candidate model has lost in comparison with the model before it.

    Attributes:
        drop: accuracy on the held-out speech of clients without a request; None = not measured.
        silenced: largest share of its probes that a class lost, in [0, 1]; None = not measured.
    """

    drop: float | None = None
    silenced: float | None = None


@dataclass(frozen=True)
class Limits:
    """What the updates of one unlearn step may be and do.

    A client that lies in its rehearsal can loosen them up to a point that depends on no rehearsal, and cannot
    tighten them: the longest and the most harmful of the rehearsals count. Past that point the median counts,
    as honest updates may be longer than the model has travelled, in the first rounds of learning, or take a
    class from it: more than half of the rehearsals would have to be false.

    Attributes:
        longest: largest L2 norm of one update; inf = any.
        together: that of the joint step of k updates, divided by sqrt(k); inf = any.
        furthest: the same divided by k; the smaller of both bounds holds.
        drop: largest loss of accuracy by one update; inf = any.
        silenced: largest share of its probes that a class may lose, in [0, 1].
    """

    longest: float
    together: float
    furthest: float
    drop: float
    silenced: float

    @classmethod
    def of(
        cls, settings: GuardSettings, rehearsals: Sequence[Rehearsal], distance: float, noise: float = 0.0
    ) -> "Limits":
        """Work out the limits of one unlearn step.

        Args:
            settings: the guard's.
            rehearsals: of the step; those that changed nothing do not count.
            distance: L2 norm of what learning has changed, over the trained weights; inf = not known.
            noise: the longest noise that an honest client adds to its update.
        """
        counted = [each for each in rehearsals if each.norm]
        norms, shares = [r.norm for r in counted] or [0.0], [r.silenced for r in counted]
        drops = [r.drop for r in counted if r.drop is not None] or [0.0]
        reach = max(*norms, _ALWAYS * distance + noise)

        more = settings.silenced
        silenced = MOST_SILENCED
        if counted:
            most = max(MOST_SILENCED, median_low(shares) + more)
            silenced = min(max(*shares, _ALWAYS_SILENCED) + more, most)

        def furthest(times: float) -> float:
            return max(distance + noise, times * median_low(norms))

        def bound(limit: float, setting: float) -> float:
            return limit if setting else math.inf

        return cls(
            longest=bound(min(settings.norm * reach, furthest(settings.norm)), settings.norm),
            together=bound(settings.together * reach, settings.together),
            furthest=bound(furthest(settings.together), settings.together),
            drop=bound(max(median(drops), 0.0) + settings.drop, settings.drop),
            silenced=silenced,
        )

    def longest_together(self, updates: int) -> float:
        """Return the largest L2 norm of the joint step of some updates.

        Args:
            updates: how many.
        """
        return min(math.sqrt(updates) * self.together, updates * self.furthest)

    def exceeded_by(self, harm: Harm, updates: int) -> bool:
        """Find out whether some updates do more harm than they may.

        Args:
            harm: what they do together.
            updates: how many.
        """
        drop = harm.drop is not None and harm.drop > updates * self.drop
        return drop or (harm.silenced is not None and harm.silenced > self.silenced)


class Guard:
    """Examines the updates of one unlearn step.

    Args:
        settings: which bounds are on, and what happens to an update above one.
        before: the global model that the updates start from.
        join: how these updates change it: the difference of the joint step.
        limits: of this step.
        accuracy: of a model on the held-out speech of clients without a request, in [0, 1]; None = unknown.
            Called only where ``settings.drop`` > 0.
        silenced: largest share of its probes that a class has lost in a model in comparison with ``before``.
    """

    def __init__(
        self,
        settings: GuardSettings,
        before: StateDict,
        join: Callable[[Sequence[Update]], Mapping[str, Tensor]],
        limits: Limits,
        accuracy: Callable[[StateDict], float | None],
        silenced: Callable[[StateDict], float],
    ) -> None:
        self._settings, self._before, self._join = settings, before, join
        self._limits, self._accuracy, self._silenced = limits, accuracy, silenced
        self._base: float | None = None

    def examine(
        self, updates: Sequence[Update], request_ids: Mapping[int, Sequence[str]], timeline_round: int
    ) -> tuple[list[Update], list[Intervention]]:
        """Examine the updates of a step.

        Args:
            updates: finite and of the model's form.
            request_ids: client -> ids of its requests.
            timeline_round: the timeline round.

        Returns:
            (the updates that may join, in client order; what was done to them and the others)
        """
        done: list[Intervention] = []

        def bounded(update: Update, limit: float, harm: Harm, factor: float) -> list[Update]:
            if factor < 1.0:
                looked = harm.drop is not None or harm.silenced is not None
                what: What = "refused" if not factor else "scaled back" if looked else "clipped"
                ids, longest = tuple(request_ids[update.client]), None if limit == math.inf else limit
                row = (
                    timeline_round,
                    update.client,
                    ids,
                    what,
                    update.norm,
                    longest,
                    harm.drop,
                    harm.silenced,
                )
                done.append(Intervention(*row, factor))
            return [_times(update, factor)] if factor else []

        passed, longest = list[Update](), self._limits.longest
        for update in sorted(updates, key=lambda u: u.client):
            factor = min(1.0, longest / update.norm) if update.norm else 1.0
            if factor < 1.0 and self._settings.too_long == "refuse":
                factor = 0.0
            for shorter in bounded(update, longest, Harm(), factor):
                factor, harm = self._harmless([shorter])
                passed += bounded(shorter, longest, harm, factor)
        if len(passed) > 1:
            longest = self._limits.longest_together(len(passed))
            length = Update(-1, 1, self._join(passed)).norm if longest < math.inf else 0.0
            factor = min(1.0, longest / length) if length else 1.0
            passed = [v for u in passed for v in bounded(u, longest, Harm(), factor)]
            factor, harm = self._harmless(passed)
            passed = [v for u in passed for v in bounded(u, longest, harm, factor)]
        return passed, done

    def _harmless(self, updates: Sequence[Update]) -> tuple[float, Harm]:
        """The largest factor at which these do no harm together (0: none), and what they do as they are."""
        worst = harm = self._harm(updates)
        if not self._limits.exceeded_by(harm, len(updates)):
            return 1.0, worst
        for factor in HALVINGS[1:] if self._settings.harmful == "scale" else ():
            harm = self._harm([_times(update, factor) for update in updates])
            if not self._limits.exceeded_by(harm, len(updates)):
                return factor, worst
        return 0.0, worst

    def _harm(self, updates: Sequence[Update]) -> Harm:
        # Honest joint steps silence an emotion at times, until recovery; a single one never did.
        alone = self._settings.silenced > 0 and len(updates) == 1
        if not self._settings.drop and not alone:
            return Harm()
        candidate = step(self._before, self._join(updates))
        drop = silenced = None
        if alone:
            silenced = self._silenced(candidate)
        if self._settings.drop:
            if self._base is None:
                self._base = self._accuracy(self._before)
            now = self._accuracy(candidate)
            drop = None if self._base is None or now is None else self._base - now
        return Harm(drop, silenced)


def _times(update: Update, factor: float) -> Update:
    if factor == 1.0:
        return update
    shorter = {name: (factor * value.double()).to(value.dtype) for name, value in update.difference.items()}
    return replace(update, difference=shorter)
