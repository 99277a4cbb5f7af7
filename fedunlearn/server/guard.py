"""The server's guard: what an unlearn update must be before it joins the global model.

Three bounds, in this order, each of which may be off: how long an update is, how long several are together
(both against the recent ordinary updates), and the damage it does. Damage is looked for in two ways, as the
server has no speech: it asks those clients that requested nothing how much of their held-out speech a
candidate model gets right, and it shows the candidate random features, to see whether it still calls any of
them by each emotion. The second costs no message and sees what overall accuracy hardly shows: one emotion
that is no longer recognised. Whatever the guard does is written down.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config.guard import GuardSettings
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import torch_rng_for
from fedunlearn.server.aggregation import step

What = Literal["clipped", "scaled back", "refused"]

HALVINGS = (1.0, 0.5, 0.25, 0.125)
"""factors tried, one after another, on an update that does harm"""
_PROBES = 4096
_LONG_PROBES = 1024
"""of models that read more than one frame, where each costs more"""
_PROBE_SECONDS = 2.0
"""frames of a probe, where the model reads more than one"""
_FEWEST = 0.02
"""share of probes that a class must have had before one can say that it lost them"""


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

    def too_much(self, settings: GuardSettings, updates: int) -> bool:
        """Find out whether it is more than some updates may do together.

        Args:
            settings: the guard's bounds.
            updates: how many.
        """
        drop = self.drop is not None and self.drop > updates * settings.drop
        return drop or (self.silenced is not None and self.silenced > settings.silenced)


class Guard:
    """Examines the updates of one unlearn step.

    Args:
        settings: its bounds.
        before: the global model that the updates start from.
        join: how these updates change it: the difference of the joint step.
        usual: median length of the last ordinary differences of clients without a request; inf = none known.
        accuracy: of a model on the held-out speech of clients without a request, in [0, 1]; None = unknown.
            Called only where ``settings.drop`` > 0.
        silenced: largest share of its probes that a class has lost in a model in comparison with ``before``.
    """

    def __init__(
        self,
        settings: GuardSettings,
        before: StateDict,
        join: Callable[[Sequence[Update]], Mapping[str, Tensor]],
        usual: float,
        accuracy: Callable[[StateDict], float | None],
        silenced: Callable[[StateDict], float],
    ) -> None:
        self._settings, self._before, self._join = settings, before, join
        usual = usual or math.inf  # no ordinary update yet: nothing to compare with
        self._longest = settings.norm * usual if settings.norm else math.inf
        self._longest_together = settings.together * usual if settings.together else math.inf
        self._accuracy, self._silenced = accuracy, silenced
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

        passed: list[Update] = []
        for update in sorted(updates, key=lambda u: u.client):
            factor = min(1.0, self._longest / update.norm) if update.norm else 1.0
            if factor < 1.0 and self._settings.too_long == "refuse":
                factor = 0.0
            for shorter in bounded(update, self._longest, Harm(), factor):
                factor, harm = self._harmless([shorter])
                passed += bounded(shorter, self._longest, harm, factor)
        if len(passed) > 1:
            factor = self._shorter_together(passed)
            passed = [v for u in passed for v in bounded(u, self._longest_together, Harm(), factor)]
            factor, harm = self._harmless(passed)
            passed = [v for u in passed for v in bounded(u, self._longest_together, harm, factor)]
        return passed, done

    def _shorter_together(self, updates: Sequence[Update]) -> float:
        if self._longest_together == math.inf:
            return 1.0
        length = Update(-1, 1, self._join(updates)).norm
        return min(1.0, self._longest_together / length) if length else 1.0

    def _harmless(self, updates: Sequence[Update]) -> tuple[float, Harm]:
        """The largest factor at which these do no harm together (0: none), and what they do as they are."""
        worst = harm = self._harm(updates)
        if not harm.too_much(self._settings, len(updates)):
            return 1.0, worst
        for factor in HALVINGS[1:] if self._settings.harmful == "scale" else ():
            harm = self._harm([_times(update, factor) for update in updates])
            if not harm.too_much(self._settings, len(updates)):
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


class Probes:
    """Random features, distributed as a model's normalisation constants say that speech is.

    Args:
        model: any of the run's kind.
        before: the weights to compare with.
        seed: of the run.
    """

    def __init__(self, model: EmotionModel, before: StateDict, seed: int) -> None:
        self._model = model = copy.deepcopy(model).eval()
        model.load_state_dict(before)
        frames = 1 if model.frame_seconds is None else round(_PROBE_SECONDS / model.frame_seconds)
        count = _PROBES if frames == 1 else _LONG_PROBES
        self._probes = model.noise(count, frames, torch_rng_for(seed, "guard", "probes"))
        self._called = self._calls()

    def silenced(self, candidate: StateDict) -> float:
        """Compute the largest share of its probes that a class loses, of the classes that had enough.

        Args:
            candidate: weights of the candidate model.

        Returns:
            in [0, 1]
        """
        self._model.load_state_dict(candidate)
        judged = self._called >= _FEWEST * len(self._probes)
        if not bool(judged.any()):
            return 0.0
        left = self._calls()[judged] / self._called[judged]
        return max(0.0, 1.0 - float(left.min()))

    @torch.inference_mode()
    def _calls(self) -> Tensor:
        calls = self._model.answers_to(self._probes).argmax(1)
        return calls.bincount(minlength=self._model.classes).double()


def _times(update: Update, factor: float) -> Update:
    if factor == 1.0:
        return update
    shorter = {name: (factor * value.double()).to(value.dtype) for name, value in update.difference.items()}
    return replace(update, difference=shorter)
