"""A finished cell as rows of compare.csv: one for each of its four models."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedunlearn.study.grid import Cell
from fedunlearn.unlearning import method_named


def rows_of(cell: Cell, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one cell.

    Args:
        cell: as it was asked for.
        results: the fields of its results.json that the bench keeps.

    Yields:
        ``report.comparison.COLUMNS``, and of the retrained model ``seeds``: forget and retain accuracy with
        each seed. "gap" of the original is that of doing nothing, "gap" of the retrained model the noise
        floor; what a row has no value for is None.
    """
    cost, gap, models = results["cost"], results["gap"], results["models"]
    recovery = results["config"]["recovery"]
    floor = gap["noise_floor"] or dict.fromkeys(("forget", "retain", "test", "membership", "mean"))
    unlearning = cost["unlearn"]["client_seconds"]
    stages = {
        "original": (gap["none"], 0.0),
        "unlearned": (gap["unlearned"], unlearning),
        "recovered": (gap["recovered"], unlearning + cost["recover"]["client_seconds"]),
        "retrained": (floor, cost["retrain"]["client_seconds"]),
    }
    for stage, (distance, seconds) in stages.items():
        model = models[stage]
        yield {
            "method": cell.variant.name,
            "sees": method_named(cell.variant.algorithm).sees,
            "model": results["config"]["model"]["name"],
            "corpus": results["corpus"]["name"],
            "forget_size": cell.size,
            "requesters": cell.requesters,
            "aggregation": cell.aggregation,
            "recovery": cell.recovery,
            "seed": cell.seed,
            "stage": stage,
            "forget": model["forget"]["accuracy"],
            "retain": model["retain"]["accuracy"],
            "test": model["test"]["accuracy"],
            "unseen": model["unseen"]["uar"],
            "membership": model["membership"]["auc"],
            "gap": distance["mean"],
            "client_seconds": seconds,
            "algorithm": cell.variant.algorithm,
            "settings": cell.variant.written,
            "recovery_rounds": recovery["rounds"],
            "recovery_epochs": recovery["epochs"],
            "recovery_lr": recovery["lr"],
            "reversion": _came_back(models, stage, "forget", "accuracy"),
            "reversion_membership": _came_back(models, stage, "membership", "auc"),
            "gap_forget": distance["forget"],
            "gap_retain": distance["retain"],
            "gap_test": distance["test"],
            "gap_membership": distance["membership"],
            "noise_floor": floor["mean"],
            "original": results["references"]["original"],
            "scalars": " ".join(
                sorted({s for r in results["requests"] for s in r.get("scalars_read") or ()})
            ),
            "window": cell.window,
            "rounds_waited_mean": _mean([r["rounds_waited"] for r in results["requests"]]),
            "seeds": _accuracies(model["seeds"]) if stage == "retrained" else [],
        }


def _accuracies(models: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(m["forget"]["accuracy"], m["retain"]["accuracy"]) for m in models]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _came_back(models: Mapping[str, Any], stage: str, measure: str, key: str) -> float | None:
    """The measure after recovery less that right after unlearning."""
    after, before = models["recovered"][measure][key], models["unlearned"][measure][key]
    return None if stage != "recovered" or after is None or before is None else after - before
