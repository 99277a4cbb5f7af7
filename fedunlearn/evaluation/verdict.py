"""The verdict: the models of a run beside retrained ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import permutations

import numpy as np
from torch import Tensor

from fedunlearn.caveats import NOTHING_TO_FORGET
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.evaluation.collateral import mean_shift, shift, shift_between, spread
from fedunlearn.evaluation.distances import jensen_shannon, kolmogorov_smirnov, tug_of_war, wasserstein
from fedunlearn.evaluation.fairness import fairness
from fedunlearn.evaluation.gap import gap, noise_floor, rank, rho
from fedunlearn.evaluation.intervals import l1_interval
from fedunlearn.evaluation.judge import BooleanMask, Judge, View
from fedunlearn.evaluation.resampling import Answers, differences
from fedunlearn.evaluation.utterance_answers import list_answers
from fedunlearn.partition import Partition
from fedunlearn.results_schema import (
    CONTROLS,
    DOING_NOTHING,
    RANDOM_WEIGHTS,
    AccuracyGain,
    AnswerSpread,
    CollateralReport,
    CollateralShift,
    Distances,
    DistanceScores,
    FairnessReport,
    Gap,
    GapReport,
    Models,
    ModelScores,
    RankedModel,
    Reversion,
    ReversionStep,
    UtteranceReport,
)

STAGES = ("original", "unlearned", "recovered")


class Verdict:
    """Measures a run's models once, and compares them.

    Args:
        judge: evaluates the models.
        states: weights of ``STAGES`` and of the control with random weights.
        retrained: weights of retrained models, one a seed, at least one.
        forget: D_f, the union of all requests' utterances.
        emotions: the class order.
        method: name of the unlearning method.
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

    def models(self) -> Models:
        """``results.models``: each model alone; the retrained ones also seed by seed."""
        first = self._references[0]
        return Models(
            original=self._records["original"],
            unlearned=self._records["unlearned"],
            recovered=self._records["recovered"],
            retrained=first.model_copy(update={"seeds": self._references}),
        )

    def gaps(self) -> GapReport:
        """``results.gap``: distances to the retrained models, with intervals, and the noise floor."""
        draws = self._judge.draws(self._sets)
        references = [self._answers(view) for view in self._retrained]

        def measure(model: str) -> Gap:
            distance = gap(self._records[model], self._references)
            interval = l1_interval(*differences(draws, self._answers(self._views[model]), references))
            distance.low, distance.high = interval or (None, None)
            distance.against = [gap(self._records[model], [r]).mean for r in self._references]
            return distance

        none, floor = measure(DOING_NOTHING.model), noise_floor(self._references)
        times = rho(none, floor)
        return GapReport(
            unlearned=measure("unlearned"),
            recovered=measure("recovered"),
            none=none,
            destroy=measure(RANDOM_WEIGHTS.model),
            noise_floor=floor or Gap.empty(),
            rho=times,
            nothing_to_forget=times is not None and times <= NOTHING_TO_FORGET,
        )

    def ranking(self) -> list[RankedModel]:
        """``results.ranking``: the run's models and both controls, nearest to the retrained ones first."""
        named = {f"{stage} ({self._method})": self._records[stage] for stage in ("unlearned", "recovered")}
        controls = {name: self._records[control.model] for name, control in CONTROLS.items()}
        return rank(named, controls, self._references, self._judge.classes, self._method)

    def gain(self) -> AccuracyGain:
        """``results.gain``: test accuracy of the recovered model less the original's, by utterance."""
        labels = self._judge.labels[self._sets.test]
        after, before = (
            (self._views[name].predicted[self._sets.test] == labels).astype(np.float64)
            for name in ("recovered", DOING_NOTHING.model)
        )
        changes, n = after - before, len(labels)
        return AccuracyGain(
            difference=float(changes.mean()) if n else None,
            standard_error=float(changes.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
            n=n,
        )

    def distances(self) -> Distances:
        """``results.distances``: of models as wholes and of their predictions on D_f, to the retrained."""
        retrained = list(zip(self._retrained, self._references, strict=True))

        def to_retrained(name: str) -> DistanceScores:
            own = (self._views[name], self._records[name])
            return _mean_of([self._distance(own, other) for other in retrained])

        pairs = [self._distance(a, b) for a, b in permutations(retrained, 2)]
        return Distances(
            original=to_retrained("original"),
            unlearned=to_retrained("unlearned"),
            recovered=to_retrained("recovered"),
            destroy=to_retrained(RANDOM_WEIGHTS.model),
            retrained=_mean_of(pairs) if pairs else DistanceScores.empty(),
        )

    def fairness(self) -> FairnessReport:
        """``results.fairness``: what changed for those who stay, by speaker, emotion and gender."""
        mask, about = self._judge.staying(self._forget)
        predictions = {name: [self._views[name].predicted[mask].astype(np.int64)] for name in STAGES}
        predictions["retrained"] = [view.predicted[mask].astype(np.int64) for view in self._retrained]
        return fairness(about, predictions, self._judge.labels[mask], self._emotions)

    def collateral(self) -> CollateralReport:
        """``results.collateral``: how far answers move on held-out speech, and their spread on D_f."""
        gone, own_seeds = self._sets.forget, [view.log_odds for view in self._retrained]

        def moved(mask: BooleanMask) -> CollateralShift:
            before = self._views["original"].log_odds[mask]
            seeds = [log_odds[mask] for log_odds in own_seeds]
            return CollateralShift(
                unlearned=shift(before, self._views["unlearned"].log_odds[mask]),
                recovered=shift(before, self._views["recovered"].log_odds[mask]),
                retrained=mean_shift([shift(before, after) for after in seeds]),
                seeds=shift_between(seeds),
            )

        requesters, others = self._judge.held_out(self._forget)
        stages = {name: spread([self._views[name].log_odds[gone]]) for name in STAGES}
        retrained = spread([log_odds[gone] for log_odds in own_seeds])
        return CollateralReport(
            requesters=moved(requesters),
            others=moved(others),
            spread=AnswerSpread(**stages, retrained=retrained),
        )

    def answers(
        self, corpus: Corpus, partition: Partition, deleted: Mapping[str, str], asking: Collection[int]
    ) -> UtteranceReport:
        """``results.answers``: how each model answers single utterances.

        Args:
            corpus: of the run.
            partition: of the corpus.
            deleted: id of each utterance of D_f -> id of the request that deleted it.
            asking: clients with a request, whatever became of it.
        """
        views = {name: self._views[name] for name in STAGES}
        return list_answers(views, self._retrained, corpus, partition, deleted, asking)

    def reversion(self, steps: Sequence[ReversionStep]) -> Reversion:
        """``results.reversion``: the recovered model's values minus the unlearned one's.

        Args:
            steps: forget accuracy around each joint unlearn step.
        """
        before, after = (self._records[name] for name in ("unlearned", "recovered"))
        distances = [gap(record, self._references).mean for record in (before, after)]
        return Reversion(
            forget=_less(after.forget.accuracy, before.forget.accuracy),
            membership=_less(after.membership.auc, before.membership.auc),
            gap=_less(distances[1], distances[0]),
            steps=list(steps),
        )

    def _answers(self, view: View) -> list[Answers]:
        sets = self._sets
        return [self._judge.answers(view, mask) for mask in (sets.forget, sets.retain, sets.test)]

    def _distance(self, a: tuple[View, ModelScores], b: tuple[View, ModelScores]) -> DistanceScores:
        gone, (one, scores), (other, reference) = self._sets.forget, a, b
        return DistanceScores(
            tow=tug_of_war(scores, reference),
            ks=kolmogorov_smirnov(one.losses[gone], other.losses[gone]),
            wasserstein=wasserstein(one.losses[gone], other.losses[gone]),
            js=jensen_shannon(one.probabilities[gone], other.probabilities[gone]),
        )


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean_of(rows: Sequence[DistanceScores]) -> DistanceScores:
    """The mean of each distance; None where any is."""
    return DistanceScores(
        tow=_mean([row.tow for row in rows]),
        ks=_mean([row.ks for row in rows]),
        wasserstein=_mean([row.wasserstein for row in rows]),
        js=_mean([row.js for row in rows]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
