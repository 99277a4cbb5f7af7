"""The distance to the retrained model: the number that unlearning is judged by.

The target is the retrained model's value of each measure, not the lowest forget accuracy: a model that
does worse on the forget set than one that never saw it has been damaged, and betrays what it forgot.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypedDict

Record = Mapping[str, Any]
"""One model's measures, as in results.json ``models``."""

MEASURES = ("forget", "retain", "test", "membership")

LEAST_PROGRESS = 0.25
"""share of the way from doing nothing to the retrained model that a method has to go to be of use"""


class Gap(TypedDict):
    """Absolute differences, as fractions; ``mean`` over those that are known."""

    forget: float | None
    retain: float | None
    test: float | None
    membership: float | None
    mean: float | None


class Rank(TypedDict):
    """One line of the ranking."""

    name: str
    mean_gap: float | None
    useful: bool
    why: str


def gap(model: Record, reference: Record) -> Gap:
    """|model - reference| of forget, retain and test accuracy and membership AUC, and their mean."""
    parts = [_distance(_value(model, m), _value(reference, m)) for m in MEASURES]
    known = [p for p in parts if p is not None]
    mean = sum(known) / len(known) if known else None
    return {"forget": parts[0], "retain": parts[1], "test": parts[2], "membership": parts[3], "mean": mean}


def noise_floor(retrained: Sequence[Record]) -> Gap | None:
    """Mean gap between pairs of retrained models that differ in their seed alone; None with fewer than 2."""
    pairs = [gap(a, b) for a, b in combinations(retrained, 2)]
    if not pairs:
        return None
    return {
        "forget": _mean([p["forget"] for p in pairs]),
        "retain": _mean([p["retain"] for p in pairs]),
        "test": _mean([p["test"] for p in pairs]),
        "membership": _mean([p["membership"] for p in pairs]),
        "mean": _mean([p["mean"] for p in pairs]),
    }


def rank(
    models: Mapping[str, Record],
    controls: Mapping[str, Record],
    reference: Record,
    classes: int,
    method: str = "",
) -> list[Rank]:
    """Models and controls by mean gap, nearest first, each with a verdict.

    A model is useful if it
    - stands nearer to the retrained one than both controls do (doing nothing, random weights), and at least
      ``LEAST_PROGRESS`` nearer than doing nothing: recovery rounds alone move a model a little;
    - forgets: goes that share of the way in forget accuracy too, where there is a way to go;
    - still recognises: keeps at least half of the retrained model's test and of its retain accuracy above
      chance.

    Args:
        models: name -> record of what is judged.
        controls: "none" and "destroy" -> record.
        reference: the retrained model.
        classes: number of emotions; chance is 1 / classes.
        method: what made the models. One that is itself a control is never useful, whatever recovery did.
    """
    control_gaps = {name: gap(record, reference) for name, record in controls.items()}
    rows: list[Rank] = []
    for name, record in models.items():
        own = gap(record, reference)
        why = _objection(own, record, control_gaps, reference, classes)
        if method in controls:
            why = f"the method is itself a control: {_CONTROLS.get(method, method)}"
        rows.append(
            {"name": name, "mean_gap": own["mean"], "useful": not why, "why": why or "beats both controls"}
        )
    for name, own in control_gaps.items():
        what = _CONTROLS.get(name, name)
        rows.append(
            {
                "name": f"control: {name}",
                "mean_gap": own["mean"],
                "useful": False,
                "why": f"a control: {what}",
            }
        )
    return sorted(rows, key=lambda row: (row["mean_gap"] is None, row["mean_gap"] or 0.0))


_CONTROLS = {"none": "does nothing", "destroy": "random weights"}


def _objection(own: Gap, record: Record, controls: Mapping[str, Gap], reference: Record, classes: int) -> str:
    if own["mean"] is None:
        return "nothing to compare"
    for name, control in controls.items():
        if control["mean"] is not None and own["mean"] >= control["mean"]:
            return f"stands no nearer to the retrained model than the control {name}"
    nothing = controls.get("none")
    share = f"less than {LEAST_PROGRESS:.0%} of the way"
    if nothing and (nothing["forget"] or 0.0) > 0.01 and _too_little(own["forget"], nothing["forget"]):
        kept, wanted = _value(record, "forget"), _value(reference, "forget")
        if kept is not None and wanted is not None and kept < wanted:
            nearer = f"less than {LEAST_PROGRESS:.0%} nearer to it than before"
            return f"forgot too much: its forget accuracy is below the retrained model's, {nearer}"
        return f"forgot too little: its forget accuracy went {share} to the retrained model's"
    if nothing and _too_little(own["mean"], nothing["mean"]):
        return f"did too little: it went {share} from doing nothing to the retrained model"
    for measure in ("test", "retain"):
        kept, wanted = _value(record, measure), _value(reference, measure)
        if kept is not None and wanted is not None and kept - 1 / classes < 0.5 * (wanted - 1 / classes):
            return f"wrecked the recogniser: less than half of the {measure} accuracy above chance is left"
    return ""


def _too_little(own: float | None, nothing: float | None) -> bool:
    return own is not None and nothing is not None and own > (1.0 - LEAST_PROGRESS) * nothing


def _value(record: Record, measure: str) -> float | None:
    value: float | None = record[measure]["auc" if measure == "membership" else "accuracy"]
    return value


def _distance(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else abs(a - b)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
