"""The verdict: the models of a run beside retrained ones, as plain data for results.json."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from torch import Tensor

from fedunlearn.evaluation.distances import jensen_shannon, kolmogorov_smirnov, tug_of_war, wasserstein
from fedunlearn.evaluation.fairness import fairness
from fedunlearn.evaluation.gap import NOTHING_TO_FORGET, Record, gap, noise_floor, rank, rho
from fedunlearn.evaluation.intervals import l1_interval
from fedunlearn.evaluation.judge import Judge, View
from fedunlearn.evaluation.resampling import Answers, differences

STAGES = ("original", "unlearned", "recovered")
CONTROLS = {"none": "original", "destroy": "destroy"}
"""control -> the model that stands for it"""


class Verdict:
    """Measures a run's models once, and compares them.

    Args:
        judge: who knows all speech.
        states: weights of ``STAGES`` and of "destroy" (random weights).
        retrained: weights of retrained models, one a seed, at least one.
        forget: D_f, the union of all requests' utterances.
        emotions: the class order.
        method: what made the models.
    """

    def __init__(
        self,
        judge: Judge,
        states: Mapping[str, Mapping[str, Tensor]],
        retrained: Sequence[Mapping[str, Tensor]],
        forget: Iterable[str],
        emotions: Sequence[str],
        method: str,
    ) -> None:
        self._judge, self._emotions, self._method = judge, emotions, method
        self._forget = list(forget)
        self._sets = judge.sets(self._forget)
        self._views = {name: judge.view(state) for name, state in states.items()}
        self._retrained = [judge.view(state) for state in retrained]
        self._records = {name: judge.measure(view, self._forget) for name, view in self._views.items()}
        self._references = [judge.measure(view, self._forget) for view in self._retrained]

    def as_results(self) -> dict[str, Any]:
        """Everything, by its name in results.json."""
        return {
            "models": self.models(),
            "gap": self.gaps(),
            "ranking": self.ranking(),
            "distances": self.distances(),
            "fairness": self.fairness(),
            "reversion": self.reversion(),
        }

    def models(self) -> dict[str, Any]:
        """``results.models``: each model alone; the retrained ones also seed by seed."""
        own = {name: self._records[name] for name in STAGES}
        return own | {"retrained": {**self._references[0], "seeds": self._references}}

    def gaps(self) -> dict[str, Any]:
        """``results.gap``: distances to the retrained models, with intervals, and the noise floor."""
        judged = {"unlearned": "unlearned", "recovered": "recovered", **CONTROLS}
        draws = self._judge.draws(self._sets)
        references = [self._answers(view) for view in self._retrained]
        found: dict[str, Any] = {}
        for name, model in judged.items():
            distance = gap(self._records[model], self._references)
            interval = l1_interval(*differences(draws, self._answers(self._views[model]), references))
            low, high = interval or (None, None)
            against = [gap(self._records[model], [r])["mean"] for r in self._references]
            found[name] = {**distance, "low": low, "high": high, "against": against}
        floor = noise_floor(self._references)
        times = rho(found["none"], floor)
        nothing = times is not None and times <= NOTHING_TO_FORGET
        return {**found, "noise_floor": floor, "rho": times, "nothing_to_forget": nothing}

    def ranking(self) -> Any:
        """``results.ranking``: the run's models and both controls, nearest to the retrained ones first."""
        named = {f"{stage} ({self._method})": self._records[stage] for stage in ("unlearned", "recovered")}
        controls: dict[str, Record] = {name: self._records[model] for name, model in CONTROLS.items()}
        return rank(named, controls, self._references, self._judge.classes, self._method)

    def distances(self) -> dict[str, Any]:
        """``results.distances``: by how models as wholes, and their answers on D_f, differ from retrained."""
        retrained = list(zip(self._retrained, self._references, strict=True))
        found: dict[str, Any] = {
            name: _mean_of([self._distance((view, self._records[name]), other) for other in retrained])
            for name, view in self._views.items()
        }
        pairs = [self._distance(a, b) for a, b in permutations(retrained, 2)]
        return found | {"retrained": _mean_of(pairs) if pairs else None}

    def fairness(self) -> dict[str, Any]:
        """``results.fairness``: what changed for those who stay, by speaker, emotion and gender."""
        mask, about = self._judge.staying(self._forget)
        predictions = {name: [self._views[name].predicted[mask].astype(np.int64)] for name in STAGES}
        predictions["retrained"] = [view.predicted[mask].astype(np.int64) for view in self._retrained]
        return dict(fairness(about, predictions, self._judge.labels[mask], self._emotions))

    def reversion(self) -> dict[str, Any]:
        """``results.reversion``: the recovered model's values less the unlearned one's."""
        before, after = (self._records[name] for name in ("unlearned", "recovered"))
        distances = [gap(record, self._references)["mean"] for record in (before, after)]
        return {
            "forget": _less(after["forget"]["accuracy"], before["forget"]["accuracy"]),
            "membership": _less(after["membership"]["auc"], before["membership"]["auc"]),
            "gap": _less(distances[1], distances[0]),
        }

    def _answers(self, view: View) -> list[Answers]:
        sets = self._sets
        return [self._judge.answers(view, mask) for mask in (sets.forget, sets.retain, sets.test)]

    def _distance(self, a: tuple[View, Record], b: tuple[View, Record]) -> dict[str, float | None]:
        gone, (one, record), (other, reference) = self._sets.forget, a, b
        return {
            "tow": tug_of_war(record, reference),
            "ks": kolmogorov_smirnov(one.losses[gone], other.losses[gone]),
            "wasserstein": wasserstein(one.losses[gone], other.losses[gone]),
            "js": jensen_shannon(one.probabilities[gone], other.probabilities[gone]),
        }


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean_of(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean by name; None where any is."""
    found: dict[str, float | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        known = [v for v in values if v is not None]
        found[name] = sum(known) / len(known) if len(known) == len(values) else None
    return found
