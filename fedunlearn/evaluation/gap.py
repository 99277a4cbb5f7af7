"""The distance to retrained models: the number that unlearning is judged by.

Retrained models that differ only in their seed differ from each other, too: that is the noise floor. So the
gap of a model is its mean distance to each of them, which another retrained model would have as well.

The target is the retrained model's value of each measure, not the lowest forget accuracy: a model that
does worse on the forget set than one that never saw it has been damaged, and reveals what it forgot.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from fedunlearn.results_schema import CONTROLS, DOING_NOTHING, Gap, ModelScores, RankedModel
from fedunlearn.unlearning import CONTROLS as CONTROL_METHODS

MEASURES = ("forget", "retain", "test", "membership")

LEAST_PROGRESS = 0.25
"""share of the way from doing nothing to the retrained model that a method has to go to be of use"""

_ROUNDING = 1e-9
"""below any difference of one utterance: equal numbers, summed in another order"""


def gap(model: ModelScores, references: Sequence[ModelScores]) -> Gap:
    """|model - reference| of forget, retain and test accuracy and membership AUC, and their mean.

    Args:
        model: what is judged.
        references: retrained models, one a seed; each distance is the mean over them. None without any.
    """
    parts = [_mean([_distance(_value(model, m), _value(r, m)) for r in references]) for m in MEASURES]
    forget, retain, test, membership = parts
    return Gap(forget=forget, retain=retain, test=test, membership=membership, mean=_mean(parts))


def noise_floor(retrained: Sequence[ModelScores]) -> Gap | None:
    """Mean gap between pairs of retrained models that differ in their seed alone; None with fewer than 2."""
    pairs = [gap(a, [b]) for a, b in combinations(retrained, 2)]
    if not pairs:
        return None
    return Gap(
        forget=_mean([p.forget for p in pairs]),
        retain=_mean([p.retain for p in pairs]),
        test=_mean([p.test for p in pairs]),
        membership=_mean([p.membership for p in pairs]),
        mean=_mean([p.mean for p in pairs]),
    )


def rho(original: Gap, floor: Gap | None) -> float | None:
    """The original's gap as a multiple of the noise floor.

    Near 1 there is nothing to forget: the original is as near to the retrained models as they are to each
    other. None where there is no floor; where the floor is zero, 1 if the gap is zero, too, else None.

    Args:
        original: its gap.
        floor: the noise floor.
    """
    if floor is None or floor.mean is None or original.mean is None:
        return None
    if floor.mean <= _ROUNDING:
        return 1.0 if original.mean <= _ROUNDING else None
    return original.mean / floor.mean


def rank(
    models: Mapping[str, ModelScores],
    controls: Mapping[str, ModelScores],
    references: Sequence[ModelScores],
    classes: int,
    method: str = "",
) -> list[RankedModel]:
    """Models and controls by mean gap, nearest first, each with a verdict.

    A model is useful if it
    - is nearer to the retrained models than both controls (doing nothing, random weights), and at least
      ``LEAST_PROGRESS`` nearer than doing nothing: recovery rounds alone move a model a little;
    - forgets: its forget accuracy goes that share of the way, too, where there is a way to go, and not below
      half of the retrained models' forget accuracy;
    - still recognises emotions: it keeps at least half of the retrained model's test and of its retain
      accuracy above chance.

    Args:
        models: name -> scores of what is judged.
        controls: names of ``CONTROLS`` -> scores.
        references: the retrained models, one a seed.
        classes: number of emotions; chance is 1 / classes.
        method: what made the models. One that is itself a control is never useful, whatever recovery did.
    """
    control_gaps = {name: gap(record, references) for name, record in controls.items()}

    original = controls.get(DOING_NOTHING.name, ModelScores.empty())

    def row(name: str, record: ModelScores, useful: bool, why: str) -> RankedModel:
        return RankedModel(
            name=name,
            mean_gap=gap(record, references).mean,
            forgetting=forgetting(record, original, references),
            retention=retention(record, references, classes),
            useful=useful,
            why=why,
        )

    rows: list[RankedModel] = []
    for name, record in models.items():
        why = _objection(gap(record, references), record, control_gaps, references, classes)
        if method in controls:
            why = f"the method is itself a control: {CONTROLS[method].verdict}"
        elif method in CONTROL_METHODS:
            why = f"the method is itself a control: it {CONTROL_METHODS[method].control}"
        rows.append(row(name, record, not why, why or "beats both controls"))
    for name, record in controls.items():
        rows.append(row(f"control: {name}", record, False, f"a control: {CONTROLS[name].verdict}"))
    return sorted(rows, key=lambda row: (row.mean_gap is None, row.mean_gap or 0.0))


def forgetting(model: ModelScores, original: ModelScores, references: Sequence[ModelScores]) -> float | None:
    """Share of the way from the original's forget accuracy to the retrained models'.

    0 = none of it, 1 = as if retrained, above 1 = it forgot more than that and is damaged; None where there
    is no way to go.
    """
    start, end = _value(original, "forget"), _mean([_value(r, "forget") for r in references])
    here = _value(model, "forget")
    if start is None or end is None or here is None or start - end <= _ROUNDING:
        return None
    return (start - here) / (start - end)


def retention(model: ModelScores, references: Sequence[ModelScores], classes: int) -> float | None:
    """Share of the retrained models' accuracy above chance that is kept, the mean of retain and test.

    Each is in [0, 1]; None where the retrained models are at chance.
    """
    shares = []
    for measure in ("retain", "test"):
        kept, wanted = _value(model, measure), _mean([_value(r, measure) for r in references])
        if kept is not None and wanted is not None and wanted > 1 / classes:
            shares.append(min(1.0, max(0.0, (kept - 1 / classes) / (wanted - 1 / classes))))
    return _mean(shares)


def _objection(
    own: Gap,
    record: ModelScores,
    controls: Mapping[str, Gap],
    references: Sequence[ModelScores],
    classes: int,
) -> str:
    if own.mean is None:
        return "nothing to compare"
    for name, control in controls.items():
        if control.mean is not None and own.mean >= control.mean:
            return f"stands no nearer to the retrained model than the control {name}"
    nothing = controls.get(DOING_NOTHING.name)
    if _too_much(record, references):
        return "forgot too much: less than half of the retrained models' forget accuracy is left"
    share = f"less than {LEAST_PROGRESS:.0%} of the way"
    if nothing and (nothing.forget or 0.0) > 0.01 and _too_little(own.forget, nothing.forget):
        kept, wanted = _value(record, "forget"), _mean([_value(r, "forget") for r in references])
        if kept is not None and wanted is not None and kept < wanted:
            nearer = f"less than {LEAST_PROGRESS:.0%} nearer to it than before"
            return f"forgot too much: its forget accuracy is below the retrained model's, {nearer}"
        return f"forgot too little: its forget accuracy went {share} to the retrained model's"
    if nothing and _too_little(own.mean, nothing.mean):
        return f"did too little: it went {share} from doing nothing to the retrained model"
    for measure in ("test", "retain"):
        kept, wanted = _value(record, measure), _mean([_value(r, measure) for r in references])
        if kept is not None and wanted is not None and kept - 1 / classes < 0.5 * (wanted - 1 / classes):
            return f"wrecked the recogniser: less than half of the {measure} accuracy above chance is left"
    return ""


def _too_much(record: ModelScores, references: Sequence[ModelScores]) -> bool:
    """Less than half of the forget accuracy is left, by more than two standard errors."""
    kept, wanted = _value(record, "forget"), _mean([_value(r, "forget") for r in references])
    if kept is None or wanted is None or kept >= wanted / 2:
        return False
    return wanted - kept > 2 * math.sqrt(wanted * (1 - wanted) / max(1, record.forget.n or 0))


def _too_little(own: float | None, nothing: float | None) -> bool:
    return own is not None and nothing is not None and own > (1.0 - LEAST_PROGRESS) * nothing


def _value(record: ModelScores, measure: str) -> float | None:
    values = {
        "forget": record.forget.accuracy,
        "retain": record.retain.accuracy,
        "test": record.test.accuracy,
        "membership": record.membership.auc,
    }
    return values[measure]


def _distance(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else abs(a - b)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
